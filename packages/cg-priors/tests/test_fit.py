import dataclasses
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.errors import UserError
from cg_data.mapped import Rows
from cg_data.mapping import RESIDUE_MASSES_AMU
from cg_data.store import write_dataset
from cg_priors.binning import quick_arctan2
from cg_priors.config import PriorConfig
from cg_priors.divergence import coarse, js_divergence
from cg_priors.energy import TERM_KINDS, prior_energy
from cg_priors.fit import at_temperature, choose_frames, fit
from cg_priors.force_frames import all_pairs_graph, force_frames
from cg_priors.forms import FORMS
from cg_priors.geometry import steps
from cg_priors.histogram import RANGES, accumulate
from cg_priors.inputs import read_frames
from cg_priors.keys import KEY_COLUMNS, key_name
from cg_priors.langevin import simulation
from cg_priors.linear import walls
from cg_priors.parameters import BONDED, TERM_NAMES, PriorParameters, Term
from cg_priors.report import describe

from . import chains
from .test_recovery import KT, SPECIES, TRUTH, T, potential


def test_a_real_protein_gives_the_ca_ca_bond(trp_cage, chignolin):
    """3.84 +- 0.03 angstrom. The data's own variance, kT / var(r), puts k at 190-210: stiffer than published CA priors."""
    for frames, species in (trp_cage, chignolin):
        prior = fit([frames], PriorConfig(bootstrap_samples=0), species)
        k, length = (float(prior.arrays["bond"][key][0]) for key in ("force_constant", "length"))
        assert length == pytest.approx(3.84, abs=0.035)
        r = np.linalg.norm(np.diff(np.asarray(frames.positions, np.float64), axis=1), axis=-1)
        assert k == pytest.approx(0.0019872043 * 348 / r.var(), rel=0.02)
        assert 150 < k < 220


def test_a_langevin_chain_reproduces_the_histograms_its_prior_was_fitted_to(random):
    """Independent coordinates: the plain sum of inverted potentials is exact."""
    n, beads = 12_000, 6
    r = chains.bonds(random, potential("harmonic"), (n, beads - 1), T)
    theta = chains.angles(random, potential("quartic"), (n, beads - 2), T)
    phi = chains.dihedrals(random, potential("periodic"), (n, beads - 3), T)
    data = chains.frames(chains.build(r, theta, phi), T)
    plain = {name: {"weight": 1.0} for name in BONDED}
    plain["angle"]["form"] = "quartic"
    config = PriorConfig.parse({**plain, "repulsion": None, "excluded_volume": None, "bootstrap_samples": 0}, "test")
    prior = fit([data], config, SPECIES)
    run = simulation(prior, data, np.full(beads, 100.0), 10_000, n_replicas=48, timestep_fs=6.0)(prior.arrays, 0)
    found, expected = (accumulate([frames], BONDED, SPECIES) for frames in (run, data))
    for name in BONDED:
        ours, theirs = (coarse(name, h[name].counts.sum((0, 1)), h[name].centres)[0] for h in (found, expected))
        assert js_divergence(ours, theirs) < 0.01, name


