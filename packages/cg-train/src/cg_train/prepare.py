"""From a configuration to what the stages need: data, model, first or restored state."""

import contextlib
import dataclasses
import logging
import shlex
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cg_data.atomic import keep_out
from cg_data.errors import UserError, require
from cg_data.store import Dataset
from cg_models.graph import pack, plan_budget
from cg_models.hybrid import Model, build_model, match_force_scale
from cg_models.precision import require_precision
from cg_models.statistics import ModelStatistics
from cg_priors.parameters import PriorParameters
from cg_train import checkpoint
from cg_train.config import AnyStage, Plateau, StageConfig, TrainConfig
from cg_train.distributed import from_first, put_replicated
from cg_train.ensemble_stage import new_progress, stacked
from cg_train.frames import GraphSource, sampling_weights, select_frames
from cg_train.metrics import Journal
from cg_train.order import SampleOrder
from cg_train.preemption import StopRequest
from cg_train.reference import energy_reference
from cg_train.stages import with_optimizer
from cg_train.state import Progress, TrainState, initial_state
from cg_train.targets import FrozenPrior, Targets, model_statistics
from cg_train.trackers import Trackers
from cg_train.trainer import Trainer
from cg_train.warm_start import warm_state

logger = logging.getLogger(__name__)

DESCRIBING_FRAMES = 20_000
"""Frames, at most, behind numbers that describe a data set: mean square forces, energies of species. All would be read at every start."""
INITIAL_FORCE_SHARE = 0.1
"""A fresh backbone's forces, as a share of the rms of what it has to learn, most of which is noise."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run is given: checksums are of the files that it learns from."""

    config: TrainConfig
    output: Path
    dataset: Dataset
    prior: PriorParameters | None
    mesh: Mesh
    checksums: dict[str, str]


def prepare(
    inputs: Inputs, stop: StopRequest, restored: checkpoint.Restored | None, load: str, n_members: int | None = None
) -> tuple[Trainer, TrainState, Progress]:
    """Return the trainer and the state from which it goes on; with `n_members` that of an ensemble, on the host.

    Member i starts from the parameters of the seed config.seed + i.
    """
    config, output, dataset, prior, mesh = inputs.config, inputs.output, inputs.dataset, inputs.prior, inputs.mesh
    dtype = np.dtype(config.model.precision)
    require_precision(config.model.precision)
    cutoff = max(config.model.cutoff_angstrom if config.model.mode != "prior" else 0.0, prior.cutoff_angstrom if prior else 0.0)
    training, validation = _sources(dataset, config, cutoff)
    _check_labels(config, training)
    statistics = model_statistics(training, config.model.cutoff_angstrom)
    model = build_model(config.model, dataset.species_names, prior, statistics)
    frozen_prior = FrozenPrior(model, dtype) if prior is not None else None
    resumed = restored is not None and load == "all"
    old = None if restored is None else ModelStatistics.parse(restored.progress.statistics, str(restored.path))
    statistics = _statistics(inputs, statistics, old, training, frozen_prior, resumed)
    model = build_model(config.model, dataset.species_names, prior, statistics)
    progress = restored.progress if restored is not None and resumed else Progress(statistics=statistics.to_dict())
    references = _references(prior, frozen_prior, training, validation) if not resumed else {}
    target_mse = references.get("train_prior_mse", references.get("train_zero_mse", 0.0))
    states = [
        initial_state(from_first(_initial_params(model, seed, training, target_mse, dtype, restored)), config)
        for seed in range(config.seed, config.seed + (n_members or 1))
    ]
    state = states[0]
    if n_members is not None:
        state = stacked(states)
        if progress.members is None:
            new_progress(progress, n_members)
    if restored is not None:
        if resumed:
            state = checkpoint.read_state(restored.path, with_optimizer(state, config, progress))
        else:
            state = warm_state(restored, state, config, load, progress)
    order = SampleOrder(config.seed, len(training.table), sampling_weights(training.table, config.data))
    # Only now, when nothing more can be refused.
    output.mkdir(parents=True, exist_ok=True)
    lock, journal = contextlib.ExitStack(), None
    if jax.process_index() == 0:
        # The same job submitted twice would mix its lines and checkpoints.
        lock.enter_context(keep_out(output))
        journal = _begin_record(config, output, restored if resumed else None, references)
    trainer = Trainer(
        config=config,
        model=model,
        mesh=mesh,
        training=training,
        validation=validation,
        order=order,
        checkpoints=checkpoint.Checkpoints(output / "checkpoints", config.checkpoints.keep),
        journal=journal,
        lock=lock,
        stop=stop,
        inputs=inputs.checksums,
        frozen_prior=frozen_prior,
        resume_hint=resume_hint(output, n_members),
        dtype=dtype,
        n_members=n_members,
    )
    if restored is not None and not resumed:
        # Or a run that ends before its first checkpoint would begin without what it was given.
        trainer.save(state, progress)
    return trainer, state if n_members is not None else put_replicated(state, mesh), progress


