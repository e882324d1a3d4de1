import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.errors import UserError
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.graph import pack, plan_budget
from cg_models.hybrid import build_model, match_force_scale
from cg_models.statistics import average_neighbours, measure_statistics, root_mean_square
from cg_models.testing import CUTOFF, SPECIES, chain_graph, random_chain
from cg_priors.parameters import PriorParameters, Term

SMALL = {"kind": "allegro", "layers": 1, "num_radial": 4, "l_max": 1, "num_features": 2, "mlp_n_hidden": 8, "mlp_n_layers": 1}


def small_prior(species=SPECIES, reach=8.0):
    terms = {
        "bond": Term("harmonic", 1.0),
        "angle": Term("quartic", 0.5),
        "dihedral": Term("periodic", 0.5),
        "repulsion": Term("soft_sphere", 1.0, settings={"switch": 5.0, "cutoff": reach}),
        "excluded_volume": Term("soft_sphere", 1.0, settings={"switch": 4.0, "cutoff": 6.0}),
    }
    arrays = {
        "bond": {"force_constant": [80.0], "length": [3.8]},
        "angle": {"angle": [1.9], "quadratic": [5.0], "cubic": [0.5], "quartic": [2.0]},
        "dihedral": {"force_constants": [[0.4, 0.2]], "phases": [[0.3, 1.0]]},
        "repulsion": {"epsilon": [1.0], "sigma": [4.5]},
        "excluded_volume": {"epsilon": [1.0], "sigma": [4.0]},
    }
    return PriorParameters(
        tuple(species), 300.0, terms, {term: {key: np.asarray(value) for key, value in group.items()} for term, group in arrays.items()}
    )


@functools.cache
def built(mode, precision="float32"):
    options = {"mode": mode, "cutoff_angstrom": CUTOFF, "backbone": SMALL, "precision": precision}
    model = build_model(ModelConfig.parse(options, "test"), SPECIES, small_prior())
    return model, model.init(jax.random.key(0))


GRAPH = jax.tree.map(jnp.asarray, chain_graph(random_chain(12)))


def test_hybrid_is_prior_plus_backbone_in_energies_and_forces():
    model, params = built("hybrid", precision="float64")
    full, prior, backbone = (jax.jit(energy_and_forces(model.energy_of(part)))(params, GRAPH) for part in ("full", "prior", "backbone"))
    for both, one, other in zip(full, prior, backbone, strict=True):
        np.testing.assert_allclose(both, one + other, rtol=1e-12, atol=1e-12)
        assert np.abs(one).max() > 0
        assert np.abs(other).max() > 0


def test_terms_add_up_and_carry_the_names_of_the_prior_and_backbone():
    model, params = built("hybrid", precision="float64")
    terms = jax.jit(model.energy_terms)(params, GRAPH)
    assert set(terms) == {"bond", "angle", "dihedral", "repulsion", "excluded_volume", "backbone"}
    np.testing.assert_allclose(sum(terms.values()), jax.jit(model.energy)(params, GRAPH), rtol=1e-12)
    forces = jax.jit(model.force_terms)(params, GRAPH)
    assert set(forces) == set(terms)
    np.testing.assert_allclose(sum(forces.values()), jax.jit(energy_and_forces(model.energy))(params, GRAPH)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("mode", "parts"), [("prior", {"prior"}), ("backbone", {"backbone"}), ("hybrid", {"prior", "backbone"})])
def test_modes_have_just_their_parts(mode, parts):
    model, params = built(mode)
    assert set(params) == parts == set(model.parts)
    absent = ({"prior", "backbone"} - parts) or set()
    for part in absent:
        assert not np.any(model.energy_of(part)(params, GRAPH))


def test_edges_must_reach_the_farther_of_prior_and_backbone():
    config = ModelConfig.parse({"cutoff_angstrom": 7.0, "backbone": SMALL}, "test")
    assert build_model(config, SPECIES, small_prior(reach=11.0)).cutoff_angstrom == 11.0
    assert build_model(config, SPECIES, small_prior(reach=5.5)).cutoff_angstrom == 7.0
    near = build_model(config, SPECIES, small_prior(reach=11.0))
    params = near.init(jax.random.key(0))
    positions = random_chain(12)
    backbone = jax.jit(near.energy_of("backbone"))
    np.testing.assert_allclose(
        backbone(params, chain_graph(positions, cutoff=11.0)), backbone(params, chain_graph(positions, cutoff=7.0)), rtol=1e-5
    )


def test_a_position_that_is_not_finite_gives_no_energy_and_other_frames_theirs():
    model, params = built("hybrid")
    one = chain_graph(random_chain(6), padded=False)
    spoilt = dataclasses.replace(one, positions=np.where(np.arange(6)[:, None] == 4, np.inf, one.positions))
    budget = plan_budget([one] * 3, 3, rows=True)
    for part in ("full", "prior", "backbone"):
        compiled = jax.jit(energy_and_forces(model.energy_of(part)))
        energies, forces = compiled(params, pack([one, spoilt], budget))
        expected, expected_forces = compiled(params, pack([one, one], budget))
        assert np.isnan(energies[10])
        np.testing.assert_array_equal(energies[:6], expected[:6])
        np.testing.assert_array_equal(forces[:6], expected_forces[:6])
        assert not np.any(energies[12:])


