"""A training run from its configuration to its bundle."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from cg_data.atomic import sha256
from cg_data.errors import UserError, require
from cg_data.store import Dataset, open_dataset
from cg_models.bundle import Bundle, save_bundle
from cg_models.graph import dense, pack, plan_budget
from cg_models.hybrid import Model, build_model, match_force_scale
from cg_models.statistics import ModelStatistics
from cg_priors.parameters import PriorParameters, load_prior
from cg_train import checkpoint
from cg_train.config import TrainConfig
from cg_train.distributed import describe, from_first, make_mesh, put_replicated, synchronise, to_host
from cg_train.frames import GraphSource, sampling_weights, select_frames
from cg_train.metrics import Journal, plot_losses, read_metrics
from cg_train.order import SampleOrder
from cg_train.preemption import StopRequest, stop_on_signals
from cg_train.stages import run_stages, with_optimizer
from cg_train.state import Progress, TrainState, initial_state
from cg_train.targets import PriorForces, Targets, model_statistics
from cg_train.trainer import Trainer

logger = logging.getLogger(__name__)

Load = Literal["auto", "all", "weights"]

OPERATIONAL = (
    "log_every_steps",
    "checkpoints",
    "platform",
    "devices",
    "data.prefetch_threads",
    "data.prefetch_batches",
    "data.edge_cache_gigabytes",
)
"""Options that change when things are written and how fast, not what is learned."""

INITIAL_FORCE_SHARE = 0.1
"""A fresh backbone's forces, as a share of the rms of what it has to learn, most of which is noise."""


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


def run(config: TrainConfig, output: Path | str, resume: str | None = None, allow_changes: bool = False, load: Load = "auto") -> RunResult:
    """Train a model as configured; write checkpoints, metrics, a plot and the bundle into the folder `output`.

    resume: "auto" continues the run in `output` where there is one; a path continues another run, its folder or a checkpoint.
    allow_changes: continue although the configuration or the data changed. load: what is taken from the checkpoint: all, or the
    weights alone, for a new run from step 0; auto takes all unless what is learned was changed.
    Raises `UserError` for input that cannot be used, and `preemption.Stopped` after a signal, with everything saved.
    """
    output = Path(output)
    checkpoint.silence_orbax()
    source = _resume_source(output, resume)
    dataset = open_dataset(config.dataset)
    prior = _load_prior(config)
    inputs = _fingerprints(dataset, config)
    restored = None
    if source is not None:
        restored = checkpoint.read_about(source.parent, int(source.name))
        load = _what_to_load(restored, config, inputs, allow_changes, load)
        if load == "weights" and (output / "checkpoints").exists():
            raise UserError(
                f"{output}: holds a run already; weights alone begin a new one: choose another folder with -o, and --resume {source}"
            )
    # No process may write before all have looked at what is there.
    synchronise("inputs read")
    output.mkdir(parents=True, exist_ok=True)
    mesh = make_mesh(config.platform, config.devices)
    logger.info("%s", describe(mesh))
    with stop_on_signals() as stop:
        trainer, state, progress = _prepare(config, output, dataset, prior, mesh, inputs, stop, restored, load)
        try:
            state = run_stages(trainer, state, progress)
            return _finish(trainer, state, progress, dataset, output)
        finally:
            trainer.checkpoints.close()
            if trainer.journal is not None:
                trainer.journal.close()


