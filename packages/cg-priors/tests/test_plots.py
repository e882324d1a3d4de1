"""What is drawn and scored: each row with the data that it was fitted on, each temperature on a page of its own."""

import dataclasses

import numpy as np
import pytest
from typer.testing import CliRunner

from cg_data.errors import UserError
from cg_data.mapping import RESIDUE_SPECIES
from cg_priors.cli import app
from cg_priors.config import PriorConfig
from cg_priors.fit import fit, fit_and_histograms
from cg_priors.parameters import save_prior
from cg_priors.plots import plot_prior
from cg_priors.report import describe, histograms_at, plot_files

from . import chains

Figure = pytest.importorskip("matplotlib.figure").Figure
SPECIES = RESIDUE_SPECIES
ALA, PRO = SPECIES.index("ALA"), SPECIES.index("PRO")
N = 4000
QUICK = {"bootstrap_samples": 0, **dict.fromkeys(("angle", "dihedral", "repulsion", "excluded_volume"))}
TEMPERATURES = (300.0, 350.0)


@pytest.fixture(scope="module")
def cis_frames():
    """Eight beads, two of them proline; a third of the bonds before proline are cis."""
    random = np.random.default_rng(0)
    r = random.normal(3.81, 0.06, (N, 7))
    for before_proline in (2, 5):
        r[:, before_proline] = np.where(random.random(N) < 1 / 3, random.normal(2.95, 0.06, N), r[:, before_proline])
    positions = chains.build(r, random.normal(1.8, 0.15, (N, 6)), random.uniform(-np.pi, np.pi, (N, 5)))
    return chains.frames(positions, species=[ALA, ALA, ALA, PRO, ALA, ALA, PRO, ALA])


