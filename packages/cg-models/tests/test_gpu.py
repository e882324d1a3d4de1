"""A GPU computes what a CPU does. On a machine with one: `pytest packages/cg-models/tests/test_gpu.py`."""

import importlib.util

import jax
import numpy as np
import pytest

from cg_models.backbones.registry import BACKBONES
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.graph import in_rows
from cg_models.hybrid import build_model
from cg_models.statistics import ModelStatistics
from cg_models.testing import CUTOFF, SPECIES, assert_close, chain_graph, random_chain

has_gpu = any(device.platform == "gpu" for device in jax.devices())
has_kernels = importlib.util.find_spec("cuequivariance_ops_jax") is not None
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_gpu, reason="needs a GPU")]

TOLERANCES = {"float64": 1e-11, "float32": 2e-5}


def evaluate(kind, precision, device, graph, **options):
    """Return energies, forces and the gradient of the mean squared force, computed on the first such device."""
    config = {"mode": "backbone", "cutoff_angstrom": CUTOFF, "backbone": {"kind": kind, **options}}
    exact, model = (
        build_model(ModelConfig.parse({**config, "precision": of}, "test"), SPECIES, None, ModelStatistics(avg_num_neighbors=6.0))
        for of in ("float64", precision)
    )
    with jax.default_device(jax.devices("cpu")[0]):
        params = exact.init(jax.random.key(3))

    def cast(leaf):
        return np.asarray(leaf, precision) if np.issubdtype(leaf.dtype, np.floating) else np.asarray(leaf)

    params, graph = jax.tree.map(cast, (params, graph))
    derive = energy_and_forces(model.energy)

    def everything(params, graph):
        return *derive(params, graph), jax.grad(lambda params: (derive(params, graph)[1] ** 2).mean())(params)

    return jax.jit(everything)(*jax.device_put((params, graph), jax.devices(device)[0]))


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("layout", ["flat", "rows"])
@pytest.mark.parametrize("kind", [backbone.kind for backbone in BACKBONES])
def test_energies_forces_and_gradients_are_those_of_a_cpu_in_float64(kind, layout, precision):
    graph = chain_graph(random_chain(12))
    graph = in_rows(graph) if layout == "rows" else graph
    found, expected = (evaluate(kind, p, where, graph) for p, where in ((precision, "gpu"), ("float64", "cpu")))
    assert_close(found[:2], expected[:2], TOLERANCES[precision])
    assert_close(found[2], expected[2], 10 * TOLERANCES[precision])


@pytest.mark.skipif(not has_kernels, reason='needs NVIDIA\'s kernels: pip install "cg-models[cuequivariance-cuda13]"')
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("layout", ["flat", "rows"])
def test_kernels_of_cuequivariance_give_the_numbers_of_our_own_code(layout, precision):
    graph = chain_graph(random_chain(12))
    graph = in_rows(graph) if layout == "rows" else graph
    found, expected = (evaluate("mace", precision, "gpu", graph, kernels=kernels) for kernels in ("cuequivariance", "own"))
    assert_close(found[:2], expected[:2], TOLERANCES[precision])
    assert_close(found[2], expected[2], 10 * TOLERANCES[precision])