def test_joint_force_matching_finds_the_forces_own_coefficients(random):
    """Noise-free forces of a known prior come back, whatever the distribution the frames were drawn from."""
    n, beads = 200, 10
    r = random.normal(3.8, 0.15, (n, beads - 1))
    theta = random.uniform(1.0, 2.9, (n, beads - 2))
    phi = random.uniform(-np.pi, np.pi, (n, beads - 3))
    data = chains.frames(chains.build(r, theta, phi), T)
    truth = PriorParameters(
        SPECIES,
        T,
        {"bond": Term("harmonic", 1.0), "angle": Term("fourier", 1.0), "dihedral": Term("periodic", 1.0)},
        {
            "bond": {key: np.array([value]) for key, value in TRUTH["harmonic"].items()},
            "angle": {"cosine": np.array([[0.5, 1.4]]), "sine": np.array([[-12.0, -0.5]])},
            "dihedral": {key: np.array([value]) for key, value in TRUTH["periodic"].items()},
        },
    )
    graph, energy = all_pairs_graph(data, np.asarray(data.positions[0])), prior_energy(truth)
    force = jax.jit(jax.vmap(jax.grad(lambda x: -energy(truth.arrays, dataclasses.replace(graph, positions=x)).sum())))
    data = dataclasses.replace(data, forces=np.asarray(force(np.asarray(data.positions, np.float64)), np.float32))
    options = {"angle": {"order": 2}, "dihedral": {"order": 3}, "repulsion": None, "excluded_volume": None, "bootstrap_samples": 3}
    prior = fit([data], PriorConfig.parse({**options, "method": "joint", "force_match": {"ridge": 0.0}}, "test"), SPECIES)
    assert prior.provenance["force_mse"] < 1e-4 * prior.provenance["zero_force_mse"]
    assert set(prior.weights.values()) == {1.0}
    assert prior.arrays["bond"]["force_constant"][0] == pytest.approx(150, rel=5e-3)
    assert prior.arrays["bond"]["length"][0] == pytest.approx(3.81, abs=2e-3)
    np.testing.assert_allclose(prior.arrays["dihedral"]["force_constants"][0], TRUTH["periodic"]["force_constants"], atol=0.05)
    x = np.linspace(1.1, 2.8, 30)
    ours, theirs = (FORMS["fourier"].formula(x, p.arrays["angle"], {}) for p in (prior, truth))
    np.testing.assert_allclose(ours - ours.mean(), theirs - theirs.mean(), atol=0.05)


def test_force_matching_lowers_the_force_error_of_real_data(trp_cage):
    """L-BFGS reaches the joint fit's minimum, the energies agree on its force error, and both know how sure they are."""
    frames, species = trp_cage
    options = {"bootstrap_samples": 10, "angle": {"order": 4}, "dihedral": {"order": 2}, "force_match": {"max_frames": 60}}
    joint = fit([frames], PriorConfig.parse({**options, "method": "joint"}, "test"), species)
    assert joint.provenance["force_mse"] < 0.75 * joint.provenance["zero_force_mse"]
    refined = fit([frames], PriorConfig.parse({**options, "method": "lbfgs"}, "test"), species)
    assert refined.provenance["objective"] < refined.provenance["objective_before"]
    error = refined.provenance["objective"] * refined.provenance["zero_force_mse"]
    assert error < 1.02 * joint.provenance["force_mse"]
    (chosen,) = force_frames([frames], 60)
    energy = prior_energy(refined)
    force = jax.jit(jax.vmap(jax.grad(lambda x: -energy(refined.arrays, dataclasses.replace(chosen.graph, positions=x)).sum())))
    # What the demands of confinement add to the objective is small.
    assert np.mean((np.asarray(force(chosen.positions)) - chosen.forces) ** 2) == pytest.approx(error, rel=1e-3)
    for key in ("force_constant", "length"):
        one, other = (float(prior.terms["bond"].errors[key][0]) for prior in (joint, refined))
        assert 0.3 < other / one < 3


def test_force_matching_without_forces_is_refused(trp_cage):
    frames, species = trp_cage
    with pytest.raises(UserError, match="expected frames with forces"):
        fit([dataclasses.replace(frames, forces=None)], PriorConfig(method="joint"), species)


def test_force_matching_with_forces_that_are_not_finite_is_refused(trp_cage):
    frames, species = trp_cage
    forces = np.array(frames.forces)
    forces[0, 3, 2] = np.inf
    with pytest.raises(UserError, match="expected finite positions and forces"):
        fit([dataclasses.replace(frames, forces=forces)], PriorConfig(method="joint", bootstrap_samples=0), species)


def test_a_form_that_is_not_linear_is_refused_by_the_joint_fit(trp_cage):
    frames, species = trp_cage
    config = PriorConfig.parse({"method": "joint", "dihedral": {"form": "gaussians", "order": 2}, "bootstrap_samples": 0}, "test")
    with pytest.raises(UserError, match="dihedral: form 'gaussians' is not linear"):
        fit([frames], config, species)


def test_every_fitted_parameter_has_a_standard_error_and_no_configured_one(trp_cage):
    frames, species = trp_cage
    prior = fit([frames], PriorConfig.parse({"bootstrap_samples": 5, "excluded_volume": {"sigma": 4.0}}, "test"), species)
    for name, group in prior.arrays.items():
        fitted = [key for key in group if key != "epsilon" and (name, key) != ("excluded_volume", "sigma")]
        assert list(prior.terms[name].errors) == fitted
        for key in fitted:
            assert prior.terms[name].errors[key].shape == np.shape(group[key])
            assert (prior.terms[name].errors[key] > 0).all()
    assert 0 < prior.terms["bond"].errors["force_constant"][0] < 20
    assert describe(prior).endswith("epsilon 1, sigma 4")
    assert re.search(r"force_constant [\d.]+ \+- [\d.]+, length [\d.]+ \+- [\d.]+\n", describe(prior))


