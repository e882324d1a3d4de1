import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.topology import frame_graph
from cg_priors.config import PriorConfig
from cg_priors.energy import prior_energy, prior_energy_terms
from cg_priors.fit import fit
from cg_priors.parameters import BONDED

FORMS = [
    {},
    {"bond": {"form": "spline"}, "angle": {"form": "spline"}, "dihedral": {"form": "spline"}},
    {"bond": {"form": "cis_trans"}, "angle": {"form": "quartic"}, "dihedral": {"form": "gaussians", "order": 3}},
    {"angle": {"form": "restricted"}, "dihedral": {"keys": "residue", "minimum_count": 100}},
]


@pytest.fixture(scope="module", params=range(len(FORMS)), ids=["fourier", "spline", "few-parameters", "residue-keys"])
def prior(request, trp_cage):
    frames, species = trp_cage
    return fit([frames], PriorConfig.parse({**FORMS[request.param], "bootstrap_samples": 0}, "test"), species)


@pytest.fixture(scope="module")
def default_prior(trp_cage):
    frames, species = trp_cage
    return fit([frames], PriorConfig(bootstrap_samples=0), species)


def graph_of(frames, frame=0, dtype=np.float64, cutoff=9.0):
    positions = np.asarray(frames.positions[frame], dtype)
    return frame_graph(positions, frames.species, frames.residue_index, frames.chain_index, cutoff)


def total(prior, graph):
    energy = prior_energy(prior)
    return lambda x: energy(prior.arrays, dataclasses.replace(graph, positions=x)).sum()