def _prepare(
    config: TrainConfig,
    output: Path,
    dataset: Dataset,
    prior: PriorParameters | None,
    mesh: Any,
    inputs: dict[str, str],
    stop: StopRequest,
    restored: checkpoint.Restored | None,
    load: Load,
) -> tuple[Trainer, TrainState, Progress]:
    """Return the trainer and the state from which it goes on."""
    dtype = np.dtype(config.model.precision)
    require(
        dtype != np.float64 or bool(jax.config.read("jax_enable_x64")),
        "model.precision is float64, but JAX runs in 32 bits: set the environment variable JAX_ENABLE_X64=1",
    )
    cutoff = max(config.model.cutoff_angstrom if config.model.mode != "prior" else 0.0, prior.cutoff_angstrom if prior else 0.0)
    training, validation = _sources(dataset, config, cutoff)
    statistics = model_statistics(training, config.model.cutoff_angstrom)
    progress = Progress(statistics=statistics.to_dict())
    resumed = restored is not None and load == "all"
    if restored is not None:
        # Parameters mean what they meant only with the numbers they were trained with.
        statistics = ModelStatistics.parse(restored.progress.statistics, str(restored.path))
        progress = restored.progress if resumed else Progress(statistics=statistics.to_dict())
    model = build_model(config.model, dataset.species_names, prior, statistics)
    prior_forces = PriorForces(model, dtype) if prior is not None else None
    references = _references(prior, prior_forces, training, validation) if not resumed else {}
    params = _initial_params(
        model, config, training, references.get("train_prior_mse", references.get("train_zero_mse", 0.0)), dtype, restored
    )
    state = initial_state(from_first(params), config.ema_decay is not None)
    if restored is not None:
        state = _restored_state(restored, state, config, progress, resumed)
    journal = None
    if jax.process_index() == 0:
        config.save(output / "config.yaml")
        other = restored.path.parent.parent / "metrics.jsonl" if restored is not None and resumed else None
        journal = Journal(output / "metrics.jsonl", progress.step if resumed else -1, other)
        if not resumed:
            journal.write({"step": 0, **references})
            logger.info("%s", ", ".join(f"{name.replace('_', ' ')} {value:.5g}" for name, value in references.items()))
        else:
            logger.info("resumed from %s at step %d", restored.path if restored else "", progress.step)
    trainer = Trainer(
        config=config,
        model=model,
        mesh=mesh,
        training=training,
        validation=validation,
        order=SampleOrder(config.seed, len(training.table), sampling_weights(training.table, config.data)),
        checkpoints=checkpoint.Checkpoints(output / "checkpoints", config.checkpoints.keep),
        journal=journal,
        stop=stop,
        inputs=inputs,
        prior_forces=prior_forces,
        resume_hint=f"cg-train run {output / 'config.yaml'} -o {output} --resume auto",
        dtype=dtype,
    )
    return trainer, put_replicated(state, mesh), progress


def _sources(dataset: Dataset, config: TrainConfig, cutoff: float) -> tuple[GraphSource, GraphSource | None]:
    training = select_frames(dataset, "train", config.data)
    if not len(training):
        kelvin = ", ".join(f"{t:g}" for t in dataset.info.temperatures_kelvin)
        raise UserError(f"{dataset.path}: no training frame is left by data.domains and data.temperatures_kelvin; it has {kelvin} K")
    validation = select_frames(dataset, "validation", config.data).thinned(config.validation.max_frames)
    if not len(validation):
        logger.warning("%s has no validation frames: the bundle takes the last parameters", dataset.path)
    each = config.data.edge_cache_gigabytes
    return GraphSource(dataset, training, cutoff, each), GraphSource(dataset, validation, cutoff, each) if len(validation) else None


def _references(
    prior: PriorParameters | None, prior_forces: PriorForces | None, training: GraphSource, validation: GraphSource | None
) -> dict[str, float]:
    """Return the mean square errors of predicting nothing, and of the prior alone."""
    found = {}
    for name, source in (("train", training), ("validation", validation)):
        if source is None:
            continue
        found[f"{name}_zero_mse"] = Targets(source, None).mean_square()
        if prior is not None and prior_forces is not None:
            found[f"{name}_prior_mse"] = Targets(source, prior_forces(prior.arrays, source)).mean_square()
    return found


