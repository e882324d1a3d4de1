"""Fluctuations, contacts, surfaces and survival beside known ones."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_data.store import DomainData, write_dataset
from cg_data.units import thermal_energy
from cg_eval.bootstrap import time_blocks
from cg_eval.chain_observables import Observable
from cg_eval.compare import CompareConfig, compare_distributions, split_in_halves
from cg_eval.distributions import Bins, wasserstein, wasserstein_of_counts
from cg_eval.flexibility import compare_contacts, compare_flexibility
from cg_eval.stability import survival_interval
from cg_eval.stored_rmsf import stored_rmsf
from cg_eval.surfaces import free_energy_surfaces

MEAN = np.random.default_rng(0).normal(scale=8.0, size=(12, 3))


def shaken(spread, n_frames=400, seed=1, n_trajectories=4, mean=MEAN):
    """Frames of a fixed structure whose beads fluctuate with spreads [n_beads] A in each component."""
    noise = np.random.default_rng(seed).normal(size=(n_frames, len(mean), 3)) * np.asarray(spread)[:, None]
    return BeadFrames(
        positions=(mean + noise).astype(np.float32),
        forces=None,
        species=np.zeros(len(mean), np.int32),
        residue_index=np.arange(len(mean), dtype=np.int32),
        chain_index=np.zeros(len(mean), np.int32),
        temperature=np.full(n_frames, 300.0, np.float32),
        trajectory=np.repeat(np.arange(n_trajectories), n_frames // n_trajectories).astype(np.int32),
    )


def test_fluctuations_are_recovered_and_a_stiff_model_stands_out_from_the_noise():
    spread = np.linspace(0.2, 0.6, 12)
    reference, stiff = shaken(spread), shaken(0.5 * spread, seed=2)
    halves = split_in_halves(reference.trajectory)
    same = compare_flexibility(shaken(spread, seed=3), reference, halves, None, 100, 0)
    np.testing.assert_allclose(same.reference, np.sqrt(3) * spread, rtol=0.25)
    assert same.deviation < 2 * same.noise
    assert same.pearson > 0.95
    assert (same.low <= same.model).all()
    assert (same.model <= same.high).all()
    other = compare_flexibility(stiff, reference, halves, None, 100, 0)
    assert other.deviation > 5 * other.noise


def test_fluctuations_of_single_frames_are_not_known():
    reference = shaken(np.full(12, 0.3), 40)
    found = compare_flexibility(shaken(np.full(12, 0.3), 4), reference, split_in_halves(reference.trajectory), None, 10, 0)
    assert np.isnan([found.deviation, found.pearson, *found.model]).all()
    result = compare_distributions(shaken(np.full(12, 0.3), 4), reference, CompareConfig(n_resamples=10))
    assert "RMSF: not known" in result.table()


def test_the_interval_of_a_survival_holds_the_truth_as_often_as_it_says_also_where_all_survive():
    low, high = survival_interval(np.array([1.0, 0.5, 0.0]), 4)
    # The chance of 4 of 4, or of none, is 2.5 % at these.
    assert low[0] ** 4 == pytest.approx(0.025)
    assert (1 - high[2]) ** 4 == pytest.approx(0.025)
    assert (high[0], low[2]) == (1, 0)
    for truth in (0.5, 0.9, 0.97):
        alive = np.random.default_rng(0).binomial(8, truth, size=2000)
        low, high = survival_interval(alive / 8, 8)
        assert ((low <= truth) & (truth <= high)).mean() >= 0.95


def test_contacts_differ_by_the_fraction_of_frames_in_which_a_pair_is_apart():
    """A chain stretched so that nothing touches but a pair of far ends, which the model opens in half of its frames."""
    mean = np.zeros((6, 3))
    mean[:, 0] = 20.0 * np.arange(6)
    mean[5] = mean[0] + [0, 5.0, 0]
    reference, model = (shaken(np.full(6, 1e-3), 40, mean=mean) for _ in range(2))
    model.positions[::2, 5, 1] += 50.0
    found = compare_contacts(model, reference, split_in_halves(reference.trajectory), 50, 0)
    assert found.model[0, 5] == pytest.approx(0.5)
    assert found.reference[0, 5] == 1.0
    # Ordered pairs three or more apart: (0,3) (0,4) (0,5) (1,4) (1,5) (2,5), twice.
    assert found.deviation == pytest.approx(0.5 * 2 / 12)
    assert found.low <= found.deviation <= found.high
    assert found.noise == 0


def test_the_surface_of_two_independent_gaussians_is_theirs_and_a_wider_model_deviates_by_its_closed_form():
    generator = np.random.default_rng(3)
    points = [generator.normal(scale=scale, size=(100_000, 2)) for scale in (1.2, 1.0)]
    frames = []
    for xy in points:
        positions = np.zeros((len(xy), 2, 3), np.float32)
        positions[:, 0, :2] = xy
        frames.append(positions)
    model, reference = (
        BeadFrames(
            positions=x, forces=None, species=np.zeros(2, np.int32), residue_index=np.arange(2, dtype=np.int32),
            chain_index=np.zeros(2, np.int32), temperature=np.full(len(x), 300.0, np.float32), trajectory=np.zeros(len(x), np.int32),
        )
        for x in frames
    )  # fmt: skip
    known = {name: Observable("A", lambda f, axis=axis: f.positions[:, 0, axis : axis + 1]) for axis, name in enumerate(("rg", "rmsd"))}
    blocks = time_blocks(model.trajectory, 10_000)
    (surface,) = free_energy_surfaces(model, reference, split_in_halves(reference.trajectory), blocks, known, 300.0, 5, 20, 0)
    x, y = surface.x_bins.centres[:, None], surface.y_bins.centres[None]
    expected = 0.5 * thermal_energy(300.0) * (x**2 + y**2)
    inner = (np.abs(x) < 1.6) & (np.abs(y) < 1.6)
    difference = (surface.reference - expected)[inner]
    assert np.ptp(difference) < 0.2
    change = (surface.model - surface.reference - (1 / 1.2**2 - 1) * expected)[inner]
    assert np.ptp(change) < 0.2
    assert surface.divergence.estimate > 5 * surface.noise
    assert surface.divergence.low <= surface.divergence.estimate


def test_wasserstein_of_histograms_equals_that_of_samples_to_a_bin():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=2000), generator.normal(0.5, 1.3, size=3000)
    bins = Bins(-6, 6, 120)
    assert wasserstein_of_counts(bins.counts(first), bins.counts(second), bins) == pytest.approx(wasserstein(first, second), abs=0.1)
    turned = np.pi - np.abs(generator.normal(scale=0.1, size=500)), -np.pi + np.abs(generator.normal(scale=0.1, size=500))
    circle = Bins(-np.pi, np.pi, 200)
    found = wasserstein_of_counts(circle.counts(turned[0]), circle.counts(turned[1]), circle, periodic=True)
    assert found == pytest.approx(wasserstein(*turned, 2 * np.pi), abs=0.05)


def test_every_figure_of_a_comparison_is_written_as_png_and_pdf(tmp_path):
    """With short chains and few frames, where single observables do not exist."""
    found = compare_distributions(shaken(np.full(12, 0.3), 80, seed=2), shaken(np.full(12, 0.3), 80), CompareConfig(n_resamples=20))
    names = {row.observable for row in found.rows}
    assert names >= {"bond", "angle", "dihedral", "rg", "end_to_end", "rmsd", "q", "helicity", "clashes", "gdt_ts", "tm_score", "lddt_ca"}
    assert {(surface.x, surface.y) for surface in found.surfaces} == {("rg", "rmsd"), ("q", "rmsd"), ("tica_1", "tica_2")}
    found.save(tmp_path / "out")
    figures = {"distributions", "free-energies", "surfaces", "contacts", "rmsf"}
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == figures
    assert {path.stem for path in (tmp_path / "out").glob("*.pdf")} == figures
    assert "noise" in (tmp_path / "out/comparison.txt").read_text()


def test_stored_fluctuations_are_read_in_angstrom_at_the_temperature_asked_for(tmp_path):
    frames = shaken(np.full(12, 0.1), 8)
    data = write_dataset(tmp_path / "data", {"1abcA00": DomainData(frames, ["ALA"] * 12, source="mdcath_dataset_1abcA00.h5")}, ("ALA",))
    with h5py.File(tmp_path / "mdcath_dataset_1abcA00.h5", "w") as file:
        for temperature, replica, value in ((300, 0, 0.03), (300, 1, 0.04), (450, 0, 0.9)):
            file[f"1abcA00/{temperature}/{replica}/rmsf"] = np.full(12, value)
    np.testing.assert_allclose(stored_rmsf(tmp_path, data, "1abcA00", 300.0), np.sqrt((0.3**2 + 0.4**2) / 2))
    with pytest.raises(UserError, match="no rmsf of 1abcA00 at 320 K"):
        stored_rmsf(tmp_path, data, "1abcA00", 320.0)
    with pytest.raises(UserError, match="give the folder of the files"):
        stored_rmsf(tmp_path / "data", data, "1abcA00", 300.0)


def test_the_contacts_of_the_reference_are_drawn_in_the_upper_left(monkeypatch):
    import cg_eval.comparison_plots as plots

    drawn = []
    monkeypatch.setattr(plots, "finish", lambda figure, path, caption: drawn.append(figure))
    contacts = SimpleNamespace(reference=np.ones((6, 6)), model=np.zeros((6, 6)), deviation=1.0, noise=0.0)
    plots.plot_contacts(SimpleNamespace(contacts=contacts, caption=lambda: ""), None)
    axis = drawn[0].axes[0]
    image = axis.images[0]
    assert axis.get_title() == "upper left: reference; lower right: model"
    assert image.origin == "lower"
    assert image.get_array()[4, 0] == 1.0
    assert image.get_array()[0, 4] == 0.0
