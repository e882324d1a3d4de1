"""Claims about an ensemble and about what a new run takes from a checkpoint, on the pair network."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from cg_data.errors import UserError
from cg_data.split import SplitConfig
from cg_data.store import Dataset, write_dataset
from cg_models.bundle import load_bundle
from cg_train.config import TrainConfig
from cg_train.ensemble import EnsembleResult, run_ensemble
from cg_train.ensemble_stage import EnsembleStage
from cg_train.metrics import read_metrics
from cg_train.preemption import StopRequest
from cg_train.prepare import prepare
from cg_train.run import look_at, run
from cg_train.state import TrainState
from cg_train.warm_start import parse_load

Make = Callable[..., TrainConfig]


def small(tiny: Make) -> TrainConfig:
    return tiny("model.backbone={kind: pair}", "stages=[{steps: 8, learning_rate: 0.01}]")


@pytest.fixture(scope="module")
def ensemble(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> EnsembleResult:
    return run_ensemble(small(tiny), tmp_path_factory.mktemp("ensemble") / "run", n_members=2)


def test_an_ensemble_leaves_bundles_and_a_list_of_them(ensemble: EnsembleResult) -> None:
    about = json.loads((ensemble.output / "ensemble.json").read_text())
    assert about["members"] == ["members/0/bundle", "members/1/bundle"]
    assert about["seeds"] == [0, 1]
    assert about["best"] == int(np.argmin(about["validation_mse"]))
    first, second = (load_bundle(ensemble.output / path) for path in about["members"])
    assert about["validation_force_variance"] > 0
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (first.params, second.params)), strict=True))
    # Of two members, the error of their mean is the mean of their errors less a quarter of their squared difference.
    assert about["validation_mse_of_mean"] == pytest.approx(np.mean(about["validation_mse"]) - about["validation_force_variance"] / 2)


def test_the_first_member_is_the_run_of_its_seed(ensemble: EnsembleResult, tiny: Make, tmp_path: Path) -> None:
    alone = load_bundle(run(small(tiny), tmp_path / "alone").bundle)
    member = load_bundle(ensemble.output / ensemble.about["members"][0])
    for expected, found in zip(jax.tree.leaves(alone.params), jax.tree.leaves(member.params), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_members_spread_over_two_devices_are_those_of_one_device(
    ensemble: EnsembleResult, start: Callable[..., subprocess.Popen[str]], tiny: Make, tmp_path: Path
) -> None:
    small(tiny).save(tmp_path / "config.yaml")
    cli = "from cg_train.cli import main; main()"
    process = start(cli, "ensemble", tmp_path / "config.yaml", "-o", tmp_path / "two", "--members", 2, devices=2)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    assert "2 device(s)" in text
    assert "2 members, 1 on each device" in text
    for path in ensemble.about["members"]:
        one, two = (load_bundle(output / path).params for output in (ensemble.output, tmp_path / "two"))
        for expected, found in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_ensemble_goes_on_where_it_stood(ensemble: EnsembleResult, tiny: Make) -> None:
    before = (ensemble.output / "members" / "1" / "bundle" / "params.safetensors").read_bytes()
    with pytest.raises(UserError, match="of 2 members, --members is 3"):
        run_ensemble(small(tiny), ensemble.output, n_members=3, resume="auto")
    run_ensemble(small(tiny), ensemble.output, n_members=2, resume="auto")
    assert (ensemble.output / "members" / "1" / "bundle" / "params.safetensors").read_bytes() == before


def test_a_new_run_takes_what_is_asked_for(only_prior: Make, tmp_path: Path) -> None:
    first = run(only_prior("checkpoints.keep=9"), tmp_path / "first")
    middle = first.checkpoints / "20"
    changed = only_prior("seed=5", "stages=[{train: prior, steps: 30, learning_rate: 0.05}]")
    rates = {}
    for load in ("weights", "weights,optimizer", "weights,optimizer,scheduler,scaler"):
        result = run(changed, tmp_path / load, resume=str(middle), allow_changes=True, load=load)
        rates[load] = [record["learning_rate"] for record in read_metrics(result.metrics_file)[1:]]
    original = [record["learning_rate"] for record in read_metrics(first.metrics_file)[1:]]
    assert rates["weights"] == rates["weights,optimizer"] == original
    # Lines are of steps 3, 6, ...: the new run's step 3 is step 23 of the schedule.
    assert original[7] < rates["weights,optimizer,scheduler,scaler"][0] < original[6]
    between = first.checkpoints / "30"
    with pytest.raises(UserError, match="between stages"):
        run(changed, tmp_path / "no", resume=str(between), allow_changes=True, load="weights,optimizer")


def test_a_new_ensemble_takes_what_is_asked_for(ensemble: EnsembleResult, tiny: Make, tmp_path: Path) -> None:
    changed = tiny("model.backbone={kind: pair}", "stages=[{steps: 4, learning_rate: 1.0e-9}]", "ema_decay=null")
    source = str(ensemble.output / "checkpoints" / "6")
    for load in ("weights", "weights,optimizer,scheduler,scaler"):
        again = run_ensemble(changed, tmp_path / load, n_members=2, resume=source, allow_changes=True, load=load)
        assert again.about["validation_mse"][0] != again.about["validation_mse"][1]
        first = read_metrics(ensemble.output / "metrics.jsonl")[0]["validation_prior_mse"]
        assert max(again.about["validation_mse"]) < first


def test_an_lbfgs_stage_that_members_cannot_share_is_refused_before_anything_is_trained(tiny: Make, tmp_path: Path) -> None:
    stages = "stages=[{steps: 2}, {kind: lbfgs, train: backbone}]"
    with pytest.raises(UserError, match="stages: in an ensemble L-BFGS trains what the members share"):
        run_ensemble(tiny("model.backbone={kind: pair}", stages), tmp_path / "run", n_members=2)
    assert not (tmp_path / "run").exists()


def test_errors_on_training_frames_are_not_called_those_of_validation(tiny: Make, dataset: Dataset, tmp_path: Path) -> None:
    domain = dataset.domains[0]
    split = SplitConfig(held_out_trajectory_fraction=0.0, validation_fraction=0.0)
    alone = write_dataset(tmp_path / "dataset", {domain: dataset.frames(domain)}, split=split)
    assert not alone.split("validation")
    config = tiny(f"dataset={alone.path}", "model.backbone={kind: pair}", "stages=[{steps: 2}]")
    found = run_ensemble(config, tmp_path / "run", n_members=2)
    assert "validation_mse" not in found.about
    assert len(found.about["train_mse"]) == 2
    metrics = json.loads((found.output / found.about["members"][0] / "metrics.json").read_text())
    assert metrics["train_mse"] == found.about["train_mse"][0]
    assert "validation_mse" not in metrics


def test_a_run_does_not_take_an_ensembles_checkpoint_for_its_own(ensemble: EnsembleResult, tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ensemble of 2 members.*cg-train ensemble"):
        run(small(tiny), tmp_path / "alone", resume=str(ensemble.output))
    assert not (tmp_path / "alone").exists()


def test_the_frames_named_are_those_of_the_member_that_failed(ensemble: EnsembleResult, tiny: Make, tmp_path: Path) -> None:
    config = small(tiny)
    trainer, _, progress = prepare(look_at(config, tmp_path / "run", None, False, "auto")[0], StopRequest(), None, "auto", 2)
    stage = EnsembleStage(trainer, config.stages[0], progress)
    trainer.close()
    state = TrainState(**{**dict.fromkeys(field.name for field in dataclasses.fields(TrainState)), "failed_step": np.array([3, 5])})
    with pytest.raises(UserError, match="step 4: the loss of member 0") as caught:
        stage.check_finite(state)
    assert trainer.training.table.describe(trainer.order.batch(3, 6).tolist()) in str(caught.value)


def test_an_unknown_part_is_one_clear_line() -> None:
    assert parse_load("scheduler") == "weights,scheduler"
    with pytest.raises(UserError, match="expected auto, all, or some of"):
        parse_load("wheels")
