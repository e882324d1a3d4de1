"""Claims about an ensemble and about what a new run takes from a checkpoint, on the pair network."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from cg_data.errors import UserError
from cg_models.bundle import load_bundle
from cg_train.config import TrainConfig
from cg_train.ensemble import EnsembleResult, run_ensemble
from cg_train.metrics import read_metrics
from cg_train.run import run
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


def test_an_unknown_part_is_one_clear_line() -> None:
    assert parse_load("scheduler") == "weights,scheduler"
    with pytest.raises(UserError, match="expected auto, all, or some of"):
        parse_load("wheels")
