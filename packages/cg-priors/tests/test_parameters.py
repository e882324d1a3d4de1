import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml

from cg_data.errors import UserError
from cg_priors.config import PriorConfig
from cg_priors.fit import fit
from cg_priors.parameters import load_prior, save_prior

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def prior(trp_cage):
    frames, species = trp_cage
    config = PriorConfig.parse(
        {"bootstrap_samples": 3, "angle": {"form": "spline"}, "bond": {"keys": "residue", "minimum_count": 100}}, "t"
    )
    return fit([frames], config, species)


@pytest.fixture
def document(prior, tmp_path):
    save_prior(tmp_path / "prior.yaml", prior)
    return yaml.safe_load((tmp_path / "prior.yaml").read_text())


def refused(document, tmp_path):
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(UserError) as error:
        load_prior(tmp_path / "changed.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_prior_loads_with_the_same_numbers(prior, tmp_path):
    save_prior(tmp_path / "prior.yaml", prior)
    loaded = load_prior(tmp_path / "prior.yaml")
    assert loaded.species_names == prior.species_names
    assert loaded.weights == prior.weights
    for name, term in prior.terms.items():
        assert loaded.terms[name].rows == term.rows
        assert dict(loaded.terms[name].settings) == dict(term.settings)
        for key, value in prior.arrays[name].items():
            np.testing.assert_array_equal(loaded.arrays[name][key], value)
        assert loaded.terms[name].errors.keys() == term.errors.keys()
        for key, value in term.errors.items():
            np.testing.assert_array_equal(loaded.terms[name].errors[key], value)
        for key, value in term.statistics.items():
            np.testing.assert_array_equal(loaded.terms[name].statistics[key], value)
    assert {path.name for path in tmp_path.iterdir()} == {"prior.yaml", "prior.npz"}


def test_the_file_of_format_version_1_still_loads():
    prior = load_prior(DATA / "prior-v1.yaml")
    assert set(prior.terms) == {"bond", "angle", "dihedral", "repulsion", "excluded_volume"}
    assert prior.terms["dihedral"].form == "spline"
    assert len(prior.others) == 1


def test_residues_below_the_count_use_the_pooled_row_and_the_file_says_so(prior, document):
    term = prior.terms["bond"]
    assert term.rows[0] == "*"
    assert len(term.rows) > 1
    notes = document["blocks"][0]["terms"]["bond"]["notes"]
    assert notes["minimum_count"] == 100
    assert not set(notes["pooled_below_minimum_count"]) & set(term.rows)


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [("force_constant", -3.0, "above 0"), ("length", 5.2, "2.5 to 4.5 angstrom"), ("length", float("nan"), "finite numbers")],
)
def test_a_bad_bond_is_named_with_its_value_and_the_accepted_range(document, tmp_path, key, value, accepted):
    document["blocks"][0]["terms"]["bond"]["rows"]["*"][key] = value
    message = refused(document, tmp_path)
    assert all(part in message for part in ("bond", "row *", key, f"{value:g}", accepted)), message


def test_other_violations_are_named(document, tmp_path):
    def change(edit):
        copy = yaml.safe_load(yaml.safe_dump(document))
        edit(copy["blocks"][0], copy)
        return refused(copy, tmp_path)

    assert "weight = -1" in change(lambda block, _: block["terms"]["angle"].update(weight=-1.0))
    assert "barrier in the sampled range" in change(
        lambda block, _: block["terms"]["dihedral"]["rows"]["*"].update(force_constants=[40.0] * 6)
    )
    assert "temperature_kelvin" in change(lambda block, _: block.pop("temperature_kelvin"))
    assert "temperature_kelvin" in change(lambda block, _: block.update(temperature_kelvin=-4.0))
    assert "epsilon" in change(lambda block, _: block["terms"]["repulsion"]["rows"]["*"].update(epsilon=0.0))
    assert "cutoff" in change(lambda block, _: block["terms"]["repulsion"]["settings"].update(cutoff=3.0))
    assert "unknown form" in change(lambda block, _: block["terms"]["bond"].update(form="morse"))
    assert "row 'XYZ'" in change(lambda block, _: block["terms"]["bond"]["rows"].update(XYZ=block["terms"]["bond"]["rows"]["*"]))
    assert "format version 1, received 7" in change(lambda _, whole: whole.update(version=7))
    assert "units" in change(lambda _, whole: whole["units"].update(length="nm"))
    assert "format" in change(lambda _, whole: whole.update(format="other"))


def test_a_potential_that_falls_outward_is_refused(trp_cage, tmp_path):
    frames, species = trp_cage
    prior = fit([frames], PriorConfig(bootstrap_samples=0), species)
    arrays = {**prior.arrays, "angle": {"cosine": np.array([[0.0, 1.0]]), "sine": np.zeros((1, 2))}}
    falling = dataclasses.replace(prior, arrays=arrays | {"angle": {"cosine": -arrays["angle"]["cosine"], "sine": arrays["angle"]["sine"]}})
    with pytest.raises(UserError, match="angle: row \\*: confinement below the sampled range = falls outward from"):
        falling.check()


