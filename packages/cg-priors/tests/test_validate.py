"""Files of priors that cannot be meant are refused in one line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from cg_data.errors import UserError
from cg_priors.parameters import load_prior

DATA = Path(__file__).parent / "data"
ORIGINAL = {
    "temperature_kelvin": 300,
    "bond": {"r0": 3.84, "kr": 150.0},
    "angle": {"a": [0.5, 0.4], "b": [-2.8, -0.1]},
    "dihedral": {"k": [0.8, 0.5, 0.3], "gamma": [0.7, -2.0, 1.2]},
    "repulsion": {"epsilon": 1.0, "sigma": 4.0},
}


def refused(document, folder):
    (folder / "changed.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(UserError) as error:
        load_prior(folder / "changed.yaml")
    assert "\n" not in str(error.value)
    assert "changed.yaml" in str(error.value)
    return str(error.value)


def terms_of(document):
    return document["blocks"][0]["terms"]


def every_row(term, **values):
    for row in term["rows"].values():
        row.update(values)


def rename_pooled(rows):
    rows["ALA-ALA"] = rows.pop("*")


def pooled_last(rows):
    rows["ALA-ALA"] = rows["*"]
    rows["*"] = rows.pop("*")


def without_high(term):
    for row in term["rows"].values():
        del row["statistics"]["high"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda terms: every_row(terms["angle"], sine=[1.0, 2.0, 0.0]), "angle: lengths of cosine, sine = "),
        (lambda terms: every_row(terms["angle"], sine=[0.5]), "expected equal lengths of at least 1"),
        (lambda terms: every_row(terms["angle"], cosine=[], sine=[]), "angle: lengths of cosine, sine = (0, 0)"),
        (lambda terms: terms["bond"].update(rows={}), "bond: rows: expected the pooled row '*', received none"),
        (lambda terms: rename_pooled(terms["bond"]["rows"]), "bond: rows: expected the pooled row '*', received ALA-ALA"),
        (lambda terms: pooled_last(terms["bond"]["rows"]), "bond: rows = ['ALA-ALA', '*']: expected the pooled row '*' first"),
        (lambda terms: terms["repulsion"].update(settings=None), "repulsion: settings: expected a mapping, received None"),
        (lambda terms: without_high(terms["angle"]), "angle: statistics = low, count: expected both low and high"),
        (
            lambda terms: every_row(terms["bond"], statistics={"low": 4.1, "high": 3.6}),
            "bond: row *: statistics.low = 4.1: expected at most",
        ),
        (lambda terms: every_row(terms["bond"], statistics={"low": [3.6], "high": [4.1]}), "bond: statistics.low shape"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path, edit, message):
    shutil.copy(DATA / "prior-v1.npz", tmp_path)
    document = yaml.safe_load((DATA / "prior-v1.yaml").read_text())
    for term in terms_of(document).values():
        term["rows"] = {"*": term["rows"]["*"]}
    # Several rows of the spline are in the NPZ; here only the other terms matter.
    del terms_of(document)["dihedral"]
    edit(terms_of(document))
    assert message in refused(document, tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dihedral": {"k": [0.8, 0.5, 0.3], "gamma": [0.7]}}, "dihedral: lengths of force_constants, phases = (3, 1)"),
        ({"angle": {"a": [0.5, 0.4], "b": [-2.8]}}, "angle: lengths of cosine, sine = (2, 1)"),
        ({"angle": {"a": [], "b": []}}, "angle: lengths of cosine, sine = (0, 0)"),
        ({"bond": {"r0": 3.84, "kr": 150.0, "weight": "heavy"}}, "bond: weight: expected a number, received heavy"),
        ({"spline_file": 5}, "spline_file: expected the name of an NPZ file, received 5"),
    ],
)
def test_an_original_file_with_parts_that_do_not_fit_is_refused(tmp_path, changed, message):
    assert message in refused({**ORIGINAL, **changed}, tmp_path)


def splines(**changed):
    x = {"bond": np.linspace(3.4, 4.4, 60), "angle": np.linspace(0.9, 2.9, 60), "dihedral": np.linspace(-np.pi, np.pi, 60)}
    energy = {"bond": 50 * (x["bond"] - 3.84) ** 2, "angle": 5 * (x["angle"] - 1.9) ** 2, "dihedral": np.cos(x["dihedral"])}
    arrays = {f"{name}_x": value for name, value in x.items()} | {f"{name}_energy": value for name, value in energy.items()}
    return {**arrays, **changed}


def test_an_original_file_may_have_every_bonded_term_in_its_spline_file(tmp_path):
    np.savez(tmp_path / "splines.npz", **splines())
    document = {key: ORIGINAL[key] for key in ("temperature_kelvin", "repulsion")} | {"spline_file": "splines.npz"}
    (tmp_path / "original.yaml").write_text(yaml.safe_dump(document))
    prior = load_prior(tmp_path / "original.yaml")
    assert {name for name, term in prior.terms.items() if term.form == "spline"} == {"bond", "angle", "dihedral"}
    np.savez(tmp_path / "splines.npz", other=np.zeros(3))
    assert "expected bond, angle or dihedral, or a spline_file with arrays such as bond_x" in refused(document, tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"angle_x": np.degrees(np.linspace(0.9, 2.9, 60))},
            "angle_x: expected values within 0 to 3.1416 radian, received 51.566 to 166.16",
        ),
        ({"dihedral_x": np.linspace(0, 2 * np.pi, 60)}, "dihedral_x: expected values within -3.1416 to 3.1416 radian"),
        ({"bond_x": np.linspace(0.34, 0.44, 60)}, "bond_x: expected values within 1 to 7 angstrom, received 0.34 to 0.44"),
        ({"bond_energy": np.full(60, np.nan)}, "bond_energy: expected finite numbers"),
        ({"bond_energy": np.array(["a"] * 60)}, "bond_energy: expected numbers, received dtype <U1"),
    ],
)
def test_splines_of_an_original_file_lie_on_their_axes(tmp_path, changed, message):
    np.savez(tmp_path / "splines.npz", **splines(**changed))
    assert message in refused({**ORIGINAL, "spline_file": "splines.npz"}, tmp_path)
