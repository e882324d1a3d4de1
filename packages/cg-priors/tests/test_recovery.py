"""Fits recover the potentials that exact samples were drawn from, within five bootstrap standard errors."""

import dataclasses

import jax
import numpy as np
import pytest

from cg_data.units import thermal_energy
from cg_priors.config import PriorConfig
from cg_priors.fit import fit
from cg_priors.fit_harmonic import ABSENT, fit_cis_trans
from cg_priors.fit_lbfgs import forces_of_slopes, slope_values
from cg_priors.force_frames import force_frames
from cg_priors.forms import FORMS
from cg_priors.parameters import BONDED

from . import chains

T = 300.0
KT = thermal_energy(T)
SPECIES = ("ALA", "PRO")
N = 12_000
ONLY = {"repulsion": None, "excluded_volume": None, "bootstrap_samples": 30}
SIMPLE = {"bond": {"form": "harmonic"}, "angle": {"form": "fourier", "order": 2}, "dihedral": {"form": "periodic", "order": 1}}

TRUTH = {
    "harmonic": {"force_constant": 150.0, "length": 3.81},
    "fourier": {"cosine": [0.5, 0.4], "sine": [-2.8, -0.1]},
    "quartic": {"angle": 1.75, "quadratic": 6.0, "cubic": -3.0, "quartic": 12.0},
    "restricted": {"force_constant": 8.0, "angle": 1.9},
    "periodic": {"force_constants": [0.8, 0.5, 0.3], "phases": [0.7, -2.0, 1.2]},
    "gaussians": {"log_weights": [0.0, -0.7], "centres": [-2.0, 0.9], "widths": [0.5, 0.25]},
}
SETTINGS = {"gaussians": {"thermal_energy": KT}}


def potential(form):
    p = {key: np.asarray(value, float)[None] for key, value in TRUTH[form].items()}
    return lambda x: FORMS[form].formula(x, p, SETTINGS.get(form, {}))


def sampled_frames(random, bond="harmonic", angle="fourier", dihedral="periodic", n_beads=8, n=N):
    r = chains.bonds(random, potential(bond), (n, n_beads - 1), T)
    theta = chains.angles(random, potential(angle), (n, n_beads - 2), T)
    phi = chains.dihedrals(random, potential(dihedral), (n, n_beads - 3), T)
    return chains.frames(chains.build(r, theta, phi), T)


def fitted(frames, **options):
    return fit([frames], PriorConfig.parse({**ONLY, **SIMPLE, **options}, "test"), SPECIES)


def assert_recovered(prior, term, form):
    assert prior.terms[term].form == form
    for key, expected in TRUTH[form].items():
        error = prior.terms[term].errors[key][0]
        assert (error < 0.4 * (np.abs(expected) + 1)).all(), f"{key}: the data say too little: {error}"
        deviation = prior.arrays[term][key][0] - np.asarray(expected)
        if key in ("phases", "centres"):
            deviation = np.angle(np.exp(1j * deviation))
        assert (np.abs(deviation) <= 5 * error + 1e-9).all(), f"{key}: off by {deviation}, standard error {error}"


def test_harmonic_bond_fourier_angle_and_periodic_dihedral(random):
    prior = fitted(sampled_frames(random), angle={"form": "fourier", "order": 2}, dihedral={"form": "periodic", "order": 3})
    assert_recovered(prior, "bond", "harmonic")
    assert_recovered(prior, "angle", "fourier")
    assert_recovered(prior, "dihedral", "periodic")


def test_leaving_out_the_bond_jacobian_would_be_noticed(random):
    """The r^2 Jacobian moves the mean by 2 kT / (k r0), many standard errors: the fit must remove it."""
    frames = sampled_frames(random)
    prior = fitted(frames)
    mean = float(np.linalg.norm(np.diff(frames.positions, axis=1), axis=-1).mean())
    assert mean - 3.81 > 5 * prior.terms["bond"].errors["length"][0]


def test_quartic_angle(random):
    assert_recovered(fitted(sampled_frames(random, angle="quartic"), angle={"form": "quartic"}), "angle", "quartic")


def test_restricted_angle(random):
    prior = fitted(sampled_frames(random, angle="restricted", n=4000), angle={"form": "restricted"}, bootstrap_samples=12)
    assert_recovered(prior, "angle", "restricted")


def test_gaussian_sum_dihedral(random):
    frames = sampled_frames(random, dihedral="gaussians")
    prior = fitted(frames, dihedral={"form": "gaussians", "order": 2})
    assert_recovered(prior, "dihedral", "gaussians")


