"""Uncertainty of ensembles whose members are off by known amounts."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from cg_data.errors import UserError
from cg_data.store import write_dataset
from cg_eval.cli import app
from cg_eval.ensemble import EnsembleConfig, evaluate_ensemble, load_members
from cg_eval.predict import predict_forces
from cg_models.bundle import save_bundle

SCALES = (0.7, 1.3)


def scaled(bundle, factor):
    """The same prior with all bond constants multiplied: forces of bonds are, too."""
    params = jax.tree.map(lambda leaf: leaf, bundle.params)
    params["prior"]["bond"] = {**params["prior"]["bond"], "force_constant": factor * params["prior"]["bond"]["force_constant"]}
    return dataclasses.replace(bundle, params=params)


@pytest.fixture(scope="module")
def members(prior_bundle):
    return [scaled(prior_bundle, factor) for factor in SCALES]


def test_errors_drawn_with_the_ensembles_own_spread_lie_on_the_line_of_slope_one(prior_bundle, members, dataset, tmp_path):
    """Labels: the members' mean, off by a normal number of the spread at each component, plus noise of rms 0.5 that adds 0.25."""
    frames = dataset.frames("one")
    # Forces of bonds are linear in their constants: one program gives those of every member.
    found = next(predict_forces(prior_bundle, dataset, [("one", np.arange(80))], ("prior",))).forces
    forces = np.stack([found["prior"] + (factor - 1) * found["term/bond"] for factor in SCALES]).astype(float)
    generator = np.random.default_rng(0)
    spread = np.sqrt(forces.var(axis=0, ddof=1).mean(axis=-1, keepdims=True))
    labels = forces.mean(axis=0) + spread * generator.normal(size=forces.shape[1:]) + 0.5 * generator.normal(size=forces.shape[1:])
    labelled = dataclasses.replace(frames, forces=labels.astype(np.float32))
    data = write_dataset(tmp_path / "data", {"one": labelled}, dataset.species_names)
    config = EnsembleConfig(splits=("train", "validation", "held_out_trajectories"), n_listed=5)
    found = evaluate_ensemble(members, data, config)
    assert found.slope == pytest.approx(1.0, abs=0.25)
    assert found.offset == pytest.approx(0.25, abs=0.15)
    assert found.rank_correlation > 0.3
    assert (np.diff(found.uncertainty) >= 0).all()
    assert len(found.frames) == 5
    listed = [frame.uncertainty for frame in found.frames]
    assert listed == sorted(listed, reverse=True)
    most = spread[found.frames[0].frame]
    assert found.frames[0].uncertainty == pytest.approx(np.sqrt((most**2).mean()), rel=1e-3)


def test_an_ensemble_folder_and_a_list_of_bundles_are_read_alike(members, dataset, tmp_path):
    paths = [f"members/{number}/bundle" for number in range(len(members))]
    for path, member in zip(paths, members, strict=True):
        save_bundle(tmp_path / "ensemble" / path, member)
    (tmp_path / "ensemble/ensemble.json").write_text(json.dumps({"format": "cg-ensemble", "members": paths}))
    together, listed = load_members([tmp_path / "ensemble"]), load_members([tmp_path / "ensemble" / path for path in paths])
    for first, second in zip(together, listed, strict=True):
        np.testing.assert_array_equal(first.params["prior"]["bond"]["force_constant"], second.params["prior"]["bond"]["force_constant"])
    arguments = ["ensemble", str(tmp_path / "ensemble"), str(dataset.path), "-o", str(tmp_path / "out"), "frames=6", "n_bins=5"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "2 members" in result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"calibration.png", "calibration.pdf", "ensemble.json"}
    with open(tmp_path / "out/uncertain-frames.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 6
    with pytest.raises(UserError, match="no domain 'zzz', only one, two"):
        evaluate_ensemble(together, dataset, EnsembleConfig(domains=("one", "zzz")))
    with pytest.raises(UserError, match="and then a dataset folder, received 1 path"):
        CliRunner().invoke(app, [*arguments[:2], "-o", str(tmp_path / "other"), "frames=6"], catch_exceptions=False)


def test_one_model_twice_is_no_ensemble(prior_bundle, dataset):
    with pytest.raises(UserError, match="the same everywhere: give members that were trained apart"):
        evaluate_ensemble([prior_bundle, prior_bundle], dataset, EnsembleConfig(frames=4))


def test_one_member_is_no_ensemble(tmp_path, bundle_folder):
    with pytest.raises(UserError, match="two or more bundles, received 1 bundle"):
        load_members([bundle_folder])
    (tmp_path / "ensemble.json").write_text('{"members": []}')
    with pytest.raises(UserError, match="two or more bundles, received 0 bundles"):
        load_members([tmp_path])
