"""Whole runs, in this process: what is written, what is learned, what is refused."""

import dataclasses
import json
import shlex
import signal
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

from cg_data import contracts
from cg_data.errors import UserError
from cg_data.mapping import RESIDUE_SPECIES
from cg_data.split import SplitConfig
from cg_data.store import Dataset, write_dataset
from cg_models.bundle import load_bundle
from cg_priors.parameters import PriorParameters, Term, save_prior
from cg_train import frames, gradient_stage, preemption, prepare, targets
from cg_train import run as run_module
from cg_train.config import TrainConfig
from cg_train.frames import GraphSource
from cg_train.metrics import read_metrics
from cg_train.preemption import EXIT_REQUEUE, Stopped, note_signals_from_here
from cg_train.run import RunResult, run
from cg_train.trainer import Trainer

from .conftest import make_frames

Make = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def hybrid(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """One finished run of a network on a frozen prior."""
    return run(tiny("ema_decay=0.5"), tmp_path_factory.mktemp("hybrid") / "run")


def validation_error(result: RunResult, dataset: Dataset) -> float:
    """Return the mean square force error of a run's bundle on the validation frames, one frame after the other."""
    bundle = load_bundle(result.bundle)
    squares = components = 0.0
    for domain, indices in dataset.split("validation").items():
        frames = dataset.frames(domain)
        for index in indices:
            graph = bundle.graph(np.asarray(frames.positions[index]), frames.species, frames.residue_index, frames.chain_index)
            error = np.asarray(bundle.energy_and_forces(graph)[1]) - frames.forces[index]
            squares += float((error**2).sum())
            components += error.size
    return squares / components


def test_a_run_leaves_configuration_metrics_plot_checkpoints_and_bundle(hybrid: RunResult) -> None:
    assert sorted(path.name for path in hybrid.output.iterdir()) == ["bundle", "checkpoints", "config.yaml", "loss.png", "metrics.jsonl"]
    assert TrainConfig.load(hybrid.output / "config.yaml").frames_per_batch == 6
    assert hybrid.loss_plot.read_bytes()[:4] == b"\x89PNG"
    steps = sorted(int(path.name) for path in hybrid.checkpoints.iterdir())
    assert steps[-1] == 12
    assert len(steps) <= 3


def test_a_network_on_a_frozen_prior_learns_more_than_the_prior(hybrid: RunResult) -> None:
    metrics = hybrid.metrics
    assert metrics["validation_mse"] < metrics["validation_prior_mse"] < metrics["validation_zero_mse"]


def test_the_bundle_gives_the_validation_error_that_the_run_states(hybrid: RunResult, dataset: Dataset) -> None:
    assert validation_error(hybrid, dataset) == pytest.approx(hybrid.metrics["validation_mse"], rel=1e-4)


def test_single_precision_stays_single_where_double_is_on(hybrid: RunResult) -> None:
    assert jax.config.read("jax_enable_x64")
    assert {str(np.asarray(leaf).dtype) for leaf in jax.tree.leaves(load_bundle(hybrid.bundle).params)} == {"float32"}


def test_metrics_name_each_step_once_in_order_and_begin_with_references(hybrid: RunResult) -> None:
    records = read_metrics(hybrid.metrics_file)
    assert [record["step"] for record in records] == [0, 3, 6, 9, 12]
    assert {"train_zero_mse", "train_prior_mse", "validation_zero_mse", "validation_prior_mse"} <= records[0].keys()
    assert [record["step"] for record in records if "validation_mse" in record] == [6, 12]
    assert all(
        {"loss", "train_mse", "learning_rate", "gradient_norm", "frames_per_second", "epoch"} <= record.keys() for record in records[1:]
    )


def test_the_frozen_prior_is_in_the_bundle_unchanged(hybrid: RunResult, prior: Path) -> None:
    assert yaml.safe_load((hybrid.bundle / "prior.yaml").read_text()) == yaml.safe_load(prior.read_text())


def test_a_trained_prior_approaches_the_springs_of_the_data(only_prior: Make, tmp_path: Path) -> None:
    result = run(only_prior("stages=[{train: prior, steps: 150, learning_rate: 0.2}]", "ema_decay=null"), tmp_path / "run")
    arrays = load_bundle(result.bundle).params["prior"]["bond"]
    assert float(arrays["length"][0]) == pytest.approx(3.8, abs=0.1)
    assert float(arrays["force_constant"][0]) == pytest.approx(20.0, abs=3.0)
    assert result.metrics["validation_mse"] < result.metrics["validation_prior_mse"]


def test_an_output_that_holds_a_run_is_refused_without_resume(only_prior: Make, tmp_path: Path) -> None:
    config = only_prior("stages=[{train: prior, steps: 3}]")
    first = run(config, tmp_path / "run")
    before = first.metrics_file.read_bytes()
    with pytest.raises(UserError, match="--resume auto"):
        run(config, tmp_path / "run")
    assert first.metrics_file.read_bytes() == before


def test_resuming_a_finished_run_changes_nothing(only_prior: Make, tmp_path: Path) -> None:
    first = run(only_prior(), tmp_path / "run")
    params, lines = (first.bundle / "params.safetensors").read_bytes(), first.metrics_file.read_bytes()
    again = run(only_prior(), tmp_path / "run", resume="auto")
    assert (again.bundle / "params.safetensors").read_bytes() == params
    assert again.metrics_file.read_bytes() == lines
    assert again.metrics == first.metrics


def test_a_changed_configuration_is_shown_and_refused_unless_allowed(only_prior: Make, tmp_path: Path) -> None:
    run(only_prior("stages=[{train: prior, steps: 6}]"), tmp_path / "run")
    changed = only_prior("stages=[{train: prior, steps: 6, learning_rate: 0.5}]")
    with pytest.raises(UserError, match=r"stages.0.learning_rate: 0.002 -> 0.5.*--allow-changes"):
        run(changed, tmp_path / "run", resume="auto")
    with pytest.raises(UserError, match="choose another folder"):
        run(changed, tmp_path / "run", resume="auto", allow_changes=True)
    result = run(changed, tmp_path / "other", resume=str(tmp_path / "run"), allow_changes=True)
    assert read_metrics(result.metrics_file)[0]["step"] == 0


def test_a_change_of_what_is_written_when_goes_on_from_the_same_step(only_prior: Make, tmp_path: Path) -> None:
    whole = run(only_prior("log_every_steps=5"), tmp_path / "whole")
    run(only_prior("stages=[{train: prior, steps: 30, learning_rate: 0.05}]"), tmp_path / "first")
    steps = sorted(int(path.name) for path in (tmp_path / "first" / "checkpoints").iterdir())
    source = tmp_path / "first" / "checkpoints" / str(steps[-2])
    result = run(only_prior("log_every_steps=5"), tmp_path / "second", resume=str(source), allow_changes=True)
    assert (result.bundle / "params.safetensors").read_bytes() == (whole.bundle / "params.safetensors").read_bytes()


def test_not_a_number_stops_and_keeps_the_last_good_state(only_prior: Make, tmp_path: Path) -> None:
    explosive = "optimizer: {kind: sgd}, learning_rate: 1.0e+20, gradient_clip_norm: null, schedule: {kind: constant}"
    config = only_prior(f"stages=[{{train: prior, steps: 30, {explosive}}}]")
    with pytest.raises(UserError, match=r"step \d+: the loss .* not finite; its frames: .*9bbbA00: ") as caught:
        run(config, tmp_path / "run")
    (step,) = [int(word.rstrip(":")) for word in str(caught.value).split()[1:2]]
    kept = tmp_path / "run" / "checkpoints" / str(step - 1)
    assert str(kept) in str(caught.value)
    assert kept.is_dir()
    assert not (tmp_path / "run" / "bundle").exists()


def test_early_stopping_ends_the_stage(only_prior: Make, tmp_path: Path) -> None:
    stage = "stages=[{train: prior, steps: 200, optimizer: {kind: sgd}, learning_rate: 1.0e-12, schedule: {kind: constant}}]"
    result = run(only_prior(stage, "validation.early_stopping_patience=2", "ema_decay=null"), tmp_path / "run")
    assert result.metrics["step"] < 60


def test_a_plateau_lowers_the_learning_rate(only_prior: Make, tmp_path: Path) -> None:
    schedule = "schedule: {kind: plateau, patience: 1, factor: 0.5}"
    stage = f"stages=[{{train: prior, steps: 24, optimizer: {{kind: sgd}}, learning_rate: 1.0e-12, {schedule}}}]"
    result = run(only_prior(stage, "ema_decay=null"), tmp_path / "run")
    rates = [record["learning_rate"] for record in read_metrics(result.metrics_file) if "learning_rate" in record]
    assert rates[-1] < rates[0]
    assert min(rates) >= 0.1 * rates[0]


def test_stages_follow_one_another(only_prior: Make, tmp_path: Path) -> None:
    stages = "stages=[{train: prior, steps: 6, optimizer: {kind: adabelief}}, {train: prior, steps: 9, optimizer: {kind: yogi}}]"
    result = run(only_prior(stages), tmp_path / "run")
    records = read_metrics(result.metrics_file)
    assert [record["stage"] for record in records[1:]] == [1, 1, 2, 2, 2]
    assert result.metrics["step"] == 15


def test_lbfgs_finds_the_best_prior_and_the_next_stage_starts_from_it(only_prior: Make, tmp_path: Path) -> None:
    lbfgs = "{kind: lbfgs, n_frames: 60, max_steps: 40}"
    gentle = "{train: prior, steps: 6, learning_rate: 1.0e-9}"
    result = run(only_prior(f"stages=[{lbfgs}, {gentle}]"), tmp_path / "run")
    arrays = load_bundle(result.bundle).params["prior"]["bond"]
    assert float(arrays["length"][0]) == pytest.approx(3.8, abs=0.05)
    assert float(arrays["force_constant"][0]) == pytest.approx(20.0, abs=1.5)
    stages = [record["stage"] for record in read_metrics(result.metrics_file)[1:]]
    assert sorted(set(stages)) == [1, 2]
    norms = [record["gradient_norm"] for record in read_metrics(result.metrics_file)[1:] if record["stage"] == 1]
    assert norms[-1] < 1e-3 * norms[0]


def test_a_prior_that_training_made_unphysical_is_one_clear_line(only_prior: Make, tmp_path: Path) -> None:
    harmful = "{train: prior, steps: 3, optimizer: {kind: lion}, learning_rate: 50.0, schedule: {kind: constant}}"
    with pytest.raises(UserError, match=r"the prior as trained by stage 1: .*bond"):
        run(only_prior(f"stages=[{harmful}]", "ema_decay=null"), tmp_path / "run")


def test_an_overflowing_budget_is_planned_anew_without_losing_a_frame(
    only_prior: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(only_prior(), tmp_path / "whole")
    monkeypatch.setattr("cg_train.gradient_stage.PLANNED_STEPS", 1)
    monkeypatch.setattr("cg_train.frames.EDGE_SAMPLE", 1)
    tight = run(only_prior("data.budget_margin=0"), tmp_path / "tight")
    wide, narrow = (load_bundle(result.bundle).params["prior"]["bond"] for result in (whole, tight))
    np.testing.assert_allclose(narrow["length"], wide["length"], rtol=1e-5)


def test_a_run_in_a_thread_works(only_prior: Make, tmp_path: Path) -> None:
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(run(only_prior("stages=[{train: prior, steps: 2}]"), tmp_path / "run")))
    thread.start()
    thread.join()
    assert json.loads((results[0].bundle / "metrics.json").read_text())["step"] == 2


def test_data_without_the_wanted_temperature_is_one_clear_line_and_leaves_nothing(only_prior: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has 300, 350 K"):
        run(only_prior("data.temperatures_kelvin=[320.0]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_signal_that_came_before_the_run_stops_it_at_once_with_everything_saved(only_prior: Make, tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        note_signals_from_here()
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(Stopped, match="stopped after step 0, everything is saved") as caught:
            run(only_prior(), tmp_path / "run")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert caught.value.exit_code == EXIT_REQUEUE
    assert run(only_prior(), tmp_path / "run", resume="auto").metrics["step"] == 30


def test_a_missing_platform_is_one_clear_line(only_prior: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected tpu, JAX found only cpu"):
        run(only_prior("platform=tpu"), tmp_path / "run")


@pytest.mark.parametrize("version", [1, 2])
def test_a_checkpoint_of_an_earlier_version_goes_on_to_the_same_end(only_prior: Make, tmp_path: Path, version: int) -> None:
    config = only_prior("checkpoints.every_steps=10", "checkpoints.keep=10")
    whole = run(config, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "10"
    metadata = checkpoint / "progress" / "metadata"
    about = json.loads(metadata.read_text())
    about["version"] = version
    del about["config"]["data"]["most_shapes"]
    about["progress"]["budget"] = about["progress"].pop("budgets")[-1]
    if version == 1:
        about["config"]["data"]["edge_layout"] = "dense"
        del about["progress"]["budget"]["n_rows"]
        about["progress"]["budget"]["n_neighbours"] = 9
    metadata.write_text(json.dumps(about))
    resumed = run(config, tmp_path / "resumed", resume=str(checkpoint))
    ends = [load_bundle(result.bundle).params["prior"]["bond"]["length"] for result in (whole, resumed)]
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6)
    assert resumed.metrics["step"] == whole.metrics["step"] == 30


def test_a_step_is_begun_only_when_all_but_the_last_two_are_done(only_prior: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_step, to_host = gradient_stage.make_step, gradient_stage.to_host
    begun: list[Any] = []
    waited_for: list[Any] = []
    under_way: list[int] = []

    def counting(*arguments: Any) -> Any:
        step = make_step(*arguments)

        def counted(state: Any, batch: Any) -> Any:
            under_way.append(len(begun) - len(waited_for))
            state, stop = step(state, batch)
            begun.append(stop)
            return state, stop

        return counted

    def waiting(tree: Any) -> Any:
        if any(tree is stop for stop in begun):
            waited_for.append(tree)
        return to_host(tree)

    monkeypatch.setattr(gradient_stage, "make_step", counting)
    monkeypatch.setattr(gradient_stage, "to_host", waiting)
    run(only_prior(), tmp_path / "run")
    assert len(begun) == 30
    assert max(under_way) == 2


def test_where_energies_are_learned_the_stated_validation_error_is_still_that_of_forces(
    dataset: Dataset, only_prior: Make, tmp_path: Path
) -> None:
    domains = {}
    for name in dataset.domains:
        frames = dataset.frames(name)
        domains[name] = dataclasses.replace(frames, energy=np.linspace(0.0, 9.0, frames.n_frames))
    written = write_dataset(tmp_path / "dataset", domains)
    config = only_prior(f"dataset={written.path}", "loss.energy_weight=100.0")
    result = run(config, tmp_path / "run")
    (record,) = [line for line in read_metrics(result.metrics_file) if line["step"] == result.metrics["best_step"]]
    assert record["validation_loss"] > 1.5 * record["validation_mse"]
    assert result.metrics["validation_mse"] == record["validation_mse"]


def test_after_lbfgs_the_bundle_and_its_validation_error_belong_together(only_prior: Make, dataset: Dataset, tmp_path: Path) -> None:
    gentle = "{train: prior, steps: 6, learning_rate: 1.0e-9}"
    result = run(only_prior(f"stages=[{gentle}, {{kind: lbfgs, n_frames: 60, max_steps: 40}}]"), tmp_path / "run")
    assert result.metrics["validation_mse"] == pytest.approx(validation_error(result, dataset), rel=1e-4)
    assert result.metrics["validation_mse"] < 0.5 * result.metrics["validation_prior_mse"]
    assert result.metrics["best_step"] == result.metrics["step"] > 6


def test_lbfgs_that_makes_things_worse_is_not_the_best(only_prior: Make, tmp_path: Path) -> None:
    first = "{train: prior, steps: 40, learning_rate: 0.2}"
    # One step on a single frame: far from the minimum of all.
    result = run(only_prior(f"stages=[{first}, {{kind: lbfgs, n_frames: 1, min_steps: 0, max_steps: 1}}]"), tmp_path / "run")
    validated = {line["step"]: line["validation_mse"] for line in read_metrics(result.metrics_file) if "validation_mse" in line}
    assert result.metrics["validation_mse"] == min(validated.values()) == validated[result.metrics["best_step"]]


def test_lbfgs_stops_at_numbers_that_are_not_finite(only_prior: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cg_train.lbfgs_stage.loss_value", lambda sums, loss: sum(sums.values()) * np.nan)
    with pytest.raises(UserError, match=r"L-BFGS.*not finite.*its frames: .*7aaaA00: "):
        run(only_prior("stages=[{kind: lbfgs, n_frames: 6}]"), tmp_path / "run")


def test_a_stop_after_numbers_that_are_not_finite_keeps_the_last_good_state_too(
    only_prior: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explosive = "optimizer: {kind: sgd}, learning_rate: 1.0e+20, gradient_clip_norm: null, schedule: {kind: constant}"
    config = only_prior(
        f"stages=[{{train: prior, steps: 90, {explosive}}}]",
        "log_every_steps=80",
        "validation.every_steps=80",
        "checkpoints.every_steps=80",
    )
    put = gradient_stage.GradientStage.put

    def ask(stage: gradient_stage.GradientStage, batch: Any) -> Any:
        if stage.progress.step == 60:
            stage.trainer.stop.signal_number = signal.SIGTERM
        return put(stage, batch)

    monkeypatch.setattr(gradient_stage.GradientStage, "put", ask)
    with pytest.raises(UserError, match=r"step \d+: the loss .* not finite"):
        run(config, tmp_path / "run")
    (kept,) = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert kept < 60


def test_frames_per_second_are_of_the_steps_since_the_run_went_on(
    only_prior: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    config = only_prior("log_every_steps=15", "checkpoints.every_steps=10", "checkpoints.keep=9", "validation.every_steps=30")
    first = run(config, tmp_path / "first")
    monkeypatch.setattr(gradient_stage, "time", types.SimpleNamespace(monotonic=lambda: float(next(clock))))
    again = run(config, tmp_path / "again", resume=str(first.checkpoints / "10"))
    (record,) = [line for line in read_metrics(again.metrics_file) if line["step"] == 15]
    # One second of this clock and five steps of six frames, whatever the ten steps before took.
    assert record["frames_per_second"] == pytest.approx(30.0)


def test_an_unknown_temperature_beside_a_known_one_is_one_clear_line(only_prior: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.temperatures_kelvin: .*no frames at 999 K; it has 300, 350 K"):
        run(only_prior("data.temperatures_kelvin=[300.0, 999.0]"), tmp_path / "run")


def test_a_weight_of_a_domain_that_is_not_trained_on_leaves_nothing(only_prior: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training frame of domain"):
        run(only_prior("data.domain_weights={1xyzA00: 2.0}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("stages=[{train: prior, steps: 3, schedule: {kind: plateau}}]",),
        ("stages=[{train: prior, steps: 3}]", "validation.early_stopping_patience=1"),
    ],
)
def test_what_needs_validation_frames_is_refused_without_them(
    dataset: Dataset, only_prior: Make, tmp_path: Path, options: tuple[str, ...]
) -> None:
    domain = dataset.domains[0]
    split = SplitConfig(held_out_trajectory_fraction=0.0, validation_fraction=0.0)
    alone = write_dataset(tmp_path / "dataset", {domain: dataset.frames(domain)}, split=split)
    with pytest.raises(UserError, match=r"no validation frames, which .* need"):
        run(only_prior(f"dataset={alone.path}", *options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_load_without_resume_is_one_clear_line(only_prior: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--load weights: .*--resume"):
        run(only_prior(), tmp_path / "run", load="weights")
    with pytest.raises(UserError, match="--load wheels: expected"):
        run(only_prior(), tmp_path / "run", resume="auto", load="wheels")


def test_changed_splines_of_a_prior_are_a_changed_prior(only_prior: Make, tmp_path: Path) -> None:
    def write(height: float) -> None:
        coefficients = height * np.linspace(-3.0, 3.0, 12)[None, :] ** 2
        term = Term(form="spline", weight=1.0, settings={"low": 2.0, "high": 6.0, "periodic": False})
        save_prior(
            tmp_path / "prior.yaml", PriorParameters(RESIDUE_SPECIES, 300.0, {"bond": term}, {"bond": {"coefficients": coefficients}})
        )

    write(1.0)
    config = only_prior(f"prior={tmp_path / 'prior.yaml'}", "stages=[{train: prior, steps: 3}]")
    run(config, tmp_path / "run")
    write(2.0)
    with pytest.raises(UserError, match="contents of prior splines: changed"):
        run(config, tmp_path / "run", resume="auto")


def test_a_finished_run_given_more_steps_is_not_taken_for_trained(only_prior: Make, tmp_path: Path) -> None:
    run(only_prior("stages=[{train: prior, steps: 6}]"), tmp_path / "first")
    more = only_prior("stages=[{train: prior, steps: 12}]")
    with pytest.raises(UserError, match=r"finished.*add a stage"):
        run(more, tmp_path / "more", resume=str(tmp_path / "first"), allow_changes=True, load="all")
    another = only_prior("stages=[{train: prior, steps: 6}, {train: prior, steps: 3}]")
    assert run(another, tmp_path / "another", resume=str(tmp_path / "first"), allow_changes=True, load="all").metrics["step"] == 9


def test_a_checkpoint_of_arrays_of_other_shapes_is_one_clear_line(tiny: Make, tmp_path: Path) -> None:
    pair = ("model.backbone={kind: pair}", "stages=[{steps: 3}]")
    run(tiny(*pair), tmp_path / "first")
    wider = tiny("model.backbone={kind: pair, mlp_n_hidden: 24}", "stages=[{steps: 3}, {steps: 3}]")
    with pytest.raises(UserError, match="does not fit this configuration"):
        run(wider, tmp_path / "second", resume=str(tmp_path / "first"), allow_changes=True, load="all")
    assert not (tmp_path / "second").exists()


def test_a_new_run_stopped_before_its_first_step_keeps_what_it_loaded(
    only_prior: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(only_prior("checkpoints.keep=9"), tmp_path / "first")
    changed = only_prior("seed=5")
    load = {"resume": str(first.checkpoints / "20"), "allow_changes": True, "load": "weights,optimizer,scheduler"}
    whole = run(changed, tmp_path / "whole", **load)
    monkeypatch.setattr(preemption.early, "signal_number", signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(Stopped, match="stopped after step 0"):
            run(changed, tmp_path / "stopped", **load)
    finally:
        signal.signal(signal.SIGTERM, before)
    again = run(changed, tmp_path / "stopped", resume="auto")
    assert (again.bundle / "params.safetensors").read_bytes() == (whole.bundle / "params.safetensors").read_bytes()


def test_a_new_run_killed_before_its_first_checkpoint_does_not_begin_from_nothing(
    only_prior: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(only_prior(), tmp_path / "first")
    changed = only_prior("seed=5")
    load = {"resume": str(first.output), "allow_changes": True}
    whole = run(changed, tmp_path / "whole", **load)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gradient_stage.GradientStage, "_after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(changed, tmp_path / "killed", **load)
    again = run(changed, tmp_path / "killed", resume="auto")
    assert (again.bundle / "params.safetensors").read_bytes() == (whole.bundle / "params.safetensors").read_bytes()


def test_the_command_that_goes_on_can_be_pasted(only_prior: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "my run"
    monkeypatch.setattr(preemption.early, "signal_number", signal.SIGTERM)
    with pytest.raises(Stopped) as caught:
        run(only_prior(), output)
    assert shlex.split(str(caught.value).partition("go on with: ")[2]) == [
        "cg-train",
        "run",
        str(output / "config.yaml"),
        "-o",
        str(output),
        "--resume",
        "auto",
    ]


def test_a_frozen_prior_too_large_to_keep_goes_through_the_step_and_the_network_learns_the_same(
    hybrid: RunResult, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subtracted: list[bool] = []
    targets_of = Trainer.targets
    monkeypatch.setattr(
        Trainer, "targets", lambda self, source, state, wanted: subtracted.append(wanted) or targets_of(self, source, state, wanted)
    )
    through = run(tiny("ema_decay=0.5", "data.prior_cache_gigabytes=0"), tmp_path / "run")
    assert set(subtracted) == {False}
    ours, theirs = (jax.tree.leaves(load_bundle(result.bundle).params) for result in (through, hybrid))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert through.metrics["validation_mse"] == pytest.approx(hybrid.metrics["validation_mse"], rel=1e-5)


@pytest.mark.parametrize("mode", ["hybrid", "prior"])
def test_what_a_start_reads_does_not_grow_with_the_data_set(mode: str, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process reads at the start what describes the data; all of a large data set, in hundreds of processes, would take days."""
    monkeypatch.setattr(prepare, "DESCRIBING_FRAMES", 10)
    monkeypatch.setattr(frames, "EDGE_SAMPLE", 10)
    monkeypatch.setattr(targets, "STATISTICS_FRAMES", 10)

    def started(*arguments: object) -> None:
        raise Stopped(signal.SIGTERM, "before the first step")

    monkeypatch.setattr(run_module, "run_stages", started)
    read, look = GraphSource._of, contracts.first_not_finite
    counts = []
    for n_frames in (100, 400):
        made = write_dataset(tmp_path / f"{n_frames}", {"7aaaA00": make_frames(7, n_frames, 0)})
        seen: list[str] = []
        with monkeypatch.context() as counted:
            counted.setattr(GraphSource, "_of", lambda self, sample, name, seen=seen: seen.append(name) or read(self, sample, name))
            counted.setattr(
                contracts, "first_not_finite", lambda array, seen=seen: seen.extend(["all"] * array.ndim * (len(array) > 1)) or look(array)
            )
            options = (f"dataset={made.path}", f"model.mode={mode}", "stages=[{train: prior, steps: 4}]", "validation.max_frames=5")
            with pytest.raises(Stopped):
                run(tiny(*options), tmp_path / f"{mode}{n_frames}")
        assert seen.count("all") == 1  # temperatures; never all numbers of all beads
        counts.append(len(seen))
    assert counts[0] == counts[1] < 100


def test_a_frame_that_is_not_finite_is_named_when_it_is_read(only_prior: Make, tmp_path: Path) -> None:
    made = write_dataset(tmp_path / "dataset", {"7aaaA00": make_frames(7, 60, 0)})
    file = made.path / "domains/7aaaA00/forces.npy"
    forces = np.load(file)
    bad = int(made.split("train")["7aaaA00"][3])
    forces[bad, 2, 1] = np.nan
    np.save(file, forces)
    with pytest.raises(UserError, match=rf"7aaaA00: forces must be finite; frame {bad} is not"):
        run(only_prior(f"dataset={made.path}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
