"""A stage of optimization by mini-batches: its data, its loop, and what happens between steps."""

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cg_data.contracts import Array
from cg_data.errors import UserError
from cg_models.graph import Budget, BudgetOverflow
from cg_train import config as c
from cg_train.augment import noised, random_rotation
from cg_train.distributed import put_batch, put_replicated, sharding_of, to_host
from cg_train.frames import GraphSource
from cg_train.loader import PLANNED_STEPS, Batch, BatchBuilder, Example, grown_budget, plan_run_budget, training_batches
from cg_train.log import Display, display
from cg_train.loss import loss_value
from cg_train.optimizer import make_optimizer, make_schedule
from cg_train.order import random_generator
from cg_train.state import Progress, TrainState, empty_window, trained
from cg_train.step import evaluated_params, make_evaluation, make_step
from cg_train.trainer import Trainer

logger = logging.getLogger(__name__)

MOST_REPLANS = 20
AUGMENTATION = 1
"""Keeps the draws of augmentation apart from those of the order."""
STOP_LAG = 2
"""Steps after which processes look whether any of them was asked to stop: late enough not to wait for the devices."""


class GradientStage:
    """One stage. `progress` is shared with the run and updated in place."""

    def __init__(self, trainer: Trainer, stage: c.StageConfig, progress: Progress):
        config = trainer.config
        self.trainer, self.stage, self.progress = trainer, stage, progress
        self.n_steps = stage_steps(stage, len(trainer.training.table), config.frames_per_batch)
        self.last_step = progress.stage_first_step + self.n_steps
        frozen = stage.train == "backbone" and config.model.mode == "hybrid"
        # Where positions get noise, the prior's forces are not those of the stored frames: it goes through the step.
        self.subtracted_prior = frozen and config.augmentation.noise_angstrom == 0
        self.schedule = make_schedule(stage, self.n_steps)
        self.optimizer = make_optimizer(stage, self.schedule)
        self.sharding = sharding_of(trainer.mesh, config.gradient_accumulation)
        energy = trainer.model.energy_of("backbone" if self.subtracted_prior else "full")
        self.step_fn = make_step(energy, config.loss, stage, self.optimizer, config.ema_decay, trainer.mesh)
        self.evaluate = make_evaluation(energy, config.loss, trainer.mesh)
        self.validation_batches: list[Batch] = []
        self.window_start = 0.0

    def run(self, state: TrainState) -> TrainState:
        """Train to the end of the stage and return the state."""
        progress, trainer = self.progress, self.trainer
        if progress.step == progress.stage_first_step:
            optimizer_state = self.optimizer.init(to_host(trained(state.params, self.stage.train)))
            state = dataclasses.replace(state, optimizer=put_replicated(optimizer_state, trainer.mesh))
        builder = self._training_builder(state)
        self.validation_batches = self._make_validation_batches(state)
        name = f"stage {progress.stage + 1}/{len(trainer.config.stages)}"
        data = trainer.config.data
        with display(name, self.n_steps, progress.step - progress.stage_first_step, trainer.is_main) as shown:
            while progress.step < self.last_step:
                first, size = progress.step, trainer.config.frames_per_batch
                with training_batches(builder, trainer.order, size, first, data.prefetch_threads, data.prefetch_batches) as batches:
                    state, overflow = self._train(state, batches, shown)
                if overflow is not None:
                    builder.budget = self._replanned(builder.budget, overflow)
        return state

    def _train(self, state: TrainState, batches: Iterator[Batch], shown: Display) -> tuple[TrainState, BudgetOverflow | None]:
        """Train until the stage ends, or until a batch does not fit, which is returned."""
        self.window_start = time.monotonic()
        asked: deque[Array] = deque()
        while self.progress.step < self.last_step:
            if jax.process_count() == 1 or len(asked) > STOP_LAG:
                self.trainer.stop_if_asked(state, self.progress, bool(asked and float(to_host(asked.popleft())) > 0))
            try:
                batch = next(batches)
            except BudgetOverflow as overflow:
                return state, overflow
            if self.trainer.stop:
                batch = dataclasses.replace(batch, stop=np.ones_like(batch.stop))
            state, stop = self.step_fn(state, put_batch(batch, self.trainer.mesh))
            if jax.process_count() > 1:
                asked.append(stop)
            self.progress.step += 1
            state = self._after_step(state, shown)
        return state, None

    def _after_step(self, state: TrainState, shown: Display) -> TrainState:
        """Log, validate and save where it is time; a pending stop is honoured before the next step."""
        config, step = self.trainer.config, self.progress.step
        last = step >= self.last_step
        validate = bool(self.validation_batches) and (last or step % config.validation.every_steps == 0)
        log = last or validate or step % config.log_every_steps == 0
        save = step % config.checkpoints.every_steps == 0
        if not (log or save):
            return state
        self._check_finite(state)
        record: dict[str, Any] = {}
        if log:
            record, state = self._window_record(state)
        if validate:
            record["validation_mse"], state, is_best = self._validate(state)
            save = save or is_best
        if log:
            if self.trainer.journal is not None:
                self.trainer.journal.write(record)
            shown.show(record, step - self.progress.stage_first_step)
            self.window_start = time.monotonic()
        # The end of a stage is saved by `run_stages`, which also moves the stage on.
        if save and step < self.last_step:
            self.trainer.save(state, self.progress)
        return state

    def _window_record(self, state: TrainState) -> tuple[dict[str, Any], TrainState]:
        """Return the line of metrics for the steps since the last one, and the state with an empty window."""
        window = {name: float(value) for name, value in to_host(state.window).items()}
        seconds = time.monotonic() - self.window_start
        progress, config = self.progress, self.trainer.config
        n_steps = max(window["steps"], 1.0)
        stage_step = progress.step - progress.stage_first_step
        rate = float(self.schedule(stage_step - 1)) * float(to_host(state.learning_scale))
        record = {
            "step": progress.step,
            "stage": progress.stage + 1,
            "epoch": progress.step * config.frames_per_batch / self.trainer.order.n_frames,
            "loss": float(loss_value(window)),
            "train_mse": window["squared"] / max(window["components"], 1.0),
            "gradient_norm": window["gradient_norm"] / n_steps,
            "learning_rate": rate,
            "frames_per_second": n_steps * config.frames_per_batch / max(seconds, 1e-9),
            "devices": self.trainer.mesh.devices.size,
        }
        return record, dataclasses.replace(state, window=put_replicated(empty_window(), self.trainer.mesh))

    def _validate(self, state: TrainState) -> tuple[float, TrainState, bool]:
        """Return the validation's mean square error, the state (with a new best where it is one), and whether it is one."""
        params = evaluated_params(state, self.stage)
        sums = [self.evaluate(params, put_batch(batch, self.trainer.mesh)) for batch in self.validation_batches]
        squared, components = (sum(float(to_host(s[name])) for s in sums) for name in ("squared", "components"))
        mse = squared / components
        is_best = self.progress.note_validation(mse)
        if is_best:
            # A copy: the average's own buffers are consumed by the next step.
            state = dataclasses.replace(state, best=put_replicated(to_host(params), self.trainer.mesh))
        schedule, patience = self.stage.schedule, self.trainer.config.validation.early_stopping_patience
        if isinstance(schedule, c.Plateau) and self.progress.plateau_reached(mse, schedule.patience):
            scale = max(float(to_host(state.learning_scale)) * schedule.factor, schedule.minimum_fraction)
            state = dataclasses.replace(state, learning_scale=put_replicated(np.float32(scale), self.trainer.mesh))
        if patience is not None and self.progress.validations_without_best >= patience and self.progress.step < self.last_step:
            logger.info("no better validation in %d: the stage ends at step %d", patience, self.progress.step)
            self.last_step = self.progress.step
        return mse, state, is_best

    def _check_finite(self, state: TrainState) -> None:
        """Save the last good state and raise `UserError` where a step's loss or gradient was not finite."""
        failed = int(to_host(state.failed_step))
        if failed < 0:
            return
        trainer, progress = self.trainer, self.progress
        progress.step = failed
        good = dataclasses.replace(state, failed_step=put_replicated(np.int32(-1), trainer.mesh))
        trainer.save(good, progress)
        trainer.checkpoints.wait()
        table = trainer.training.table
        samples = trainer.order.batch(failed, trainer.config.frames_per_batch).tolist()
        raise UserError(
            f"step {failed + 1}: the loss or its gradient is not finite; its frames: {table.describe(samples)}; "
            f"the state before it is kept in {trainer.checkpoints.folder / str(failed)}: look at these frames, "
            "lower learning_rate or gradient_clip_norm, and go on from there"
        )

    def _training_builder(self, state: TrainState) -> BatchBuilder:
        trainer = self.trainer
        # The same shapes give the same bits on resume; another number of devices needs other shapes.
        if self.progress.budget is not None and self.progress.budget_shards == self.sharding.n_shards:
            budget = Budget(**self.progress.budget)  # type: ignore[arg-type]
        else:
            budget = self._plan(trainer.training)
        self.progress.budget_shards = self.sharding.n_shards
        self.progress.budget = dataclasses.asdict(budget)
        return self._builder(trainer.training, state, budget)

    def _make_validation_batches(self, state: TrainState) -> list[Batch]:
        source = self.trainer.validation
        if source is None:
            return []
        chunks = _chunks(len(source.table), self.trainer.config.frames_per_batch)
        builder = self._builder(source, state, self._plan(source))
        batches = []
        for chunk in chunks:
            while True:
                try:
                    batches.append(builder.build(chunk, 0))
                    break
                except BudgetOverflow as overflow:
                    builder.budget = self._replanned(builder.budget, overflow)
                    batches = [builder.build(earlier, 0) for earlier in chunks[: len(batches)]]
        return batches

    def _builder(self, source: GraphSource, state: TrainState, budget: Budget) -> BatchBuilder:
        targets = self.trainer.targets(source, state, self.subtracted_prior)
        config = self.trainer.config
        augmentation = config.augmentation
        changed = source is self.trainer.training and (augmentation.random_rotation or augmentation.noise_angstrom > 0)

        def example(sample: int, step: int) -> Example:
            graph, forces = source.graph(sample), targets(sample)
            if not changed:
                return Example(graph, forces)
            generator = random_generator(config.seed, AUGMENTATION, step, sample)
            if augmentation.noise_angstrom > 0:
                kelvin = float(source.table.temperature[sample])
                positions, forces = noised(graph.positions, forces, kelvin, augmentation, generator)
                graph = source.graph_of_positions(sample, positions)
            if augmentation.random_rotation:
                rotation = random_rotation(generator)
                graph, forces = dataclasses.replace(graph, positions=graph.positions @ rotation.T), forces @ rotation.T
            return Example(graph, forces)

        return BatchBuilder(source, example, self.sharding, budget, self.trainer.dtype)

    def _plan(self, source: GraphSource) -> Budget:
        config = self.trainer.config
        size = config.frames_per_batch
        if source is self.trainer.training:
            first = self.progress.stage_first_step
            batches = [self.trainer.order.batch(first + i, size).tolist() for i in range(min(self.n_steps, PLANNED_STEPS))]
        else:
            batches = _chunks(len(source.table), size)
        return plan_run_budget(source, batches, self.sharding.n_shards, config.data.budget_margin, config.data.edge_layout == "dense")

    def _replanned(self, budget: Budget, overflow: BudgetOverflow) -> Budget:
        """Return a larger budget, or raise the overflow where growing cannot help."""
        self.progress.replans += 1
        if jax.process_count() > 1 or self.progress.replans > MOST_REPLANS:
            raise UserError(f"{overflow}; raise data.budget_margin and resume")
        grown = grown_budget(budget)
        logger.warning("%s; planned anew (%d times so far), which compiles the step again", overflow, self.progress.replans)
        self.progress.budget = dataclasses.asdict(grown)
        return grown


def stage_steps(stage: c.StageConfig, n_frames: int, frames_per_batch: int) -> int:
    """Return the number of steps of a stage; a fractional last batch counts as one."""
    if stage.steps is not None:
        return stage.steps
    return max(int(np.ceil((stage.epochs or 0) * n_frames / frames_per_batch)), 1)


def _chunks(n: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, n))) for start in range(0, n, size)]