def compiled(function):
    """Return a function compiled in a hurry: these tests call it a few times."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def evaluate(prior, trp_cage):
    """Energy and its gradient at given positions, tuples and edges fixed."""
    return compiled(jax.value_and_grad(total(prior, graph_of(trp_cage[0]))))


@pytest.fixture(scope="module")
def gradients(prior):
    """Gradient of the energy by parameters and graph, tuples and edges being arguments."""
    energy = prior_energy(prior)
    return compiled(
        jax.grad(lambda arrays, x, graph: energy(arrays, dataclasses.replace(graph, positions=x)).sum(), argnums=(0, 1)),
    )


def test_forces_equal_central_differences_of_the_energy(prior, evaluate, trp_cage, random):
    graph = graph_of(trp_cage[0])
    energy = total(prior, graph)
    gradient = np.asarray(evaluate(graph.positions)[1])
    h = 1e-5
    for _ in range(12):
        step = np.zeros_like(graph.positions)
        step[random.integers(20), random.integers(3)] = h
        difference = (energy(graph.positions + step) - energy(graph.positions - step)) / (2 * h)
        assert (gradient * step).sum() / h == pytest.approx(difference, abs=2e-5 * max(1, abs(difference)))


def test_forces_on_fixed_edges_equal_those_on_edges_that_are_arguments(prior, evaluate, gradients, trp_cage):
    """Fixed ones are sorted out when tracing, each pair once; edges of one direction alone must not be taken for pairs."""
    graph = graph_of(trp_cage[0])
    _, expected = gradients(prior.arrays, graph.positions, graph)
    np.testing.assert_allclose(evaluate(graph.positions)[1], expected, atol=1e-10)
    one_way = np.where(graph.senders < graph.receivers, graph.edge_mask, False)
    energies = prior_energy(prior)(prior.arrays, dataclasses.replace(graph, edge_mask=one_way))
    both_ways = prior_energy_terms(prior)(prior.arrays, graph)
    bonded = sum(both_ways[name].sum() for name in BONDED)
    assert energies.sum() - bonded == pytest.approx(0.5 * sum(both_ways[name].sum() for name in both_ways if name not in BONDED))


def test_numpy_energies_equal_jax_energies(prior, trp_cage):
    graph = graph_of(trp_cage[0])
    in_numpy = prior_energy_terms(prior)(prior.arrays, graph)
    in_jax = compiled(prior_energy_terms(prior))(prior.arrays, graph)
    for name, values in in_numpy.items():
        assert isinstance(values, np.ndarray)
        np.testing.assert_allclose(values, in_jax[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", ["coincident", "straight", "folded back"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_energies_and_forces_are_finite_at_degenerate_configurations(evaluate, shape, dtype):
    positions = np.zeros((20, 3), dtype)
    if shape == "straight":
        positions[:, 0] = 3.8 * np.arange(20)
    elif shape == "folded back":
        positions[:, 0] = 3.8 * (np.arange(20) % 2)
    value, gradient = evaluate(positions)
    assert value.dtype == gradient.dtype == dtype
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_gradients_with_respect_to_parameters_are_finite_and_not_zero(prior, gradients, trp_cage):
    graph = graph_of(trp_cage[0])
    for name, group in gradients(prior.arrays, graph.positions, graph)[0].items():
        assert all(np.isfinite(value).all() for value in group.values()), name
        assert any((np.asarray(value) != 0).any() for value in group.values()), name


def test_forces_change_with_parameters_as_central_differences_say(default_prior, trp_cage, random):
    """The second derivative that training through forces takes."""
    graph, energy = graph_of(trp_cage[0]), prior_energy(default_prior)
    toward = random.normal(size=graph.positions.shape)

    def along(arrays):
        slopes = jax.grad(lambda x: energy(arrays, dataclasses.replace(graph, positions=x)).sum())(jnp.asarray(graph.positions))
        return (slopes * toward).sum()

    found = compiled(jax.value_and_grad(along))
    gradient, h = found(default_prior.arrays)[1], 1e-6
    keys = {"bond": "length", "angle": "cosine", "dihedral": "phases", "repulsion": "sigma", "excluded_volume": "epsilon"}
    for name, key in keys.items():
        group = default_prior.arrays[name]
        ends = [{**default_prior.arrays, name: {**group, key: group[key] + d}} for d in (h, -h)]
        difference = (found(ends[0])[0] - found(ends[1])[0]) / (2 * h)
        assert float(gradient[name][key].sum()) == pytest.approx(float(difference), rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_energies_keep_the_dtype_of_the_positions(prior, trp_cage, dtype):
    energies = jax.eval_shape(prior_energy_terms(prior), prior.arrays, graph_of(trp_cage[0], dtype=dtype))
    assert all(value.dtype == dtype for value in energies.values())


def test_padding_touches_neither_energy_nor_gradient(default_prior, trp_cage):
    graph = graph_of(trp_cage[0])
    n = graph.n_beads

    def pad(values, more, fill=0):
        return np.concatenate([values, np.full((more, *values.shape[1:]), fill, values.dtype)])

    padded = dataclasses.replace(
        graph,
        **{name: pad(getattr(graph, name), 3) for name in ("positions", "species", "residue_index", "chain_index", "frame", "bead_mask")},
        **{name: pad(getattr(graph, name), 5) for name in ("senders", "receivers", "edge_mask", "bonds", "bond_mask")},
        **{name: pad(getattr(graph, name), 5) for name in ("angles", "angle_mask", "dihedrals", "dihedral_mask")},
    )
    energy = prior_energy(default_prior)
    np.testing.assert_allclose(energy(default_prior.arrays, padded)[:n], energy(default_prior.arrays, graph), atol=1e-12)
    assert (energy(default_prior.arrays, padded)[n:] == 0).all()
    forces = prior_energy(default_prior)

    def gradient_on(graph):
        of_positions = jax.grad(lambda x, graph: forces(default_prior.arrays, dataclasses.replace(graph, positions=x)).sum())
        return compiled(of_positions)(graph.positions, graph)

    gradient = gradient_on(padded)
    np.testing.assert_allclose(gradient[:n], gradient_on(graph), atol=1e-10)
    assert (np.asarray(gradient[n:]) == 0).all()


def test_energy_is_invariant_to_rotation_translation_and_order_of_beads(default_prior, trp_cage, random):
    frames = trp_cage[0]
    graph = graph_of(frames)
    expected = prior_energy(default_prior)(default_prior.arrays, graph)
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    moved = dataclasses.replace(graph, positions=graph.positions @ rotation.T + 7)
    np.testing.assert_allclose(prior_energy(default_prior)(default_prior.arrays, moved), expected, atol=1e-9)
    order = random.permutation(20)
    mixed = frame_graph(graph.positions[order], frames.species[order], frames.residue_index[order], frames.chain_index[order], 9.0)
    np.testing.assert_allclose(prior_energy(default_prior)(default_prior.arrays, mixed), expected[order], atol=1e-10)


def test_a_reflection_changes_only_the_dihedral_energy(default_prior, trp_cage):
    graph = graph_of(trp_cage[0])
    mirrored = dataclasses.replace(graph, positions=graph.positions * [1, 1, -1])
    terms = prior_energy_terms(default_prior)
    here, there = terms(default_prior.arrays, graph), terms(default_prior.arrays, mirrored)
    for name in here:
        assert np.allclose(here[name], there[name]) == (name != "dihedral")


def test_a_chain_break_breaks_tuples_and_makes_pairs_far_apart_in_sequence(default_prior, trp_cage):
    frames = trp_cage[0]
    broken = np.where(np.arange(20) < 10, 0, 1).astype(np.int32)
    whole, cut = graph_of(frames), graph_of(dataclasses.replace(frames, chain_index=broken))
    assert (len(whole.bonds), len(cut.bonds)) == (19, 18)
    terms = prior_energy_terms(default_prior)
    near = np.asarray(cut.positions).copy()
    near[10] = near[9] + [0, 0, 4.2]
    cut = frame_graph(near, frames.species, frames.residue_index, broken, 9.0)
    whole = frame_graph(near, frames.species, frames.residue_index, frames.chain_index, 9.0)
    assert terms(default_prior.arrays, cut)["repulsion"][9] > terms(default_prior.arrays, whole)["repulsion"][9] + 0.3


def test_repulsion_and_excluded_volume_act_at_their_separations(default_prior):
    terms = prior_energy_terms(default_prior)
    for separation in range(1, 9):
        positions = 50.0 * np.arange(10)[:, None] * np.array([1.0, 0, 0])
        positions[separation] = positions[0] + [4.0, 0, 0]
        index = np.arange(10, dtype=np.int32)
        graph = frame_graph(positions, np.zeros(10, np.int32), index, np.zeros(10, np.int32), 9.0)
        energies = {name: values.sum() for name, values in terms(default_prior.arrays, graph).items()}
        assert (energies["excluded_volume"] > 0.1) == (2 <= separation <= 5)
        assert (energies["repulsion"] > 0.1) == (separation >= 6)


def test_edges_beyond_the_cutoff_change_nothing(default_prior, trp_cage):
    frames = trp_cage[0]
    assert default_prior.cutoff_angstrom == 8.0
    near, far = (prior_energy(default_prior)(default_prior.arrays, graph_of(frames, cutoff=c)) for c in (8.0, 20.0))
    np.testing.assert_allclose(near, far, atol=1e-12)


def test_weights_multiply_terms(default_prior, trp_cage):
    graph = graph_of(trp_cage[0])
    assert default_prior.weights == {"bond": 0.5, "angle": 0.25, "dihedral": 0.25, "repulsion": 1.0, "excluded_volume": 1.0}
    plain = dataclasses.replace(
        default_prior, terms={name: dataclasses.replace(term, weight=1.0) for name, term in default_prior.terms.items()}
    )
    weighted, unweighted = (prior_energy_terms(p)(default_prior.arrays, graph) for p in (default_prior, plain))
    for name, weight in default_prior.weights.items():
        np.testing.assert_allclose(weighted[name], weight * unweighted[name])


def test_potentials_push_back_everywhere_outside_the_sampled_range(prior):
    """Every bonded row rises from its sampled range outward: no bead that leaves the histogram is lost."""
    from cg_priors.forms import FORMS as FORMULAS

    for name, ends in (("bond", (0.5, 9.0)), ("angle", (0.0, np.pi))):
        term = prior.terms[name]
        for row in range(len(term.rows)):
            p = {key: value[row : row + 1] for key, value in prior.arrays[name].items()}
            for start, end in ((term.statistics["low"][row], ends[0]), (term.statistics["high"][row], ends[1])):
                climb = np.diff(FORMULAS[term.form].formula(np.linspace(start, end, 300), p, term.settings))
                assert (climb > -1e-9).all(), f"{name} {term.rows[row]}"
    assert set(BONDED) <= set(prior.terms)