@pytest.mark.parametrize("estimate", ["kde", "histogram"])
def test_least_squares_to_a_density_finds_the_same_bond(estimate, random):
    prior = fitted(sampled_frames(random), bond={"form": "harmonic", "estimate": estimate})
    # Binning and smoothing widen the distribution by a stated amount; the likelihood does not.
    assert prior.arrays["bond"]["force_constant"][0] == pytest.approx(150, rel=0.08)
    assert prior.arrays["bond"]["length"][0] == pytest.approx(3.81, abs=3e-3)


def test_splines_follow_the_potentials_they_were_sampled_from(random):
    """The free energy at the knots, less its mean, is within five standard errors: of the mean over eight parts of the data."""
    frames = sampled_frames(random)
    options = {name: {"form": "spline"} for name in BONDED}
    whole, *parts = [
        fitted(some, **options, bootstrap_samples=0) for some in (frames, *(frames.select(np.arange(k, N, 8)) for k in range(8)))
    ]
    for term, form in (("bond", "harmonic"), ("angle", "fourier"), ("dihedral", "periodic")):
        settings = whole.terms[term].settings
        n = whole.arrays[term]["coefficients"].shape[1]
        knots = np.linspace(settings["low"], settings["high"], n + 1 if settings["periodic"] else n - 2)
        low, high = (float(whole.terms[term].statistics[key][0]) for key in ("low", "high"))
        knots = knots[(knots > low) & (knots < high)]

        def energy(prior, term=term, knots=knots):
            u = FORMS["spline"].formula(knots, prior.arrays[term], prior.terms[term].settings)
            return u - u.mean()

        truth = potential(form)(knots)
        error = np.std([energy(prior) for prior in parts], axis=0, ddof=1) / np.sqrt(8)
        deviation = np.abs(energy(whole) - (truth - truth.mean()))
        assert len(knots) >= 5
        assert (deviation < 5 * error).all(), f"{term}: {deviation / error}"


def test_cis_and_trans_proline_are_told_apart(random):
    trans, cis = potential("harmonic"), {"force_constant": 200.0, "length": 2.95, "energy": 1.2}

    def two_wells(r):
        return -KT * np.logaddexp(-trans(r) / KT, -(0.5 * cis["force_constant"] * (r - cis["length"]) ** 2 + cis["energy"]) / KT)

    n = N
    r = chains.bonds(random, trans, (n, 5), T)
    r[:, 2] = chains.bonds(random, two_wells, n, T)
    theta = chains.angles(random, potential("fourier"), (n, 4), T)
    phi = chains.dihedrals(random, potential("periodic"), (n, 3), T)
    frames = chains.frames(chains.build(r, theta, phi), T, species=[0, 0, 0, 1, 0, 0])
    prior = fitted(frames, bond={"form": "cis_trans"})
    term, arrays = prior.terms["bond"], prior.arrays["bond"]
    assert term.rows == ("*", "*-PRO")
    assert arrays["cis_energy"][0] == 50, "no other residue has a cis well"
    for key, expected in (("force_constant", 150), ("length", 3.81)):
        assert abs(arrays[key][1] - expected) < 5 * term.errors[key][1]
        assert abs(arrays[f"cis_{key}"][1] - cis[key]) < 5 * term.errors[f"cis_{key}"][1]
    assert abs(arrays["cis_energy"][1] - cis["energy"]) < 5 * term.errors["cis_energy"][1]


@pytest.mark.parametrize(
    ("n_trans", "n_cis", "first"), [(20, 0, "trans"), (20, 8, "trans"), (3, 30, "cis"), (0, 30, "cis"), (20, 400, "cis")]
)
def test_few_bonds_before_proline_have_the_well_that_most_of_them_are_in(random, n_trans, n_cis, first):
    """As the resamples of a bootstrap may have them, or a short trajectory."""
    centres = np.linspace(2.0, 6.0, 1601)[:-1] + 0.00125
    r = np.concatenate([random.normal(3.8, 0.06, n_trans), random.normal(2.95, 0.06, n_cis)])
    found = fit_cis_trans(np.histogram(r, 1600, (2.0, 6.0))[0], centres, T)
    assert found["cis_energy"] == ABSENT
    assert found["length"] == found["cis_length"] == pytest.approx({"trans": 3.8, "cis": 2.95}[first], abs=0.06)
    assert found["force_constant"] == found["cis_force_constant"] > 50