@pytest.fixture(scope="module")
def two_temperatures(cis_frames):
    temperature = np.repeat(np.float32(TEMPERATURES), N // 2)
    return dataclasses.replace(cis_frames, temperature=temperature, species=np.full(8, ALA, np.int32))


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, with the axes' titles, limits and artists."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: (saved.append(self), save(self, *args, **kwargs))[1])
    return saved


def left_axes(figure, title):
    (found,) = [axis for axis in figure.axes if axis.get_title(loc="left") == title]
    return found


def scores(text):
    """Return the JS divergences of the bond lines of a description, in order."""
    return [
        [float(part.split()[1]) for part in line.split(", ") if part.startswith("JS ")] for line in text.splitlines() if " bond " in line
    ]


@pytest.mark.parametrize("keys", ["pooled", "residue"])
def test_a_cis_trans_row_is_scored_on_the_bonds_that_it_was_fitted_on(cis_frames, keys):
    config = PriorConfig.parse({**QUICK, "bond": {"form": "cis_trans", "keys": keys, "minimum_count": 100}}, "test")
    prior, histograms = fit_and_histograms([cis_frames], config, SPECIES)
    text = describe(prior, histograms)
    assert scores(text) == [[pytest.approx(0, abs=2e-3)] * 2], "JS of all bonds and of those before proline"
    assert "of *-PRO" in text


def test_the_row_before_proline_has_a_panel_that_shows_its_data(cis_frames, figures, tmp_path):
    prior, histograms = fit_and_histograms([cis_frames], PriorConfig.parse({**QUICK, "bond": {"form": "cis_trans"}}, "test"), SPECIES)
    assert plot_prior(tmp_path / "page.png", prior, histograms) == [tmp_path / "page.png"]
    (figure,) = figures
    others, before_proline = left_axes(figure, "bond"), left_axes(figure, "bond, *-PRO")
    assert before_proline.get_xlim()[0] < 2.8
    assert before_proline.get_xlim()[1] > 4.0
    for axis, share in ((others, 0.0), (before_proline, 1 / 3)):
        density, edges, _ = axis.patches[0].get_data()
        cis = (density * np.diff(edges))[edges[:-1] < 3.35].sum()
        assert cis == pytest.approx(share, abs=0.02)


def test_other_data_are_shown_in_full(cis_frames, figures, tmp_path):
    prior = fit([cis_frames], PriorConfig.parse({**QUICK, "bond": {"form": "cis_trans"}}, "test"), SPECIES)
    shorter = dataclasses.replace(cis_frames, positions=cis_frames.positions * 0.85)
    plot_prior(tmp_path / "page.png", prior, histograms_at(prior, [shorter]))
    assert left_axes(figures[0], "bond").get_xlim()[0] < 0.85 * 3.81 - 0.3
    no_proline = dataclasses.replace(cis_frames, species=np.full(8, ALA, np.int32))
    plot_prior(tmp_path / "page.png", prior, histograms_at(prior, [no_proline]))
    assert not left_axes(figures[1], "bond, *-PRO").patches, "no such data, no histogram, no error"


def test_each_temperature_is_scored_and_has_a_page(two_temperatures, figures, tmp_path):
    prior, histograms = fit_and_histograms([two_temperatures], PriorConfig.parse({**QUICK, "temperature_kelvin": "all"}, "test"), SPECIES)
    assert [len(found) for found in scores(describe(prior, histograms))] == [1, 1]
    pages = plot_prior(tmp_path / "all.png", prior, histograms)
    assert [page.name for page in pages] == ["all-300K.png", "all-350K.png"]
    assert ["300 K" in figures[0].get_suptitle(), "350 K" in figures[1].get_suptitle()] == [True, True]
    assert all(page.is_file() for page in pages)
    assert not (tmp_path / "all.png").exists()


def test_plot_picks_the_temperatures_that_the_frames_have(two_temperatures, figures, tmp_path):
    prior = fit([two_temperatures], PriorConfig.parse({**QUICK, "temperature_kelvin": "all"}, "test"), SPECIES)
    save_prior(tmp_path / "prior.yaml", prior)
    frames = {"positions": two_temperatures.positions[N // 2 :], "residue_names": np.array(["ALA"] * 8)}
    np.savez(tmp_path / "350.npz", **frames, temperature_kelvin=350.0)
    np.savez(tmp_path / "both.npz", **frames, temperature_kelvin=np.repeat(TEMPERATURES, N // 4))
    np.savez(tmp_path / "none.npz", **frames)

    def pages(*arguments):
        done = CliRunner().invoke(app, ["plot", str(tmp_path / "prior.yaml"), *map(str, arguments)], catch_exceptions=False)
        return [line.rsplit("/", 1)[1] for line in done.stdout.splitlines()]

    assert pages(tmp_path / "350.npz", "-o", tmp_path / "page.png") == ["page.png"]
    assert "350 K" in figures[-1].get_suptitle()
    assert pages(tmp_path / "none.npz", "-o", tmp_path / "told.png", "--temperature", 350) == ["told.png"]
    assert "350 K" in figures[-1].get_suptitle()
    assert pages(tmp_path / "both.npz", "-o", tmp_path / "page.svg") == ["page-300K.svg", "page-350K.svg"]
    assert pages("-o", tmp_path / "alone.svg") == ["alone-300K.svg", "alone-350K.svg"]


def test_data_of_other_species_are_not_compared(cis_frames, tmp_path):
    prior = fit([cis_frames], PriorConfig.parse({**QUICK, "bond": {"form": "cis_trans"}}, "test"), SPECIES)
    save_prior(tmp_path / "prior.yaml", dataclasses.replace(prior, species_names=SPECIES[::-1]))
    np.savez(tmp_path / "data.npz", positions=cis_frames.positions, residue_names=np.array(["ALA"] * 8), temperature_kelvin=300.0)
    with pytest.raises(UserError, match="use data of one mapping"):
        plot_files(tmp_path / "prior.yaml", tmp_path / "data.npz", tmp_path / "page.png", None, "train", None)