def test_padding_has_no_energy_and_no_force():
    model, params = built("hybrid")
    energies, forces = jax.jit(energy_and_forces(model.energy))(params, GRAPH)
    padding = ~np.asarray(GRAPH.bead_mask)
    assert padding.any()
    assert not np.asarray(energies)[padding].any()
    assert not np.asarray(forces)[padding].any()


def test_results_have_the_dtype_of_the_positions():
    model, params = built("hybrid")
    for dtype in (jnp.float32, jnp.float64):
        graph = dataclasses.replace(GRAPH, positions=GRAPH.positions.astype(dtype))
        energies, forces = jax.eval_shape(energy_and_forces(model.energy), params, graph)
        assert energies.dtype == forces.dtype == dtype


def test_training_gradients_reach_prior_and_backbone():
    model, params = built("hybrid")

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: (energy_and_forces(model.energy)(p, GRAPH)[1] ** 2).sum())(params)

    found = gradient(params)
    assert np.abs(found["prior"]["bond"]["force_constant"]).max() > 0
    assert np.abs(found["backbone"]["allegro"]["radial"]).max() > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_energies_of_an_ensemble_are_a_vmap_over_parameters():
    model, _ = built("backbone")
    members = jax.vmap(model.init)(jax.random.split(jax.random.key(1), 3))
    energies = jax.jit(jax.vmap(model.energy, in_axes=(0, None)))(members, GRAPH)
    alone = jax.jit(model.energy)(jax.tree.map(lambda leaf: leaf[1], members), GRAPH)
    np.testing.assert_allclose(energies[1], alone, rtol=1e-5, atol=1e-6)
    assert np.abs(energies[0] - energies[1]).max() > 1e-3


def test_the_force_scale_of_a_fresh_model_is_matched_exactly_on_a_sample():
    model, params = built("hybrid")
    matched = match_force_scale(model, params, GRAPH, 4.2)
    forces = jax.jit(energy_and_forces(model.energy_of("backbone")))(matched, GRAPH)[1]
    assert root_mean_square([forces[:12]]) == pytest.approx(4.2, rel=1e-4)
    assert matched["prior"] is params["prior"]


def test_statistics_of_a_training_set_are_its_neighbours_forces_and_species_energies():
    rng = np.random.default_rng(0)
    graphs = [chain_graph(random_chain(size, seed), seed, padded=False) for seed, size in enumerate((8, 9, 10, 11, 12, 12))]
    forces = [rng.normal(scale=3.0, size=graph.positions.shape) for graph in graphs]
    offsets = np.array([1.0, -2.0, 0.5, 4.0])
    found = measure_statistics(graphs, forces, CUTOFF, 4, [offsets[graph.species].sum() for graph in graphs])
    assert found.avg_num_neighbors == average_neighbours(graphs, CUTOFF)
    assert found.energy_scale == pytest.approx(3.0, rel=0.1)
    np.testing.assert_allclose(found.species_offsets, offsets, rtol=1e-9)
    # Frames without an energy, and data without any.
    some = [offsets[graph.species].sum() for graph in graphs[:-1]]
    np.testing.assert_allclose(measure_statistics(graphs, forces, CUTOFF, 4, [*some, np.nan]).species_offsets, offsets, rtol=1e-9)
    assert measure_statistics(graphs[:1], forces[:1], CUTOFF, 4, [np.nan]).species_offsets == (0, 0, 0, 0)
    # One composition alone leaves the offsets open: equal beads then get equal energies, and an absent species none.
    alone = measure_statistics(graphs[:1], forces[:1], CUTOFF, 5, [10.0])
    assert np.dot(np.bincount(graphs[0].species, minlength=5), alone.species_offsets) == pytest.approx(10.0)
    assert alone.species_offsets[4] == pytest.approx(0.0)


def test_average_neighbours_counts_edges_within_the_cutoff():
    graph = chain_graph(random_chain(12), cutoff=12.0)
    distances = np.linalg.norm(random_chain(12)[:, None] - random_chain(12)[None], axis=-1)
    expected = ((distances < 8.0).sum() - 12) / 12
    assert average_neighbours([graph], 8.0) == pytest.approx(expected)


def test_a_missing_or_foreign_prior_is_refused():
    config = ModelConfig.parse({"backbone": SMALL}, "test")
    with pytest.raises(UserError, match="needs a prior"):
        build_model(config, SPECIES)
    with pytest.raises(UserError, match="expected a prior of the species ALA, GLY, LYS, TRP"):
        build_model(config, SPECIES, small_prior(species=("ALA", "GLY", "LYS", "VAL")))
    with pytest.raises(UserError, match="expected one of full, prior, backbone"):
        built("hybrid")[0].energy_of("network")
    with pytest.raises(UserError, match="expected one of full, prior, backbone"):
        model, params = built("hybrid")
        model.force_terms(params, GRAPH, "network")


def test_a_network_of_float64_does_not_run_in_float32():
    config = ModelConfig.parse({"mode": "backbone", "backbone": SMALL, "precision": "float64"}, "test")
    with jax.enable_x64(False), pytest.raises(UserError, match=r"precision float64, but JAX runs in 32 bits: set .* JAX_ENABLE_X64=1"):
        build_model(config, SPECIES)