def test_missing_files_and_other_contents_give_one_line(prior, tmp_path):
    save_prior(tmp_path / "prior.yaml", prior)
    (tmp_path / "prior.npz").unlink()
    with pytest.raises(UserError, match=r"prior\.npz: no such file"):
        load_prior(tmp_path / "prior.yaml")
    (tmp_path / "prior.npz").write_text("not an archive")
    with pytest.raises(UserError, match="not a readable NPZ"):
        load_prior(tmp_path / "prior.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="expected a file with 'format: cg-priors'"):
        load_prior(tmp_path / "list.yaml")


def test_at_another_temperature_scales_and_says_so(prior, caplog):
    with caplog.at_level(logging.INFO, logger="cg_priors"):
        logging.getLogger("cg_priors").propagate = True
        hot = prior.at(450)
    assert hot.provenance["temperature"] == "scaled to 450 K from the block fitted at 348 K"
    np.testing.assert_allclose(hot.arrays["bond"]["force_constant"], prior.arrays["bond"]["force_constant"] * 450 / 348)
    np.testing.assert_array_equal(hot.arrays["bond"]["length"], prior.arrays["bond"]["length"])
    assert prior.at(348).provenance["temperature"] == "block fitted at 348 K"


def test_several_temperatures_give_a_block_each_and_at_selects(trp_cage, tmp_path):
    frames, species = trp_cage
    temperature = np.where(np.arange(frames.n_frames) % 2, 348, 450).astype(np.float32)
    mixed = dataclasses.replace(frames, temperature=temperature)
    with pytest.raises(UserError, match="frames are of 348, 450 K; data of several temperatures are never pooled"):
        fit([mixed], PriorConfig(), species)
    with pytest.raises(UserError, match="expected one of 348, 450 K"):
        fit([mixed], PriorConfig(temperature_kelvin=300.0), species)
    prior = fit([mixed], PriorConfig(temperature_kelvin="all", bootstrap_samples=0), species)
    save_prior(tmp_path / "prior.yaml", prior)
    loaded = load_prior(tmp_path / "prior.yaml")
    assert loaded.temperatures_kelvin == (348, 450)
    assert loaded.at(450).temperature_kelvin == 450
    assert loaded.at(450).provenance["temperature"] == "block fitted at 450 K"


def test_the_original_systems_file_is_read(tmp_path):
    original = {
        "temperature_kelvin": 300,
        "bond": {"r0": 3.84, "kr": 150.0},
        "angle": {"a": [0.5, 0.4], "b": [-2.8, -0.1]},
        "dihedral": {"k": [0.5, 0.3], "gamma": [0.1, 2.0]},
        "repulsion": {"epsilon": 1.0, "sigma": 4.0},
    }
    path = tmp_path / "original.yaml"
    path.write_text(yaml.safe_dump(original))
    prior = load_prior(path)
    assert prior.arrays["bond"]["force_constant"][0] == 150
    assert prior.terms["angle"].weight == 0.25
    assert "excluded_volume" in prior.terms
    x = np.linspace(0, np.pi, 200)
    np.savez(tmp_path / "splines.npz", angle_x=x, angle_energy=5 * (x - 1.9) ** 2)
    del original["angle"]
    path.write_text(yaml.safe_dump({**original, "spline_file": "splines.npz"}))
    spline = load_prior(path)
    from cg_priors.forms import FORMS

    energy = FORMS["spline"].formula(x[20:-20], spline.arrays["angle"], spline.terms["angle"].settings)
    expected = 5 * (x[20:-20] - 1.9) ** 2
    np.testing.assert_allclose(energy - energy.min(), expected - expected.min(), atol=0.02)
    del original["temperature_kelvin"]
    path.write_text(yaml.safe_dump(original))
    with pytest.raises(UserError, match="temperature_kelvin: expected the temperature of the data"):
        load_prior(path)


def test_nothing_but_an_earlier_prior_is_replaced(trp_cage, tmp_path):
    frames, species = trp_cage
    splines = fit([frames], PriorConfig.parse({"angle": {"form": "spline"}, "bootstrap_samples": 0}, "test"), species)
    data = tmp_path / "mine.npz"
    np.savez(data, positions=np.zeros((1, 3, 3)))
    before = data.read_bytes()
    with pytest.raises(UserError, match=r"mine\.npz: is no spline file of a prior, and would be replaced by that of mine\.yaml"):
        save_prior(tmp_path / "mine.yaml", splines)
    assert data.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]
    for name in ("prior.npz", "prior"):
        with pytest.raises(UserError, match=r"expected a name that ends in \.yaml"):
            save_prior(tmp_path / name, splines)
    for _ in range(2):
        save_prior(tmp_path / "prior.yaml", splines)
    np.testing.assert_array_equal(
        load_prior(tmp_path / "prior.yaml").arrays["angle"]["coefficients"], splines.arrays["angle"]["coefficients"]
    )
