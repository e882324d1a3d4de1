"""Force evaluation: the same numbers as one frame at a time, splits kept apart, files a reader can use."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_data.store import write_dataset
from cg_eval.forces import ForcesConfig, choose_frames, evaluate_forces
from cg_eval.predict import predict_forces

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
    calls = []

    class Watched:
        def __getattr__(self, name):
            if name == "energy_fn":
                return lambda part: calls.append(part) or hybrid_bundle.energy_fn(part)
            return getattr(hybrid_bundle, name)

    report = evaluate_forces(Watched(), dataset, HELD_OUT.model_copy(update={"part": "prior"}))
    assert calls == ["prior"]
    assert list(report["held_out_trajectories"].rows) == ["zero", "prior"]


def test_a_random_choice_has_the_size_asked_for_and_stays_in_its_split(dataset):
    chosen = choose_frames(dataset, "held_out_trajectories", ForcesConfig(frames=9))
    assert sum(len(frames) for frames in chosen.values()) == 9
    whole = dataset.split("held_out_trajectories")
    assert all(set(frames) <= set(whole[domain]) for domain, frames in chosen.items())


def test_no_frame_left_is_an_error_that_says_what_to_do(prior_bundle, dataset):
    with pytest.raises(UserError, match="choose others"):
        evaluate_forces(prior_bundle, dataset, ForcesConfig(temperature_kelvin=500.0))


def test_files_hold_the_table_the_numbers_and_the_figures(report, tmp_path):
    report.save(tmp_path / "out")
    values = json.loads((tmp_path / "out/forces.json").read_text())
    assert values["splits"]["held_out_trajectories"]["rows"]["full"]["all"]["mse"] > 0
    with open(tmp_path / "out/forces.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"zero", "prior", "full"}
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        f"{name}_held_out_trajectories.png" for name in ("scatter", "residuals", "residues", "proteins")
    }
    assert "held_out_trajectories" in (tmp_path / "out/forces.txt").read_text()
    assert (tmp_path / "out/config.yaml").exists()