@pytest.mark.parametrize(("estimate", "order"), [("kde", 7), ("histogram", 7), ("histogram", None), ("likelihood", 4)])
def test_a_fit_demands_what_the_check_demands_up_to_the_ends_of_the_axis(trp_cage, estimate, order):
    """The last half degree was checked and not asked for, and fits that turned there were refused."""
    frames, species = trp_cage
    options = {"bond": None, "dihedral": None, "repulsion": None, "excluded_volume": None, "bootstrap_samples": 0}
    angle = fit([frames], PriorConfig.parse({**options, "angle": {"order": order, "estimate": estimate}}, "test"), species).arrays["angle"]
    just_inside = np.array([1e-6, np.pi - 1e-6])
    outward = np.diff(FORMS["fourier"].formula(np.stack([just_inside, [0, np.pi]]), angle, {}), axis=0)
    assert (outward > 0).all()


def test_walls_reach_both_ends_of_the_axis():
    outer = walls("angle", lambda x: x[:, None], 1.3, 2.7, 0.0, np.pi)
    asked = np.sort(np.abs(outer.rows[:, 0]))
    np.testing.assert_allclose(asked[[0, -1]], [0, np.pi])
    assert np.diff(asked[asked <= 1.3]).max() < np.pi / 350 > np.diff(asked[asked >= 2.7]).max()
    assert len(walls("angle", lambda x: x[:, None], 0.0, np.pi, 0.0, np.pi).least) == 0


def test_a_prior_refused_at_the_end_of_a_fit_says_what_to_change(chignolin):
    frames, species = chignolin
    config = PriorConfig.parse({name: {"estimate": "histogram"} for name in BONDED} | {"bootstrap_samples": 0}, "test")
    with pytest.raises(
        UserError, match=r"prior fitted at 348 K: bond: .*: correct it, or fit with another form, another order or more frames"
    ):
        fit([frames.select(slice(0, 1))], config, species)


@pytest.mark.parametrize("method", ["joint", "lbfgs"])
def test_a_parameter_that_forces_do_not_fit_keeps_its_standard_error(trp_cage, method):
    frames, species = trp_cage
    settings = {"bootstrap_samples": 5, "force_match": {"max_frames": 100, "iterations": 3}}
    first, refined = (fit([frames], PriorConfig.parse({**settings, **more}, "test"), species) for more in ({}, {"method": method}))
    if method == "joint":
        np.testing.assert_array_equal(refined.terms["repulsion"].errors["sigma"], first.terms["repulsion"].errors["sigma"])
    for name, group in refined.arrays.items():
        for key, value in group.items():
            errors = refined.terms[name].errors[key]
            assert errors.shape == np.shape(value)
            assert not ((errors > 0) & (errors < 1e-12)).any()


def test_one_block_of_frames_has_no_standard_errors(trp_cage):
    frames, species = trp_cage
    prior = fit([frames.select(slice(0, 1))], PriorConfig(bootstrap_samples=5), species)
    assert all(not term.errors for term in prior.terms.values())


def test_statistics_count_the_samples_of_the_data(trp_cage):
    frames, species = trp_cage
    prior = fit([frames], PriorConfig(bootstrap_samples=0), species)
    counts = {name: int(prior.terms[name].statistics["count"][0]) for name in ("bond", "angle", "dihedral")}
    assert counts == {name: frames.n_frames * (frames.n_beads - n) for name, n in (("bond", 1), ("angle", 2), ("dihedral", 3))}


def test_bonds_longer_than_any_are_refused_or_told(trp_cage, caplog):
    frames, species = trp_cage
    config = PriorConfig(bootstrap_samples=0)
    with pytest.raises(UserError, match=r"bond: 4,\d+ of 4,\d+ bonds are not 2 to 6 angstrom long: positions are angstrom"):
        fit([dataclasses.replace(frames, positions=frames.positions / 10)], config, species)
    wrapped = np.array(frames.positions)
    wrapped[:40, 10:] += 30
    fit([dataclasses.replace(frames, positions=wrapped)], config, species)
    assert f"bond: 40 of {frames.n_frames * 19:,} bonds are not 2 to 6 angstrom long" in caplog.text