def test_order_is_found_by_cross_validation_and_by_bic(random):
    frames = sampled_frames(random)
    for by in ("cross_validation", "bic"):
        prior = fitted(frames, dihedral={"form": "periodic", "order_by": by}, bootstrap_samples=0)
        notes = prior.terms["dihedral"].notes
        assert notes["order"] == 3, notes
        assert notes["order_chosen_by"] == by


def test_repulsion_sigma_is_the_low_quantile_of_each_pair_of_types(random):
    n = 400
    positions = np.zeros((n, 14, 3))
    positions[:, :, 0] = 3.8 * np.arange(14)
    near = random.uniform(5.0, 9.0, n)
    positions[:, 13] = positions[:, 0] + np.stack([near, 0 * near, 0 * near], 1)
    frames = chains.frames(positions, T, species=[1, *[0] * 12, 1])
    config = PriorConfig.parse(
        {"bond": None, "angle": None, "dihedral": None, "repulsion": {"keys": "residue", "minimum_count": 100, "quantile": 0.1}}, "test"
    )
    prior = fit([frames], config, SPECIES)
    row = prior.terms["repulsion"].rows.index("PRO-PRO")
    assert prior.arrays["repulsion"]["sigma"][row] == pytest.approx(np.quantile(near, 0.1), abs=0.05)


def test_sigma_is_the_exact_quantile_of_a_known_soft_sphere(random):
    """Distances drawn from r^2 exp(-U/kT) of eps (sigma/r)^4: the quantile's truth is an integral."""
    settings = {"switch": 6.0, "cutoff": 8.0}
    p = {"epsilon": np.array([1.5]), "sigma": np.array([5.0])}
    grid = np.linspace(2.0, 9.9, 20_001)
    weight = grid**2 * np.exp(-FORMS["soft_sphere"].formula(grid, p, settings) / KT)
    cumulative = np.cumsum(weight) / weight.sum()
    near = np.interp(random.uniform(size=4000), cumulative, grid)
    positions = np.zeros((4000, 14, 3))
    positions[:, :, 0] = 3.8 * np.arange(14)
    positions[:, 13] = positions[:, 0] + near[:, None] * [0, 1, 0]
    frames = chains.frames(positions, T, species=[1, *[0] * 12, 1])
    options = {"keys": "residue", "minimum_count": 100, "quantile": 0.05}
    prior = fit([frames], PriorConfig.parse({"bond": None, "angle": None, "dihedral": None, "repulsion": options}, "test"), SPECIES)
    row = prior.terms["repulsion"].rows.index("PRO-PRO")
    error = prior.terms["repulsion"].errors["sigma"][row]
    assert 0 < error < 0.1
    assert abs(prior.arrays["repulsion"]["sigma"][row] - np.interp(0.05, cumulative, grid)) < 5 * error


@pytest.mark.parametrize("method", ["joint", "lbfgs"])
def test_strengths_of_repulsion_and_excluded_volume_from_noisy_forces(method, random):
    """Four beads of one segment, 3 to 10 residues apart, anywhere in a small box; the forces carry noise of 2 kcal/mol/A."""
    n, truth = 600, {"repulsion": 2.5, "excluded_volume": 0.7}
    data = chains.frames(random.uniform(0, 6.5, (n, 4, 3)), T)
    data = dataclasses.replace(data, residue_index=np.array([0, 3, 7, 10], np.int32))
    options = {name: {"sigma": 4.5, "switch_angstrom": 5.0, "cutoff_angstrom": 7.0} for name in truth}
    options |= {"bond": None, "angle": None, "dihedral": None, "method": method, "bootstrap_samples": 40, "force_match": {"ridge": 0.0}}
    known = fit([data], PriorConfig.parse({**options, "method": "boltzmann"}, "test"), SPECIES)
    arrays = {name: {**known.arrays[name], "epsilon": np.array([value])} for name, value in truth.items()}
    slopes = forces_of_slopes(known, force_frames([dataclasses.replace(data, forces=np.zeros((n, 4, 3), np.float32))], n))
    with jax.enable_x64(True):
        forces = -(slopes.push @ np.asarray(slope_values(known, slopes, arrays))).reshape(n, 4, 3)
    noisy = np.asarray(forces + random.normal(0, 2.0, forces.shape), np.float32)
    prior = fit([dataclasses.replace(data, forces=noisy)], PriorConfig.parse(options, "test"), SPECIES)
    for name, expected in truth.items():
        error = prior.terms[name].errors["epsilon"][0]
        assert 0 < error < 0.1
        assert abs(prior.arrays[name]["epsilon"][0] - expected) < 5 * error, name
