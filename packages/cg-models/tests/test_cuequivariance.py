"""mace by NVIDIA's cuequivariance: the same numbers from the same parameters. Here without its GPU kernels, which need CUDA."""

import importlib.util

import jax
import numpy as np
import pytest

from cg_data.errors import UserError
from cg_models.backbones.mace.config import MaceConfig
from cg_models.backbones.mace.layers import polynomial_basis, symmetric_contraction
from cg_models.bundle import Bundle, load_bundle, save_bundle
from cg_models.config import ModelConfig
from cg_models.equivariant import blocks, coupling, dimension, harmonic_irreps, paths
from cg_models.forces import energy_and_forces
from cg_models.graph import in_rows
from cg_models.hybrid import build_model
from cg_models.statistics import ModelStatistics
from cg_models.testing import CUTOFF, SPECIES, assert_close, chain_graph, random_chain

has_library = importlib.util.find_spec("cuequivariance_jax") is not None
needs_library = pytest.mark.skipif(not has_library, reason='needs cuequivariance-jax: pip install "cg-models[cuequivariance]"')

# Without its kernels the library unrolls every term, which takes minutes to compile for networks of higher degrees; their
# polynomials are evaluated by themselves below.
SMALL = {"num_features": 4, "embed": 3, "num_radial": 4, "mlp_n_hidden": 8, "mlp_n_layers": 1, "readout": 4, "max_ell": 1}


def model_with(kernels, precision, **options):
    backbone = MaceConfig(**SMALL | options, kernels=kernels)
    config = ModelConfig(mode="backbone", cutoff_angstrom=CUTOFF, precision=precision, backbone=backbone)
    return build_model(config, SPECIES, None, ModelStatistics(avg_num_neighbors=6.0))


def close(found, expected, tolerance):
    assert [a.dtype for a in jax.tree.leaves(found)] == [b.dtype for b in jax.tree.leaves(expected)]
    assert_close(found, expected, tolerance)


@needs_library
@pytest.mark.parametrize(
    ("options", "precision", "tolerance"), [({}, "float64", 1e-11), ({"parity": False, "correlation": 2}, "float32", 1e-5)]
)
def test_energies_and_forces_are_those_of_our_own_code(options, precision, tolerance):
    own, theirs = (model_with(kernels, precision, **options) for kernels in ("own", "cuequivariance"))
    params, graph = own.init(jax.random.key(3)), chain_graph(random_chain(12).astype(precision))
    expected, found = (jax.jit(energy_and_forces(model.energy))(params, graph) for model in (own, theirs))
    close(found, expected, tolerance)


@needs_library
def test_gradients_of_a_force_loss_are_those_of_our_own_code():
    own, theirs = (model_with(kernels, "float64", layers=1, correlation=2) for kernels in ("own", "cuequivariance"))
    params, graph = own.init(jax.random.key(3)), chain_graph(random_chain(12))

    def gradient(model):
        return jax.jit(jax.grad(lambda params: (energy_and_forces(model.energy)(params, graph)[1] ** 2).sum()))(params)

    close(gradient(theirs), gradient(own), 1e-11)


@needs_library
def test_both_layouts_of_edges_give_the_same():
    theirs = model_with("cuequivariance", "float64", layers=1, correlation=2)
    params, graph = theirs.init(jax.random.key(3)), chain_graph(random_chain(12))
    compiled = jax.jit(energy_and_forces(theirs.energy))
    close(compiled(params, in_rows(graph, 30)), compiled(params, graph), 1e-11)