def test_frames_without_a_bond_are_refused_unless_no_bonds_are_wanted(trp_cage):
    frames, species = trp_cage
    apart = dataclasses.replace(frames, residue_index=2 * np.asarray(frames.residue_index))
    with pytest.raises(UserError, match="bond: expected consecutive residues of one chain, the frames have none: check residue_index"):
        fit([apart], PriorConfig(bootstrap_samples=0), species)
    assert set(fit([apart], PriorConfig(bootstrap_samples=0, bond=None), species).terms) == {"repulsion", "excluded_volume"}


def test_temperatures_that_are_nearly_equal_are_refused(trp_cage):
    frames, species = trp_cage
    kelvin = np.where(np.arange(frames.n_frames) % 2, 348.4, 348.0).astype(np.float32)
    with pytest.raises(UserError, match=r"equal or at least 1 K apart, received 348 and 348\.4 K"):
        fit([dataclasses.replace(frames, temperature=kelvin)], PriorConfig(temperature_kelvin="all"), species)


def test_blocks_and_stretches_do_not_change_a_histogram(trp_cage, chignolin, monkeypatch):
    """Nor do the other molecules of a fit, whose chains share the compiled function."""
    (frames, species), (other, _) = trp_cage, chignolin
    whole = accumulate([frames, other], TERM_NAMES, species)
    monkeypatch.setattr("cg_priors.histogram.STRETCH_BEADS", 300)
    monkeypatch.setattr("cg_priors.binning.BLOCK_FRAMES", 7)
    monkeypatch.setattr("cg_priors.binning.BLOCK_ROWS", 31)
    monkeypatch.setattr("cg_priors.binning.CACHED_VALUES", 70)
    for name, part in accumulate([frames, other], TERM_NAMES, species).items():
        np.testing.assert_array_equal(part.counts, whole[name].counts)


def test_a_pooled_histogram_is_the_sum_over_keys(trp_cage, chignolin):
    (frames, species), (other, _) = trp_cage, chignolin
    by_key, pooled = (accumulate([frames, other], TERM_NAMES, species, pooled=names) for names in ((), TERM_NAMES))
    for name in TERM_NAMES:
        assert pooled[name].keys == ("*",)
        assert len(by_key[name].keys) > 1
        np.testing.assert_array_equal(pooled[name].counts[:, 0], by_key[name].counts.sum(1))


def test_the_order_of_beads_does_not_change_a_histogram(trp_cage, random):
    frames, species = trp_cage
    order = random.permutation(frames.n_beads)
    per_bead = {name: getattr(frames, name)[order] for name in ("species", "residue_index", "chain_index")}
    shuffled = dataclasses.replace(frames, positions=frames.positions[:, order], **per_bead)
    one, other = (accumulate([item], TERM_NAMES, species) for item in (frames, shuffled))
    for name in TERM_NAMES:
        np.testing.assert_array_equal(one[name].counts, other[name].counts)


def test_frames_that_are_not_a_run_are_read_from_the_file_as_a_copy_would_be(trp_cage, tmp_path):
    """A split with gaps, and then a temperature, of memory-mapped data."""
    frames, species = trp_cage
    np.save(tmp_path / "positions.npy", frames.positions)
    mapped = dataclasses.replace(frames, positions=np.load(tmp_path / "positions.npy", mmap_mode="r"))
    chosen = np.flatnonzero(np.arange(frames.n_frames) % 5 != 2)
    some = at_temperature([choose_frames(mapped, chosen)], 348)
    assert isinstance(choose_frames(mapped, chosen).positions, Rows)
    assert isinstance(some[0].positions, Rows)
    expected = accumulate([frames.select(chosen)], TERM_NAMES, species)
    for name, found in accumulate(some, TERM_NAMES, species).items():
        np.testing.assert_array_equal(found.counts, expected[name].counts)


