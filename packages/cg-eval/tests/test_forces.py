"""Force evaluation: the same numbers as one frame at a time, splits kept apart, files a reader can use."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cg_data.errors import UserError
from cg_data.split import SPLITS
from cg_data.store import open_dataset, write_dataset
from cg_eval.force_field import load_force_field
from cg_eval.forces import ForcesConfig, choose_frames, evaluate_forces
from cg_eval.predict import predict_forces
from cg_models.bundle import save_bundle
from cg_priors.parameters import save_prior

HELD_OUT = ForcesConfig(splits=("held_out_trajectories",), block_frames=10, n_resamples=100)


def one_by_one(bundle, dataset, domain, indices, part):
    frames = dataset.frames(domain)
    names = [dataset.species_names[index] for index in frames.species]
    graphs = (bundle.graph(np.asarray(frames.positions[index]), names, frames.residue_index, frames.chain_index) for index in indices)
    return np.stack([bundle.energy_and_forces(graph, part)[1] for graph in graphs])


@pytest.fixture(scope="module")
def report(hybrid_bundle, dataset):
    return evaluate_forces(hybrid_bundle, dataset, HELD_OUT)


def test_streamed_forces_equal_those_of_one_frame_at_a_time(hybrid_bundle, dataset):
    chosen = [("two", np.array([0, 3, 59])), ("one", np.array([5, 6])), ("two", np.array([1]))]
    found = list(predict_forces(hybrid_bundle, dataset, chosen, ("prior", "full"), beads_per_batch=20))
    assert [result.domain for result in found] == ["two", "one", "two"]
    for result, (domain, indices) in zip(found, chosen, strict=True):
        np.testing.assert_array_equal(result.frames.positions, dataset.frames(domain).positions[indices])
        for part in ("prior", "full"):
            expected = one_by_one(hybrid_bundle, dataset, domain, indices, part)
            np.testing.assert_allclose(result.forces[part], expected, atol=1e-3)


def test_a_frame_with_more_neighbours_than_planned_is_computed_not_dropped(prior_bundle, dataset, tmp_path, monkeypatch):
    import cg_eval.predict

    monkeypatch.setattr(cg_eval.predict, "FRAMES_LOOKED_AT", 1)
    frames = dataset.frames("one")
    positions = np.array(frames.positions[:4])
    positions[0] *= 0.75
    crowded = write_dataset(
        tmp_path / "crowded", {"one": dataclasses.replace(frames.select(slice(0, 4)), positions=positions)}, dataset.species_names
    )
    (found,) = predict_forces(prior_bundle, crowded, [("one", np.arange(4))], ("prior",), beads_per_batch=8)
    np.testing.assert_allclose(found.forces["prior"], one_by_one(prior_bundle, crowded, "one", range(4), "prior"), rtol=1e-3, atol=1e-3)


def test_species_are_matched_by_name_not_by_index(prior_bundle, dataset, tmp_path):
    order = (2, 0, 3, 1)
    names = tuple(dataset.species_names[index] for index in order)
    frames = dataset.frames("one").select(slice(0, 2))
    renumbered = dataclasses.replace(frames, species=np.array([order.index(s) for s in frames.species], np.int32))
    other = write_dataset(tmp_path / "renumbered", {"one": renumbered}, names)
    first, second = (
        next(predict_forces(prior_bundle, data, [("one", np.arange(2))], ("prior",))).forces["prior"] for data in (dataset, other)
    )
    np.testing.assert_array_equal(first, second)


def test_a_species_that_the_bundle_lacks_is_an_error_that_names_it(prior_bundle, dataset, tmp_path):
    names = ("ALA", "GLY", "TRP", "SER")
    other = write_dataset(tmp_path / "other", {"one": dataset.frames("one").select(slice(0, 2))}, names)
    with pytest.raises(UserError, match="TRP"):
        next(predict_forces(prior_bundle, other, [("one", np.arange(2))], ("prior",)))


def damaged(dataset, folder, domain, name, frame):
    """A copy of a data set with one number of a frame that is not one."""
    other = open_dataset(shutil.copytree(dataset.path, folder))
    np.lib.format.open_memmap(folder / f"domains/{domain}/{name}.npy", mode="r+")[frame, 0, 0] = np.nan
    return other


def test_only_the_frames_asked_for_are_read_and_looked_at(prior_bundle, dataset, tmp_path):
    """Numbers that are none in another frame and in another domain go unseen; the same ones are refused where they are asked for."""
    for domain, frame in (("one", 7), ("two", 3)):
        for name in ("positions", "forces"):
            bad = damaged(dataset, tmp_path / f"{domain}-{name}", domain, name, frame)
            (found,) = predict_forces(prior_bundle, bad, [("one", np.array([5, 6, 8]))], ("prior",))
            assert np.isfinite(found.forces["prior"]).all()
            with pytest.raises(UserError, match=f"{domain}: {name} must be finite; frame {frame} is not"):
                list(predict_forces(prior_bundle, bad, [(domain, np.array([1, frame]))], ("prior",)))


def test_a_species_that_only_other_domains_have_is_no_hindrance(prior_bundle, dataset, tmp_path):
    frames = {name: dataset.frames(name).select(slice(0, 2)) for name in dataset.domains}
    frames["two"] = dataclasses.replace(frames["two"], species=np.full(11, 4, np.int32))
    other = write_dataset(tmp_path / "other", frames, (*dataset.species_names, "TRP"))
    next(predict_forces(prior_bundle, other, [("one", np.arange(2))], ("prior",)))
    with pytest.raises(UserError, match="TRP"):
        next(predict_forces(prior_bundle, other, [("two", np.arange(2))], ("prior",)))


def test_report_equals_errors_computed_directly(report, hybrid_bundle, dataset):
    frames = dataset.split("held_out_trajectories")
    split = report["held_out_trajectories"]
    for part in ("prior", "full"):
        errors = [(one_by_one(hybrid_bundle, dataset, d, i, part) - dataset.frames(d).forces[i]).ravel() for d, i in frames.items()]
        assert split.rows[part]["all"]["mse"] == pytest.approx(np.mean(np.concatenate(errors) ** 2), rel=1e-4)
        assert split.rows[part]["all"]["maximum"] == pytest.approx(np.abs(np.concatenate(errors)).max(), rel=1e-4)
    forces = np.concatenate([dataset.frames(d).forces[i].ravel() for d, i in frames.items()])
    assert split.rows["zero"]["all"]["mse"] == pytest.approx(np.mean(forces.astype(float) ** 2))


def test_models_stand_side_by_side_with_intervals_and_paired_differences(report):
    split = report["held_out_trajectories"]
    assert list(split.rows) == ["zero", "prior", "full"]
    assert split.n_trajectories == 2
    assert split.domains == ("one", "two")
    mse = split.intervals["prior"]["mse"]
    assert mse.low <= mse.estimate <= mse.high
    assert mse.block_frames == 10
    difference = split.improvements["prior - full"].estimate
    assert difference == pytest.approx(split.rows["prior"]["all"]["mse"] - split.rows["full"]["all"]["mse"])
    assert split.skill == pytest.approx(difference / split.rows["prior"]["all"]["mse"])


def test_groups_cover_components_residues_positions_proteins_and_temperatures(report):
    groups = set(report["held_out_trajectories"].rows["full"])
    expected = {"component/x", "magnitude", "residue/ALA", "residue/SER", "position/terminus", "position/core"}
    assert groups >= expected | {"protein/one", "protein/two", "temperature/300 K", "all"}


def test_prior_alone_does_not_run_the_network(hybrid_bundle, dataset):
    without = dataclasses.replace(hybrid_bundle, params={"prior": hybrid_bundle.params["prior"]})
    report = evaluate_forces(without, dataset, HELD_OUT.model_copy(update={"part": "prior"}))
    assert list(report["held_out_trajectories"].rows) == ["zero", "prior"]
    assert set(report["held_out_trajectories"].terms) == {"bond", "angle", "repulsion"}


def test_energy_terms_stand_alone_and_are_missed_where_they_are_left_out(prior_bundle, dataset, report):
    assert set(report["held_out_trajectories"].terms) == {"bond", "angle", "repulsion", "backbone"}
    split = evaluate_forces(prior_bundle, dataset, HELD_OUT.model_copy(update={"part": "prior"}))["held_out_trajectories"]
    chosen = list(dataset.split("held_out_trajectories").items())
    alone, without = [], []
    for found in predict_forces(prior_bundle, dataset, chosen, ("prior",)):
        forces = {name: values.astype(float) for name, values in found.forces.items()}
        terms = [values for name, values in forces.items() if name.startswith("term/")]
        np.testing.assert_allclose(sum(terms), forces["prior"], atol=1e-4)
        alone.append((forces["term/bond"] - found.frames.forces).ravel())
        without.append((forces["prior"] - forces["term/bond"] - found.frames.forces).ravel())
    assert split.terms["bond"]["mse"] == pytest.approx((np.concatenate(alone) ** 2).mean())
    assert split.terms["bond"]["mse_without"] == pytest.approx((np.concatenate(without) ** 2).mean())
    assert "energy term" in split.table()


def test_labels_with_standard_errors_set_the_floor_and_weights_count(prior_bundle, dataset, tmp_path):
    """The prior's own forces as labels, off by a known error: its MSE is the floor, and nothing is left above it."""
    generator = np.random.default_rng(0)
    frames = dataset.frames("one")
    (found,) = predict_forces(prior_bundle, dataset, [("one", np.arange(80))], ("prior",))
    error = np.where(np.arange(80) % 2, 0.5, 2.0)[:, None, None] * np.ones((80, 8, 3))
    weight = np.where(np.arange(80) % 2, 3.0, 1.0)
    labelled = dataclasses.replace(
        frames,
        forces=(found.forces["prior"] + error * generator.normal(size=error.shape)).astype(np.float32),
        force_error=error.astype(np.float32),
        weight=weight.astype(np.float32),
    )
    data = write_dataset(tmp_path / "labelled", {"one": labelled}, dataset.species_names)
    split = evaluate_forces(prior_bundle, data, HELD_OUT.model_copy(update={"part": "prior"}))["held_out_trajectories"]
    assert split.floor.estimate == pytest.approx((3 * 0.25 + 1 * 4.0) / 4)
    assert abs(split.excess["prior"].estimate) < 5 * split.floor.estimate * np.sqrt(2 / (40 * 24))
    assert split.excess["zero"].estimate == pytest.approx(split.rows["zero"]["all"]["mse"] - split.floor.estimate)
    assert "above the floor" in split.table()