def _begin_record(config: TrainConfig, output: Path, resumed: checkpoint.Restored | None, references: dict[str, float]) -> Journal:
    """Write the configuration and return the run's journal, at its first line or at the step it goes on from."""
    config.save(output / "config.yaml")
    stands_at, history = (-1, None) if resumed is None else (resumed.progress.step, resumed.path.parent.parent / "metrics.jsonl")
    journal = Journal(output / "metrics.jsonl", stands_at, history, Trackers(config.trackers, output, config.to_dict(), stands_at))
    if resumed is None:
        journal.write({"step": 0, **references})
        logger.info("%s", ", ".join(f"{name.replace('_', ' ')} {value:.5g}" for name, value in references.items()))
    else:
        logger.info("resumed from %s at step %d", resumed.path, resumed.progress.step)
    return journal


def resume_hint(output: Path, n_members: int | None) -> str:
    """Return the command that goes on."""
    verb, members = ("run", ()) if n_members is None else ("ensemble", ("--members", str(n_members)))
    return shlex.join(["cg-train", verb, str(output / "config.yaml"), "-o", str(output), *members, "--resume", "auto"])


def _statistics(
    inputs: Inputs,
    fresh: ModelStatistics,
    old: ModelStatistics | None,
    training: GraphSource,
    frozen_prior: FrozenPrior | None,
    resumed: bool,
) -> ModelStatistics:
    """Return the model's statistics with its energy reference: those of the checkpoint that is gone on from where there is one."""
    config = inputs.config
    # Parameters mean what they meant only with the numbers they were trained with.
    if old is not None and (resumed or config.energy_reference.use_checkpoint):
        return old
    statistics = fresh if old is None else old
    if config.loss.energy_weight == 0 or config.model.mode == "prior":
        return statistics
    energies, source = None, training.thinned(DESCRIBING_FRAMES)
    if frozen_prior is not None and inputs.prior is not None:
        energies = frozen_prior(inputs.prior.arrays, source).energies
    offsets = energy_reference(source, config.energy_reference, inputs.dataset.species_names, energies)
    return ModelStatistics.parse({**statistics.to_dict(), "species_offsets": offsets}, "energy_reference")


def _check_labels(config: TrainConfig, training: GraphSource) -> None:
    for label, weight in (("energy", config.loss.energy_weight), ("stress", config.loss.stress_weight)):
        require(
            weight == 0 or training.has(label),
            f"loss.{label}_weight: no training frame has {label}: set it to 0, or prepare data whose frames carry `{label}`",
        )


def _sources(dataset: Dataset, config: TrainConfig, cutoff: float) -> tuple[GraphSource, GraphSource | None]:
    training = select_frames(dataset, "train", config.data)
    if not len(training):
        kelvin = ", ".join(f"{t:g}" for t in dataset.info.temperatures_kelvin)
        raise UserError(f"{dataset.path}: no training frame is left by data.domains and data.temperatures_kelvin; it has {kelvin} K")
    validation = select_frames(dataset, "validation", config.data).thinned(config.validation.max_frames)
    if not len(validation):
        plateaus = [f"stages.{index}.schedule" for index, stage in enumerate(config.stages) if _has_plateau(stage)]
        needing = plateaus + ["validation.early_stopping_patience"] * (config.validation.early_stopping_patience is not None)
        require(
            not needing,
            f"{dataset.path}: the chosen domains and temperatures have no validation frames, which {' and '.join(needing)} need: choose a "
            "schedule of steps and set the patience to null, or prepare data with such frames",
        )
        logger.warning("%s has no validation frames: the bundle takes the last parameters", dataset.path)
    each = config.data.edge_cache_gigabytes
    return GraphSource(dataset, training, cutoff, each), GraphSource(dataset, validation, cutoff, each) if len(validation) else None


def _has_plateau(stage: AnyStage) -> bool:
    return isinstance(stage, StageConfig) and isinstance(stage.schedule, Plateau)


def _references(
    prior: PriorParameters | None, frozen_prior: FrozenPrior | None, training: GraphSource, validation: GraphSource | None
) -> dict[str, float]:
    """Return the mean square errors of predicting nothing, and of the prior alone, on at most `DESCRIBING_FRAMES` frames of each split."""
    found = {}
    for name, frames in (("train", training), ("validation", validation)):
        if frames is None:
            continue
        source = frames.thinned(DESCRIBING_FRAMES)
        found[f"{name}_zero_mse"] = Targets(source, None).mean_square()
        if prior is not None and frozen_prior is not None:
            found[f"{name}_prior_mse"] = Targets(source, frozen_prior(prior.arrays, source)).mean_square()
    return found


def _initial_params(
    model: Model,
    seed: int,
    training: GraphSource,
    target_mse: float,
    dtype: np.dtype,
    restored: checkpoint.Restored | None,
) -> Any:
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), model.init(jax.random.key(seed)))
    if restored is not None:
        return params
    samples = np.linspace(0, len(training.table) - 1, 8).round().astype(int)
    graphs = [training.graph(int(sample)) for sample in samples]
    packed = pack(graphs, plan_budget(graphs, len(graphs), rows=True))
    graph = dataclasses.replace(packed, positions=packed.positions.astype(dtype))
    params = match_force_scale(model, params, graph, INITIAL_FORCE_SHARE * float(np.sqrt(target_mse)))
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