@pytest.mark.parametrize("bead", [0, 19])
def test_a_position_that_is_not_finite_is_refused_by_file_and_frame(trp_cage, tmp_path, bead):
    frames, species = trp_cage
    positions = np.array(frames.positions)
    positions[17, bead, 1] = np.nan
    in_memory = dataclasses.replace(frames, positions=positions)
    with pytest.raises(UserError, match="frames: positions must be finite; frame 17 is not"):
        fit([in_memory], PriorConfig(bootstrap_samples=0), species)
    write_dataset(tmp_path / "dataset", {"a": frames})
    np.save(tmp_path / "dataset" / "domains" / "a" / "positions.npy", positions)
    with pytest.raises(UserError, match=r"a/positions\.npy: positions must be finite; frame 17 is not"):
        fit(read_frames(tmp_path / "dataset")[0], PriorConfig(bootstrap_samples=0), species)


def test_the_quick_arctangent_is_the_arctangent(random):
    y, x = random.normal(size=(2, 100_000)).astype(np.float32) ** 3
    x[:4], y[:4] = [0, 0, -1, 1], [0, 1, 0, 0]
    assert np.abs(np.asarray(quick_arctan2(jnp.asarray(y), jnp.asarray(x))) - np.arctan2(y.astype(float), x)).max() < 5e-7


def test_histograms_count_what_the_energies_see_across_chain_breaks_and_weights(trp_cage, random):
    """The coordinates along the chain are those of `geometry`, tuple by tuple, each under the key of its residues."""
    frames, species = trp_cage
    weight = random.uniform(0.5, 2.0, frames.n_frames).astype(np.float32)
    chain_index = np.where(np.arange(20) < 9, 0, 1).astype(np.int32)
    frames = dataclasses.replace(frames, chain_index=chain_index, weight=weight)
    graph = all_pairs_graph(frames, frames.positions[0])
    for name, histogram in accumulate([frames], TERM_NAMES, species, pair_frames=10**6).items():
        tuples, mask = (np.asarray(some) for some in TERM_KINDS[name].tuples(graph))
        tuples = tuples[mask & (tuples[:, 0] < tuples[:, 1])]
        x = TERM_KINDS[name].feature(*steps(np.asarray(frames.positions, np.float64)[:, tuples]))
        bins, low, high = len(histogram.centres), *RANGES[name][:2]
        expected = np.histogram(x, bins, (low, high), weights=np.broadcast_to(weight[:, None], x.shape))[0]
        found = histogram.counts.sum((0, 1))
        assert found.sum() == pytest.approx(expected.sum(), rel=1e-6)
        # float32 and float64 put a few values on the other side of an edge.
        assert np.abs(found - expected).sum() < 2e-3 * expected.sum(), name
        key = histogram.keys[0]
        column = [key == key_name(name, [species[frames.species[bead]] for bead in beads[list(KEY_COLUMNS[name])]]) for beads in tuples]
        inside = (x[:, column] >= low) & (x[:, column] < high)
        assert histogram.counts[:, 0].sum() == pytest.approx((inside * weight[:, None]).sum(), rel=1e-3)


def test_default_prior_keeps_bonds_and_angles_of_a_real_protein_in_dynamics(trp_cage):
    frames, species = trp_cage
    prior = fit([frames], PriorConfig(bootstrap_samples=0), species)
    masses = np.array([RESIDUE_MASSES_AMU[species[s]] for s in frames.species])
    run = simulation(prior, frames, masses, 2000, save_every=20, n_replicas=4)(prior.arrays, 0)
    x = np.asarray(run.positions, np.float64)
    assert np.isfinite(x).all()
    r = np.linalg.norm(np.diff(x, axis=1), axis=-1)
    assert r.min() > 3.0
    assert r.max() < 4.8
    from cg_priors.geometry import bend_angle

    theta = bend_angle(np.stack([x[:, :-2], x[:, 1:-1], x[:, 2:]], 2))
    assert np.degrees(theta.min()) > 55
    assert np.degrees(theta).mean() < 140


def test_importing_the_package_brings_no_heavy_library():
    code = (
        "import sys, cg_priors.fit, cg_priors.energy, cg_priors.inputs, cg_priors.cli;"
        "found = {'haiku','jax_md','optax','orbax','matplotlib','openmm','MDAnalysis','scipy.optimize'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_thermal_energy_of_the_tests_is_that_of_300_kelvin():
    assert pytest.approx(0.59616, abs=1e-4) == KT
