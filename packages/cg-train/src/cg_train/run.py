"""A training run from its configuration to its bundle."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.atomic import check_place, sha256
from cg_data.configuration import read_yaml
from cg_data.errors import UserError, require
from cg_data.store import Dataset, open_dataset
from cg_models.bundle import Bundle, save_bundle
from cg_priors.parameters import PriorParameters, load_prior
from cg_train import checkpoint
from cg_train.config import TrainConfig
from cg_train.distributed import describe, make_mesh, synchronise, to_host
from cg_train.metrics import plot_losses, read_metrics
from cg_train.preemption import stop_on_signals
from cg_train.prepare import Inputs, prepare
from cg_train.stages import run_stages
from cg_train.state import Progress, TrainState
from cg_train.trainer import Trainer
from cg_train.warm_start import parse_load

logger = logging.getLogger(__name__)

OPERATIONAL = (
    "log_every_steps",
    "checkpoints",
    "platform",
    "devices",
    "data.prefetch_threads",
    "data.prefetch_batches",
    "data.edge_cache_gigabytes",
    "data.prior_cache_gigabytes",
    "trackers",
)
"""Options that change when things are written and how fast, not what is learned."""


WRITTEN = ("config.yaml", "metrics.jsonl", "checkpoints", "bundle", "loss.png", "members", "ensemble.json")
"""What a run or an ensemble writes into its folder."""


@dataclass(frozen=True)
class RunResult:
    """What a run ended with.

    metrics: step, best_step, and mean square errors, (kcal/mol/angstrom)^2: train_mse (last logged), validation_mse (of the
    bundle's parameters), and of references, {train,validation}_{zero,prior}_mse. Those that do not exist are left out.
    """

    output: Path
    bundle: Path
    checkpoints: Path
    metrics_file: Path
    loss_plot: Path
    metrics: dict[str, float]


def run(config: TrainConfig, output: Path | str, resume: str | None = None, allow_changes: bool = False, load: str = "auto") -> RunResult:
    """Train a model as configured; write checkpoints, metrics, a plot and the bundle into the folder `output`.

    resume: "auto" continues the run in `output` where there is one; a path continues another run, its folder or a checkpoint.
    allow_changes: continue although the configuration or the data changed. load: what is taken from the checkpoint: all; or for a
    new run from step 0 `weights`, joined by commas with `optimizer`, `scheduler`, `scaler`; auto takes all unless what is learned was
    changed, else the weights.
    Raises `UserError` for input that cannot be used, and `preemption.Stopped` after a signal, with everything saved.
    """
    output = Path(output)
    inputs, restored, load = look_at(config, output, resume, allow_changes, load)
    if restored is not None and restored.progress.members is not None:
        n_members = len(restored.progress.members)
        raise UserError(f"{restored.path}: holds an ensemble of {n_members} members: go on with cg-train ensemble --members {n_members}")
    # No process may write before all have looked at what is there.
    synchronise("inputs read")
    logger.info("%s", describe(inputs.mesh))
    with stop_on_signals() as stop, checkpoint.full_disk_is_one_line(output):
        trainer, state, progress = prepare(inputs, stop, restored, load)
        try:
            state = run_stages(trainer, state, progress)
            return _finish(trainer, state, progress, inputs)
        finally:
            trainer.close()


def look_at(
    config: TrainConfig, output: Path, resume: str | None, allow_changes: bool, load: str
) -> tuple[Inputs, checkpoint.Restored | None, str]:
    """Return a run's inputs, the checkpoint that it goes on from, and what to load of it; nothing is written."""
    checkpoint.silence_orbax()
    load = parse_load(load)
    require(resume is not None or load == "auto", f"--load {load}: expected --resume beside it, which says from which run")
    source = _resume_source(output, resume)
    dataset = open_dataset(config.dataset)
    prior = _load_prior(config)
    checksums = _fingerprints(dataset, config)
    restored = None
    if source is not None:
        restored = checkpoint.read_about(source.parent, int(source.name))
        load = _what_to_load(restored, config, checksums, allow_changes, load)
        if load != "all" and (output / "checkpoints").exists():
            raise UserError(
                f"{output}: holds a run already; {load} alone begin a new one: choose another folder with -o, and --resume {source}"
            )
    mesh = make_mesh(config.platform, config.devices)
    check_place(output / "config.yaml" if output.exists() else output)
    return Inputs(config, output, dataset, prior, mesh, checksums), restored, load


def _finish(trainer: Trainer, state: TrainState, progress: Progress, inputs: Inputs) -> RunResult:
    """Write the bundle and the plot."""
    output = inputs.output
    trainer.checkpoints.wait()
    config = trainer.config
    use_best = config.parameters == "best" and progress.best_mse is not None
    params = final_params(state, use_best)
    metrics_file, plot, bundle = output / "metrics.jsonl", output / "loss.png", output / "bundle"
    synchronise("metrics written")
    metrics = final_metrics(metrics_file, progress, use_best)
    if trainer.is_main:
        write_bundle(bundle, trainer, params, metrics, inputs.dataset)
        plot_losses(metrics_file, plot)
        logger.info("bundle: %s", bundle)
    synchronise("bundle written")
    return RunResult(output, bundle, output / "checkpoints", metrics_file, plot, metrics)


def final_params(state: TrainState, use_best: bool) -> Any:
    """Return the parameters of the bundle on the host: the best, or the last evaluated, the average where there is one."""
    return to_host(state.best if use_best else (state.average if state.average is not None else state.params))


def write_bundle(path: Path, trainer: Trainer, params: Any, metrics: Mapping[str, Any], dataset: Dataset) -> None:
    """Write a model with its history."""
    model = trainer.model
    bundle = Bundle(
        config=trainer.config.model,
        species_names=model.species_names,
        params=params,
        prior=model.prior,
        statistics=model.statistics,
        dataset_info=_dataset_info(dataset, trainer),
        metrics=metrics,
    )
    save_bundle(path, bundle, overwrite=True)


def final_metrics(metrics_file: Path, progress: Progress, use_best: bool) -> dict[str, float]:
    """Return a run's last numbers, from its metrics file and progress."""
    records = read_metrics(metrics_file)
    metrics: dict[str, float] = {name: value for name, value in (records[0] if records else {}).items() if name.endswith("_mse")}
    metrics["step"] = progress.step
    if progress.best_step is not None and progress.best_mse is not None:
        metrics["best_step"] = progress.best_step
    for name in ("train_mse", "validation_mse"):
        values = [record[name] for record in records if name in record]
        if values:
            metrics[name] = values[-1]
    if use_best:
        # Not `best_mse`, which is the loss where energies or stress are learned; nor the last, which is of other parameters.
        best = next((record for record in records if record["step"] == progress.best_step and "validation_mse" in record), None)
        metrics.pop("validation_mse", None)
        if best is not None:
            metrics["validation_mse"] = best["validation_mse"]
    return metrics


def _dataset_info(dataset: Dataset, trainer: Trainer) -> dict[str, Any]:
    table = trainer.training.table
    return {
        "path": str(dataset.path),
        "sha256": trainer.inputs["dataset"],
        "mapping": dataset.info.mapping,
        "domains": list(table.domain_names),
        "n_training_frames": len(table),
        "temperatures_kelvin": [float(t) for t in np.unique(table.temperature)],
        "units": dataset.info.units,
    }


def _load_prior(config: TrainConfig) -> PriorParameters | None:
    if config.model.mode == "backbone" or config.prior is None:
        return None
    return load_prior(config.prior)


def _fingerprints(dataset: Dataset, config: TrainConfig) -> dict[str, str]:
    """Return checksums of what is learned from; dataset.json holds those of every domain."""
    inputs = {"dataset": sha256(dataset.path / "dataset.json")}
    if config.model.mode != "backbone" and config.prior is not None:
        inputs["prior"] = sha256(config.prior)
        splines = read_yaml(config.prior).get("spline_file")
        if splines is not None:
            inputs["prior splines"] = sha256(Path(config.prior).parent / splines)
    return inputs


def _resume_source(output: Path, resume: str | None) -> Path | None:
    """Return the checkpoint to go on from; `UserError` where something in `output` that is not of the same run would be replaced."""
    source = checkpoint.resolve(resume, output)
    if source is not None and source.parent == (output / "checkpoints").absolute():
        later = [entry.name for entry in source.parent.iterdir() if entry.name.isdigit() and int(entry.name) > int(source.name)]
        if later:
            raise UserError(f"{output}: has checkpoints after step {source.name}, which would stay: choose another folder with -o")
        return source
    there = [name for name in WRITTEN if (path := output / name).is_file() or (path.is_dir() and any(path.iterdir()))]
    if "config.yaml" in there and len(there) > 1 and resume != "auto":
        go_on = "go on with --resume auto, or " if resume is None else ""
        raise UserError(f"{output}: holds a run already: {go_on}choose another folder with -o")
    if resume == "auto" and "config.yaml" in there and _is_resolved(output / "config.yaml"):
        # A run that ended before its first checkpoint was complete.
        there = [name for name in there if name not in ("config.yaml", "metrics.jsonl", "checkpoints")]
    if there:
        raise UserError(f"{output / there[0]}: exists, is of no run to go on with, and would be replaced: choose another folder with -o")
    return source


def _is_resolved(path: Path) -> bool:
    """Return whether a configuration is one that a run has written, with which nothing of a person's is lost."""
    try:
        return TrainConfig.load(path).to_yaml() == path.read_text()
    except UserError:
        return False


def _what_to_load(restored: checkpoint.Restored, config: TrainConfig, inputs: Mapping[str, str], allow_changes: bool, load: str) -> str:
    """Return what to load, after saying what changed; `UserError` where changes are not allowed."""
    plain = json.loads(json.dumps(config.to_dict()))
    changes = checkpoint.differences(restored.config, plain)
    # A checkpoint may be from before a checksum was kept.
    changes += [f"contents of {name}: changed" for name in inputs if restored.inputs.get(name, inputs[name]) != inputs[name]]
    if not changes:
        return "all" if load == "auto" else load
    shown = "; ".join(changes)
    if not allow_changes:
        raise UserError(f"{restored.path}: was made with another configuration: {shown}: change it back, or allow it with --allow-changes")
    logger.warning("changed since the checkpoint: %s", shown)
    if load == "auto":
        matters = [change for change in changes if not change.split(":")[0].startswith(OPERATIONAL)]
        load = "weights" if matters else "all"
    if load == "all" and restored.progress.stage >= len(config.stages) and any(change.startswith("stages") for change in changes):
        raise UserError(
            f"{restored.path}: its run is finished, so that no step of the changed stages would be left: add a stage, or go on with "
            "--load weights,optimizer in a new folder"
        )
    return load