@needs_library
@pytest.mark.parametrize(("max_ell", "parity"), [(2, True), (3, True), (2, False)])
def test_the_polynomial_of_one_message_is_the_weighted_coupled_product(max_ell, parity):
    from cg_models.backbones.mace.cuequivariance import message_polynomial

    channels, random = 3, np.random.default_rng(0)
    harmonics = harmonic_irreps(max_ell, parity)
    inputs = harmonics[:2]
    allowed = paths(inputs, harmonics, harmonics)
    weights, features = random.normal(size=(len(allowed), channels)), random.normal(size=(dimension(inputs), channels))
    directions = random.normal(size=dimension(harmonics))
    (found,) = message_polynomial(inputs, harmonics, channels)(weights.ravel(), features.ravel(), directions)
    expected = []
    for k, irrep in enumerate(harmonics):
        into = [path for path, ends in enumerate(allowed) if ends[2] == k]
        parts = []
        for path in into:
            first, second = (blocks(of)[allowed[path][n]] for n, of in enumerate((inputs, harmonics)))
            coefficients = coupling(inputs[allowed[path][0]], harmonics[allowed[path][1]], irrep)
            parts.append(weights[path] * np.einsum("mc,n,mno->oc", features[first], directions[second], coefficients))
        expected.append(np.concatenate(parts, -1).ravel())
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=1e-12)


@needs_library
@pytest.mark.parametrize(("max_ell", "correlation", "parity"), [(2, 3, True), (3, 2, True), (2, 2, False)])
def test_the_polynomial_of_one_bead_is_the_symmetric_contraction(max_ell, correlation, parity):
    from cg_models.backbones.mace.cuequivariance import contraction_polynomial

    channels, random = 3, np.random.default_rng(0)
    harmonics = harmonic_irreps(max_ell, parity)
    outputs = harmonics[:2]
    x = random.normal(size=(1, dimension(harmonics), channels))
    weights = random.normal(size=(1, sum(polynomial_basis(harmonics, outputs, correlation)[1]), channels))
    (found,) = contraction_polynomial(harmonics, outputs, correlation, channels)(weights.ravel(), x.ravel())
    expected = symmetric_contraction(x, weights, harmonics, outputs, correlation)
    np.testing.assert_allclose(found, np.ravel(expected), rtol=0, atol=1e-12 * float(np.abs(expected).max()))


@needs_library
def test_a_bundle_trained_with_either_is_the_same_and_is_read_with_either(tmp_path):
    model = model_with("cuequivariance", "float32", layers=1, correlation=1)
    params = model.init(jax.random.key(3))
    save_bundle(tmp_path / "bundle", Bundle(model.config, SPECIES, params, None, model.statistics, {}, {}))
    assert "kernels" not in (tmp_path / "bundle" / "model.yaml").read_text()
    assert load_bundle(tmp_path / "bundle").config.backbone.kernels == "own"
    assert load_bundle(tmp_path / "bundle", kernels="cuequivariance").config.backbone.kernels == "cuequivariance"
    with pytest.raises(UserError, match=r"kernels"):
        load_bundle(tmp_path / "bundle", kernels="nvidia")


@needs_library
def test_fresh_parameters_have_the_same_names_shapes_and_values():
    own, theirs = (model_with(kernels, "float64", layers=1, correlation=2).init(jax.random.key(3)) for kernels in ("own", "cuequivariance"))
    assert jax.tree.structure(own) == jax.tree.structure(theirs)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(theirs), strict=True))


@needs_library
def test_the_polynomials_are_of_the_form_that_the_gpu_kernels_take():
    # What "uniform_1d" asks of a polynomial, checked by it before it launches: one mode, segments of one shape, plain coefficients.
    from cg_models.backbones.mace.cuequivariance import contraction_polynomial, message_polynomial

    harmonics = harmonic_irreps(2, True)
    for polynomial in (message_polynomial(harmonics[:2], harmonics, 128), contraction_polynomial(harmonics, harmonics[:2], 3, 128)):
        for _, product in polynomial.operations:
            assert product.subscripts.modes() == ["u"]
            assert product.all_same_segment_shape()
            assert product.coefficient_subscripts == ""
        assert all(polynomial.used_operands())


def test_a_missing_library_is_one_line_with_the_remedy(monkeypatch):
    from cg_models.backbones.mace import cuequivariance

    monkeypatch.setattr(cuequivariance.importlib.util, "find_spec", lambda name: None)
    cuequivariance.message_polynomial.cache_clear()
    with pytest.raises(UserError, match=r"needs cuequivariance_jax.*pip install.*or set kernels: own") as raised:
        model_with("cuequivariance", "float32").init(jax.random.key(0))
    assert "\n" not in str(raised.value)