def test_pieces_of_a_domain_and_several_devices_change_nothing(tmp_path, prior_bundle, dataset, bundle_folder, monkeypatch):
    """Four host devices, in a process of its own because JAX fixes their number when it starts."""
    monkeypatch.setattr("cg_eval.forces.FRAMES_PER_PIECE", 7)
    options = ForcesConfig(splits=SPLITS, part="prior", n_resamples=50, beads_per_batch=30)
    pieces = evaluate_forces(prior_bundle, dataset, options)
    without_figures = "[setattr(p, name, lambda *a: None) for name in dir(p) if name.startswith('plot_')]"
    program = f"import cg_eval.plots as p; {without_figures}; from cg_eval.cli import main; main()"
    command = [sys.executable, "-c", program, "dataset", str(bundle_folder), str(dataset.path)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out"), "part=prior", "n_resamples=50", "beads_per_batch=30", "devices=4"],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "out/forces.json").read_text())
    assert set(values["splits"]) == set(pieces.splits)
    for name, split in pieces.splits.items():
        rows = values["splits"][name]["rows"]
        assert values["splits"][name]["n_frames"] == split.n_frames
        for group, found in split.rows["prior"].items():
            assert rows["prior"][group]["mse"] == pytest.approx(found["mse"], rel=1e-4)
        assert values["splits"][name]["intervals"]["prior"]["mse"]["low"] == pytest.approx(split.intervals["prior"]["mse"].low, rel=1e-3)


def test_more_devices_than_there_are_is_an_error(prior_bundle, dataset):
    with pytest.raises(UserError, match="ask for fewer"):
        evaluate_forces(prior_bundle, dataset, HELD_OUT.model_copy(update={"part": "prior", "devices": 99}))


def test_a_random_choice_has_the_size_asked_for_and_stays_in_its_split(dataset):
    chosen = choose_frames(dataset, "held_out_trajectories", ForcesConfig(frames=9))
    assert sum(len(frames) for frames in chosen.values()) == 9
    whole = dataset.split("held_out_trajectories")
    assert all(set(frames) <= set(whole[domain]) for domain, frames in chosen.items())


def test_a_domain_that_the_data_set_lacks_is_an_error_that_names_it(dataset):
    with pytest.raises(UserError, match="no domain 'zzz', only one, two"):
        choose_frames(dataset, "held_out_trajectories", ForcesConfig(domains=("one", "zzz")))


def test_no_frame_left_is_an_error_that_says_what_to_do(prior_bundle, dataset):
    with pytest.raises(UserError, match="choose others"):
        evaluate_forces(prior_bundle, dataset, ForcesConfig(temperature_kelvin=500.0))


def test_files_hold_the_table_the_numbers_and_the_figures(report, tmp_path):
    report.save(tmp_path / "out")
    values = json.loads((tmp_path / "out/forces.json").read_text())
    assert values["splits"]["held_out_trajectories"]["rows"]["full"]["all"]["mse"] > 0
    with open(tmp_path / "out/forces.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"zero", "prior", "full"} | {
        f"term/{name}" for name in ("bond", "angle", "repulsion", "backbone")
    }
    split = report["held_out_trajectories"]
    all_beads = {row["model"]: row for row in rows if row["group"] == "all"}
    assert float(all_beads["prior"]["mse_low"]) == split.intervals["prior"]["mse"].low
    assert float(all_beads["prior"]["mse_high"]) == split.intervals["prior"]["mse"].high
    bond = {name: float(all_beads["term/bond"][name]) for name in ("rms", "mse", "mse_without", "pearson")}
    assert bond == split.terms["bond"]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        f"{name}_held_out_trajectories.png" for name in ("scatter", "residuals", "residues", "positions", "terms", "proteins")
    }
    assert "held_out_trajectories" in (tmp_path / "out/forces.txt").read_text()
    assert (tmp_path / "out/config.yaml").exists()


