"""PaiNN against SchNetPack 2.0.4: the same weights give the same energies and forces.

references/schnetpack.npz holds a small random model of SchNetPack, with biases, its inputs and its results;
references/make_schnetpack.py wrote it.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.topology import frame_graph
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.hybrid import build_model
from cg_models.layers import SILU_GAIN
from cg_models.statistics import ModelStatistics

CUTOFF, WIDTH = 9.0, 4


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "references" / "schnetpack.npz") as file:
        return {name: file[name] for name in file.files}


def translated(reference):
    """Return SchNetPack's weights under our names: ours are divided by the root of the fan-in, and our silu has a gain."""

    def dense(ours, theirs, order=(0,), gain=1.0):
        """A layer whose outputs come in blocks, in our order of theirs."""
        weights, bias = (reference[f"state/{theirs}.{kind}"] for kind in ("weight", "bias"))
        weights, bias = (np.concatenate([np.split(x, len(order))[block] for block in order]) for x in (weights, bias))
        return {ours: weights.T * np.sqrt(weights.shape[1]) / gain, f"{ours}_bias": bias}

    found = {"embed": reference["state/embedding.weight"][1:]}
    filters, biases = (np.split(reference[f"state/filter_net.{kind}"], 2) for kind in ("weight", "bias"))
    for layer in range(2):
        # They: scalars, directions, vectors. We: scalars, vectors, directions.
        of_layer = {f"state/f.{kind}": x for kind, x in (("weight", filters[layer] / np.sqrt(2 / CUTOFF)), ("bias", biases[layer]))}
        reference = reference | of_layer
        found |= dense(f"filter_{layer}", "f", (0, 2, 1))
        context = f"interactions.{layer}.interatomic_context_net"
        found |= dense(f"message_{layer}_0", f"{context}.0") | dense(f"message_{layer}_1", f"{context}.1", (0, 2, 1), SILU_GAIN)
        normed, gated = np.split(reference[f"state/mixing.{layer}.mu_channel_mix.weight"], 2)
        found |= {f"update_u_{layer}": gated.T * np.sqrt(WIDTH), f"update_v_{layer}": normed.T * np.sqrt(WIDTH)}
        # They: scalars, gates of vectors, products. We: scalars, products, gates of vectors.
        context = f"mixing.{layer}.intraatomic_context_net"
        found |= dense(f"update_{layer}_0", f"{context}.0") | dense(f"update_{layer}_1", f"{context}.1", (0, 2, 1), SILU_GAIN)
    found |= dense("readout_0", "readout.0") | dense("readout_1", "readout.1", gain=SILU_GAIN)
    return found | {"energy_scale": np.ones(()), "species_offset": np.zeros(4)}


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_energies_and_forces_are_those_of_schnetpack(reference, precision, tolerance):
    options = {"kind": "painn", "layers": 2, "num_features": WIDTH, "num_radial": 5, "mlp_n_hidden": 6}
    config = ModelConfig.parse({"mode": "backbone", "cutoff_angstrom": CUTOFF, "precision": precision, "backbone": options}, "test")
    model = build_model(config, ("A", "B", "C", "D"), None, ModelStatistics(avg_num_neighbors=1.0))
    weights = translated(reference)
    (module,) = (expected := jax.eval_shape(model.init, jax.random.key(0))["backbone"])
    assert {name: leaf.shape for name, leaf in expected[module].items()} == {name: value.shape for name, value in weights.items()}
    params = {"backbone": {module: {name: jnp.asarray(value, precision) for name, value in weights.items()}}}
    index = np.arange(9, dtype=np.int32)
    graph = frame_graph(reference["positions"].astype(precision), reference["species"], index, index * 0, CUTOFF)
    energies, forces = jax.jit(energy_and_forces(model.energy))(params, graph)
    for ours, theirs in ((energies, reference["energies"]), (forces, reference["forces"])):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
