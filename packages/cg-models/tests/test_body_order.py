"""How many beads at once a network's energy knows of, on environments made to tell.

Four equal beads on a circle around bead 0, at multiples of 45 degrees: {0, 1, 3, 4} and {0, 1, 2, 5} have the same six angles
between them, so the same sets of pairs and of triples with the centre, and are neither rotations nor mirror images of each other.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from cg_models.backbones.allegro.config import AllegroConfig
from cg_models.backbones.mace.config import MaceConfig
from cg_models.backbones.pair.config import PairConfig
from cg_models.config import ModelConfig
from cg_models.hybrid import build_model
from cg_models.statistics import ModelStatistics
from cg_models.testing import CUTOFF, SPECIES, chain_graph

FIRST, SECOND = (0, 1, 3, 4), (0, 1, 2, 5)
MACE = MaceConfig(layers=1, num_features=3, embed=2, num_radial=3, mlp_n_hidden=6, mlp_n_layers=1)
ALLEGRO = AllegroConfig(layers=2, num_radial=3, num_features=3, mlp_n_hidden=8, mlp_n_layers=1)


def with_correlation(correlation):
    return MACE.model_copy(update={"correlation": correlation})


def model_of(backbone):
    config = ModelConfig(mode="backbone", cutoff_angstrom=CUTOFF, precision="float64", backbone=backbone)
    return build_model(config, SPECIES, None, ModelStatistics(avg_num_neighbors=4.0))


def of_unit_weights(params):
    """Fresh weights of mace by species and of its radial input are small; what they let it see would be too."""
    (module,) = params["backbone"]
    small = ("embed", "skip_0", "radial_0_0")
    weights = params["backbone"][module]
    return {"backbone": {module: {name: w / w.std() if name in small else w for name, w in weights.items()}}}


@functools.cache
def compiled(backbone):
    model = model_of(backbone)
    if getattr(backbone, "correlation", 3) == 3:
        return jax.jit(model.energy), of_unit_weights(model.init(jax.random.key(2)))
    # A lower correlation has the first of the polynomials: one compiled network serves all, the others' weights at zero.
    energy, params = compiled(with_correlation(3))
    (module,) = params["backbone"]
    count = jax.eval_shape(model.init, jax.random.key(0))["backbone"][module]["product_0"].shape[1]
    weights = params["backbone"][module]
    product = weights["product_0"]
    assert count < product.shape[1]
    return energy, {"backbone": {module: {**weights, "product_0": product.at[:, count:].set(0)}}}


def central_energy(backbone, eighths, seen=(1, 2, 3, 4), radius=4.0):
    """Return the energy of bead 0 when it sees those of its four neighbours, at multiples of 45 degrees, that are in `seen`."""
    angles = np.pi / 4 * np.asarray(eighths)
    around = radius * np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1)
    graph = chain_graph(np.concatenate([np.zeros((1, 3)), around]))
    used = graph.edge_mask & ((graph.receivers != 0) | np.isin(graph.senders, seen))
    graph = dataclasses.replace(graph, species=np.ones_like(graph.species), edge_mask=used)
    energy, params = compiled(backbone)
    return float(energy(params, graph)[0])


def beyond_pairs(backbone, eighths):
    """Return the part of the central bead's energy that is not a sum over its neighbours."""
    nobody = central_energy(backbone, eighths, ())
    pairs = sum(central_energy(backbone, eighths, (bead,)) - nobody for bead in (1, 2, 3, 4))
    return central_energy(backbone, eighths) - nobody - pairs


@pytest.mark.parametrize(
    "backbone", [PairConfig(num_radial=3, mlp_n_hidden=6), with_correlation(1)], ids=["pair", "mace with correlation 1"]
)
def test_energies_of_body_order_two_are_sums_over_pairs(backbone):
    assert abs(beyond_pairs(backbone, FIRST)) < 1e-12
    assert abs(central_energy(backbone, FIRST) - central_energy(backbone, FIRST, ())) > 1e-3


@pytest.mark.parametrize("backbone", [with_correlation(2), ALLEGRO], ids=["mace with correlation 2", "allegro"])
def test_energies_of_body_order_three_see_angles(backbone):
    assert abs(beyond_pairs(backbone, FIRST)) > 1e-3
    assert abs(central_energy(backbone, FIRST) - central_energy(backbone, (0, 2, 4, 6))) > 1e-3


def test_mace_with_correlation_2_cannot_tell_environments_of_equal_triples():
    backbone = with_correlation(2)
    assert central_energy(backbone, FIRST) == pytest.approx(central_energy(backbone, SECOND), rel=1e-12)


@pytest.mark.parametrize("backbone", [with_correlation(3), ALLEGRO], ids=["mace with correlation 3", "allegro"])
def test_higher_body_order_tells_environments_of_equal_triples(backbone):
    assert abs(central_energy(backbone, FIRST) - central_energy(backbone, SECOND)) > 1e-4
