from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.contracts import BeadGraph
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces, energy_forces_and_virial
from cg_models.graph import flat, in_rows
from cg_models.hybrid import Model, build_model
from cg_models.precision import low_precision
from cg_models.statistics import ModelStatistics
from cg_models.testing import CUTOFF, SPECIES, chain_graph, random_chain

PARAMS = {"w": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)}
SMALL = {
    "allegro": {"num_radial": 6, "num_features": 8, "mlp_n_hidden": 16},
    "mace": {"num_features": 8, "embed": 8, "mlp_n_hidden": 16, "mlp_n_layers": 1},
    "painn": {"num_features": 16},
    "pair": {},
}


@pytest.fixture(scope="module")
def graph() -> BeadGraph:
    return chain_graph(random_chain(12).astype(np.float32))


def built(kind: str) -> Model:
    config = ModelConfig.parse({"mode": "backbone", "cutoff_angstrom": CUTOFF, "backbone": {"kind": kind, **SMALL[kind]}}, "test")
    return build_model(config, SPECIES, None, ModelStatistics(avg_num_neighbors=6.0))


def network(params: dict, graph: BeadGraph) -> jax.Array:
    """A matrix product inside a compiled function, and geometry outside of it."""
    hidden = jax.jit(lambda x: jnp.tanh(x @ params["w"]))(graph.positions * 0.1)
    return jnp.where(graph.bead_mask, (hidden @ jnp.ones(8, hidden.dtype)) + (graph.positions**2).sum(-1), 0)


def geometry(params: dict, graph: BeadGraph) -> jax.Array:
    return (graph.positions**2).sum(-1)


@pytest.mark.parametrize(("matmul", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_only_matrix_products_are_rounded(graph: BeadGraph, matmul: str, bits: int) -> None:
    exact, low = network(PARAMS, graph), low_precision(network, matmul)(PARAMS, graph)
    difference = float(jnp.abs(exact - low).max())
    assert 2.0 ** (-bits - 6) < difference < 30 * 2.0**-bits
    assert low.dtype == exact.dtype
    np.testing.assert_array_equal(low_precision(geometry, matmul)(PARAMS, graph), geometry(PARAMS, graph))
    assert low_precision(network, "float32") is network


@pytest.mark.parametrize("kind", SMALL)
def test_forces_of_every_backbone_are_within_a_few_roundings_in_bfloat16(graph: BeadGraph, kind: str) -> None:
    model = built(kind)
    params = model.init(jax.random.key(0))
    energies = (model.energy, low_precision(model.energy, "bfloat16"))
    exact, low = (np.asarray(jax.jit(energy_and_forces(energy))(params, graph)[1]) for energy in energies)
    error = np.sqrt(((low - exact) ** 2).mean() / (exact**2).mean())
    assert 1e-5 < error < 10 * 2.0**-8
    assert low.dtype == np.float32


def products(jaxpr) -> list:
    """The precision of every product of a traced program, those of inner functions included."""
    found = []
    for equation in jaxpr.eqns:
        found += [equation.params["precision"]] if equation.primitive.name == "dot_general" else []
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, "eqns") or hasattr(value, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                found += products(getattr(inner, "jaxpr", inner))
    return found


@pytest.mark.parametrize("layout", [flat, in_rows])
@pytest.mark.parametrize("kind", SMALL)
def test_a_gpu_rounds_no_product_of_float32(graph: BeadGraph, kind: str, layout: Callable[[BeadGraph], BeadGraph]) -> None:
    model = built(kind)
    derive = energy_forces_and_virial(model.energy, 1)

    def loss(params: dict) -> jax.Array:
        _, forces, virials = derive(params, layout(graph))
        return (forces**2).sum() + (virials**2).sum()

    found = products(jax.make_jaxpr(jax.grad(loss))(jax.eval_shape(model.init, jax.random.key(0))).jaxpr)
    assert len(found) > 20
    assert set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.parametrize("layout", [flat, in_rows])
@pytest.mark.parametrize(("kind", "of_harmonics"), [("allegro", 2), ("mace", 2), ("painn", 0), ("pair", 0)])
def test_low_precision_reaches_every_product_but_those_of_spherical_harmonics(
    graph: BeadGraph, kind: str, of_harmonics: int, layout: Callable[[BeadGraph], BeadGraph]
) -> None:
    model = built(kind)
    arguments = jax.eval_shape(model.init, jax.random.key(0)), layout(graph)
    found = products(jax.make_jaxpr(low_precision(model.energy, "tensorfloat32"))(*arguments).jaxpr)
    assert len(found) == len(products(jax.make_jaxpr(model.energy)(*arguments).jaxpr)) > 5
    assert found.count((jax.lax.Precision.HIGHEST,) * 2) == of_harmonics
    assert found.count((jax.lax.Precision.DEFAULT,) * 2) == len(found) - of_harmonics