def test_checkpoints_and_bundles_are_recognised_by_what_is_in_the_folder(prior_bundle, prior, dataset, bundle_folder, tmp_path):
    """A checkpoint as cg-train lays it out: orbax arrays, and beside them the configuration, statistics and version."""
    save_prior(tmp_path / "prior.yaml", prior)
    for step, factor, version in ((5, 1.0, 1), (20, 2.0, 3)):
        folder = tmp_path / "run/checkpoints" / str(step)
        params = jax.tree.map(lambda leaf, factor=factor: np.asarray(leaf * factor, np.float32), prior_bundle.params)
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            state = {"params": params, "optimizer": {"unused": np.zeros(3)}, "step": np.asarray(step)}
            writer.save(folder / "state", args=ocp.args.StandardSave(state))
        options = {"model": {"mode": "prior"}, "prior": str(tmp_path / "prior.yaml"), "dataset": str(dataset.path), "ema_decay": None}
        about = {"version": version, "config": options, "progress": {"statistics": prior_bundle.statistics.to_dict(), "step": step}}
        (folder / "progress").mkdir()
        (folder / "progress/metadata").write_text(json.dumps(about))
    expected = 2 * np.asarray(prior_bundle.params["prior"]["bond"]["force_constant"])
    for path in (tmp_path / "run", tmp_path / "run/checkpoints", tmp_path / "run/checkpoints/20"):
        found = load_force_field(path)
        np.testing.assert_allclose(found.params["prior"]["bond"]["force_constant"], expected)
        assert found.species_names == prior_bundle.species_names
    save_bundle(tmp_path / "run/bundle", prior_bundle)
    for path in (bundle_folder, tmp_path / "run"):
        np.testing.assert_allclose(load_force_field(path).params["prior"]["bond"]["force_constant"], expected / 2)
    members = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), params)
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
        writer.save(tmp_path / "run/checkpoints/5/state", args=ocp.args.StandardSave({"params": members}), force=True)
    with pytest.raises(UserError, match="arrays of other shapes, as an ensemble's members together have"):
        load_force_field(tmp_path / "run/checkpoints/5")
    (tmp_path / "prior.yaml").unlink()
    with pytest.raises(UserError, match="is not where the run found it"):
        load_force_field(tmp_path / "run/checkpoints/5")
    with pytest.raises(UserError, match="neither a bundle"):
        load_force_field(dataset.path)