def _initial_params(
    model: Model, config: TrainConfig, training: GraphSource, target_mse: float, dtype: np.dtype, restored: checkpoint.Restored | None
) -> Any:
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), model.init(jax.random.key(config.seed)))
    if restored is not None:
        return params
    samples = np.linspace(0, len(training.table) - 1, 8).round().astype(int)
    graphs = [training.graph(int(sample)) for sample in samples]
    packed = pack(graphs, plan_budget(graphs, len(graphs)))
    graph = dense(dataclasses.replace(packed, positions=packed.positions.astype(dtype)))
    params = match_force_scale(model, params, graph, INITIAL_FORCE_SHARE * float(np.sqrt(target_mse)))
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)


def _restored_state(restored: checkpoint.Restored, state: TrainState, config: TrainConfig, progress: Progress, resumed: bool) -> TrainState:
    """Return the checkpoint's state: all of it, or `state` with its parameters."""
    if resumed:
        return checkpoint.read_state(restored.path, with_optimizer(state, config, progress))
    params = checkpoint.read_params(restored.path, state.params)
    return initial_state(params, state.average is not None)


def _finish(trainer: Trainer, state: TrainState, progress: Progress, dataset: Dataset, output: Path) -> RunResult:
    """Write the bundle and the plot."""
    trainer.checkpoints.wait()
    config = trainer.config
    use_best = config.parameters == "best" and progress.best_mse is not None
    # Without a new best the last evaluated parameters: the average where there is one.
    params = to_host(state.best if use_best else (state.average if state.average is not None else state.params))
    metrics_file, plot, bundle = output / "metrics.jsonl", output / "loss.png", output / "bundle"
    synchronise("metrics written")
    metrics = final_metrics(metrics_file, progress, use_best)
    if trainer.is_main:
        save_bundle(
            bundle,
            Bundle(
                config=config.model,
                species_names=trainer.model.species_names,
                params=params,
                prior=trainer.model.prior,
                statistics=trainer.model.statistics,
                dataset_info=_dataset_info(dataset, trainer),
                metrics=metrics,
            ),
            overwrite=True,
        )
        plot_losses(metrics_file, plot)
        logger.info("bundle: %s", bundle)
    synchronise("bundle written")
    return RunResult(output, bundle, output / "checkpoints", metrics_file, plot, metrics)


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
    if use_best and progress.best_mse is not None:
        metrics["validation_mse"] = progress.best_mse
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
    return inputs


def _resume_source(output: Path, resume: str | None) -> Path | None:
    """Return the checkpoint to go on from; `UserError` where `output` holds a run and nothing was said about it."""
    source = checkpoint.resolve(resume, output)
    if resume is None and (output / "config.yaml").exists():
        raise UserError(f"{output}: holds a run already: go on with --resume auto, or choose another folder")
    return source


def _what_to_load(restored: checkpoint.Restored, config: TrainConfig, inputs: Mapping[str, str], allow_changes: bool, load: Load) -> Load:
    """Return all or weights, after saying what changed; `UserError` where changes are not allowed."""
    plain = json.loads(json.dumps(config.to_dict()))
    changes = checkpoint.differences(restored.config, plain)
    changes += [f"contents of {name}: changed" for name in inputs if restored.inputs.get(name) != inputs[name]]
    if not changes:
        return "all" if load == "auto" else load
    shown = "; ".join(changes)
    if not allow_changes:
        raise UserError(f"{restored.path}: was made with another configuration: {shown}: change it back, or allow it with --allow-changes")
    logger.warning("changed since the checkpoint: %s", shown)
    if load != "auto":
        return load
    matters = [change for change in changes if not change.split(":")[0].startswith(OPERATIONAL)]
    return "weights" if matters else "all"


def parse_load(text: str) -> Load:
    """Return the choice that a command line's text names."""
    if text not in ("auto", "all", "weights"):
        raise UserError(f"--load {text}: expected auto, all or weights")
    return text  # type: ignore[return-value]
