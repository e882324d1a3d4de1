"""A stage of optimization by mini-batches: its data, its loop, and what happens between steps."""

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cg_data.contracts import Array
from cg_data.errors import UserError
from cg_models.graph import Budget, BudgetOverflow
from cg_train import config as c
from cg_train.augment import noised, random_rotation, rotated
from cg_train.distributed import put_batch, put_replicated, sharding_of, to_host
from cg_train.frames import GraphSource
from cg_train.loader import PLANNED_STEPS, Batch, BatchBuilder, Example, Sharding, grown_budget, plan_run_budgets, training_batches
from cg_train.log import Display, display
from cg_train.loss import SUMS, loss_parts, loss_value, mean_squares, validation_errors
from cg_train.optimizer import make_optimizer, make_schedule
from cg_train.order import random_generator
from cg_train.state import Progress, TrainState, trained
from cg_train.step import StepFn, SumsFn, evaluated_params, evaluation_function, make_step
from cg_train.targets import label_bytes
from cg_train.trainer import Trainer

logger = logging.getLogger(__name__)

MOST_REPLANS = 20
AUGMENTATION = 1
"""Keeps the draws of augmentation apart from those of the order."""
STOP_LAG = 2
"""Steps after which a step's result is waited for, and with it whether any process was asked to stop: late enough to keep the devices
busy, and so few that a signal is answered within seconds where steps are slow."""


class GradientStage:
    """One stage. `progress` is shared with the run and updated in place."""

    def __init__(self, trainer: Trainer, stage: c.StageConfig, progress: Progress):
        config = trainer.config
        self.trainer, self.stage, self.progress = trainer, stage, progress
        self.n_steps = stage_steps(stage, len(trainer.training.table), config.frames_per_batch)
        self.last_step = progress.stage_first_step + self.n_steps
        frozen = stage.train == "backbone" and config.model.mode == "hybrid"
        # Where positions get noise, the prior's forces are not those of the stored frames: it goes through the step.
        # So it does where stress is learned, of which the prior's share is not computed ahead.
        # And in an ensemble whose members trained theirs apart.
        apart = trainer.n_members is not None and any(isinstance(s, c.StageConfig) and s.train != "backbone" for s in config.stages)
        # And where its forces on all frames are more than a process may keep.
        n_bytes = label_bytes(trainer.training.table, trainer.dtype)
        fits = n_bytes <= config.data.prior_cache_gigabytes * 1e9
        self.subtracted_prior = frozen and not apart and config.augmentation.noise_angstrom == 0 and config.loss.stress_weight == 0 and fits
        if frozen and not fits:
            logger.info(
                "the frozen prior goes through the step: its forces on all frames take %.3g GB, data.prior_cache_gigabytes is %g",
                n_bytes / 1e9,
                config.data.prior_cache_gigabytes,
            )
        self.schedule = make_schedule(stage, self.n_steps)
        self.optimizer = make_optimizer(stage, self.schedule)
        self.energy = trainer.model.energy_of("backbone" if self.subtracted_prior else "full")
        self.sharding: Sharding
        self.step_fn: StepFn
        self.evaluate: SumsFn
        self.compile()
        self.validation_batches: list[Batch] = []
        self.window_start, self.window_first_step = 0.0, progress.step

    def compile(self) -> None:
        """Make what runs on the devices."""
        trainer = self.trainer
        self.sharding = sharding_of(trainer.mesh, trainer.config.gradient_accumulation)
        self.step_fn = make_step(self.energy, self.stage, self.optimizer, trainer.config, trainer.mesh)
        self.evaluate = jax.jit(evaluation_function(self.energy, trainer.config.loss, trainer.mesh))

    def begin(self, state: TrainState) -> TrainState:
        """Return the state on the devices, with that of the stage's optimizer."""
        if state.optimizer == ():
            optimizer_state = self.optimizer.init(to_host(trained(state.params, self.stage.train)))
            state = dataclasses.replace(state, optimizer=self.place(optimizer_state))
        return state

    def place(self, tree: Any) -> Any:
        """Return a part of the state on the devices."""
        return put_replicated(tree, self.trainer.mesh)

    def put(self, batch: Batch) -> Batch:
        """Return a batch on the devices."""
        on_devices: Batch = put_batch(batch, self.trainer.mesh)
        return on_devices

    def run(self, state: TrainState) -> TrainState:
        """Train to the end of the stage and return the state."""
        progress, trainer = self.progress, self.trainer
        state = self.begin(state)
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
                    builder.budgets = self._replanned(builder.budgets, overflow)
                    self.progress.budgets = [dataclasses.asdict(budget) for budget in builder.budgets]
        return state

    def _train(self, state: TrainState, batches: Iterator[Batch], shown: Display) -> tuple[TrainState, BudgetOverflow | None]:
        """Train until the stage ends, or until a batch does not fit, which is returned."""
        self._start_clock()
        asked: deque[Array] = deque()
        while self.progress.step < self.last_step:
            another = len(asked) > STOP_LAG and bool(np.max(to_host(asked.popleft())) > 0)
            if another or (jax.process_count() == 1 and self.trainer.stop):
                # A state after numbers that are not finite is not one to go on from.
                self.check_finite(state)
                self.trainer.stop_now(state, self.progress)
            try:
                batch = next(batches)
            except BudgetOverflow as overflow:
                return state, overflow
            if self.trainer.stop:
                batch = dataclasses.replace(batch, stop=np.ones_like(batch.stop))
            state, stop = self.step_fn(state, self.put(batch))
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
        self.check_finite(state)
        record: dict[str, Any] = {}
        if log:
            record, state = self._window_record(state)
        if validate:
            errors, state, is_best = self.validate(state)
            record |= errors
            save = save or is_best
        if log:
            if self.trainer.journal is not None:
                self.trainer.journal.write(record)
            shown.show(record, step - self.progress.stage_first_step)
            self._start_clock()
        # The end of a stage is saved by `run_stages`, which also moves the stage on.
        if save and step < self.last_step:
            self.trainer.save(state, self.progress)
        return state

    def _start_clock(self) -> None:
        self.window_start, self.window_first_step = time.monotonic(), self.progress.step

    def _window_record(self, state: TrainState) -> tuple[dict[str, Any], TrainState]:
        """Return the line of metrics for the steps since the last one, and the state with an empty window."""
        # Of an ensemble, the sums of all members: means over members are logged.
        window = {name: float(value.sum()) for name, value in to_host(state.window).items()}
        seconds = time.monotonic() - self.window_start
        progress, config = self.progress, self.trainer.config
        n_steps = max(window["steps"], 1.0)
        n_timed = progress.step - self.window_first_step
        stage_step = progress.step - progress.stage_first_step
        rate = float(self.schedule(stage_step - 1 + progress.schedule_offset)) * float(to_host(state.learning_scale).mean())
        loss = config.loss
        record = {
            "step": progress.step,
            "stage": progress.stage + 1,
            "epoch": progress.step * config.frames_per_batch / self.trainer.order.n_frames,
            "loss": float(loss_value(window, loss)),
            **{f"train_{name}": value for name, value in mean_squares(window, loss).items()},
            "gradient_norm": window["gradient_norm"] / n_steps,
            "learning_rate": rate,
            # Of the steps since the clock was started: the window has those before a resume as well.
            "frames_per_second": n_timed * config.frames_per_batch * (self.trainer.n_members or 1) / max(seconds, 1e-9),
            "devices": self.trainer.mesh.devices.size,
        }
        parts = loss_parts(window, loss)
        if len(parts) > 1:
            record |= {f"loss_{term}": float(value) for term, value in parts.items()}
        if config.mixed_precision.matmul == "float16":
            record["loss_scale"] = float(to_host(state.loss_scale).mean())
        return record, dataclasses.replace(state, window=self.place(jax.tree.map(np.zeros_like, to_host(state.window))))

    def validate(self, state: TrainState) -> tuple[dict[str, float], TrainState, bool]:
        """Return the validation's errors, the state (with a new best where it is one), and whether it is one."""
        params = evaluated_params(state, self.stage)
        found = [to_host(self.evaluate(params, self.put(batch))) for batch in self.validation_batches]
        sums = {name: sum(float(part[name]) for part in found) for name in SUMS}
        errors, mse = validation_errors(sums, self.trainer.config.loss)
        is_best = self.progress.note_validation(mse)
        if is_best:
            # A copy: the average's own buffers are consumed by the next step.
            state = dataclasses.replace(state, best=self.place(to_host(params)))
        if self.progress.plateau_reached(mse, self.stage.schedule):
            state = dataclasses.replace(state, learning_scale=self.place(self.reduced(to_host(state.learning_scale))))
        self.stop_early(self.progress.validations_without_best)
        return errors, state, is_best

    def reduced(self, scale: np.ndarray) -> np.ndarray:
        """Return the learning rate's scale after a plateau."""
        schedule = self.stage.schedule
        return (
            np.maximum(scale * schedule.factor, schedule.minimum_fraction).astype(np.float32) if isinstance(schedule, c.Plateau) else scale
        )

    def stop_early(self, validations_without_best: int) -> None:
        """End the stage here where enough validations brought nothing."""
        patience = self.trainer.config.validation.early_stopping_patience
        if patience is not None and validations_without_best >= patience and self.progress.step < self.last_step:
            logger.info("no better validation in %d: the stage ends at step %d", patience, self.progress.step)
            self.last_step = self.progress.step

    def check_finite(self, state: TrainState) -> None:
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
        if self.progress.budgets is not None and self.progress.budget_shards == self.sharding.n_shards:
            budgets = tuple(Budget(**budget) for budget in self.progress.budgets)  # type: ignore[arg-type]
        else:
            budgets = self._plan(trainer.training)
        shown = ", ".join(f"{budget.n_beads} beads and {budget.n_edges} edges" for budget in budgets)
        logger.info("room on a device in the shapes of batches: %s", shown)
        self.progress.budget_shards = self.sharding.n_shards
        self.progress.budgets = [dataclasses.asdict(budget) for budget in budgets]
        return self._builder(trainer.training, state, budgets)

    def _make_validation_batches(self, state: TrainState) -> list[Batch]:
        source = self.trainer.validation
        if source is None:
            return []
        chunks = chunked(len(source.table), self.trainer.config.frames_per_batch)
        builder = self._builder(source, state, self._plan(source))
        batches = []
        for chunk in chunks:
            while True:
                try:
                    batches.append(builder.build(chunk, 0))
                    break
                except BudgetOverflow as overflow:
                    builder.budgets = self._replanned(builder.budgets, overflow)
                    batches = [builder.build(earlier, 0) for earlier in chunks[: len(batches)]]
        return batches

    def _builder(self, source: GraphSource, state: TrainState, budgets: Sequence[Budget]) -> BatchBuilder:
        targets = self.trainer.targets(source, state, self.subtracted_prior)
        config = self.trainer.config
        augmentation = config.augmentation
        changed = source is self.trainer.training and (augmentation.random_rotation or augmentation.noise_angstrom > 0)

        def example(sample: int, step: int) -> Example:
            plain = targets.example(sample, config.loss)
            if not changed:
                return plain
            graph, forces, stress = plain.graph, plain.forces, plain.stress
            generator = random_generator(config.seed, AUGMENTATION, step, sample)
            if augmentation.noise_angstrom > 0:
                kelvin = float(source.table.temperature[sample])
                positions, forces = noised(graph.positions, forces, kelvin, augmentation, generator)
                graph = source.graph_of_positions(sample, positions)
            if augmentation.random_rotation:
                graph, forces, stress = rotated(graph, forces, stress, random_rotation(generator))
            return dataclasses.replace(plain, graph=graph, forces=forces, stress=stress)

        return BatchBuilder(source, example, self.sharding, budgets, config.data.budget_margin, self.trainer.dtype)

    def _plan(self, source: GraphSource) -> tuple[Budget, ...]:
        config = self.trainer.config
        size, n_shards, data = config.frames_per_batch, self.sharding.n_shards, config.data
        if source is self.trainer.training:
            first = self.progress.stage_first_step
            batches = [self.trainer.order.batch(first + i, size).tolist() for i in range(min(self.n_steps, PLANNED_STEPS))]
            return plan_run_budgets(source, batches, n_shards, data.budget_margin, data.most_shapes)
        return plan_run_budgets(source, chunked(len(source.table), size), n_shards, data.budget_margin)

    def _replanned(self, budgets: Sequence[Budget], overflow: BudgetOverflow) -> tuple[Budget, ...]:
        """Return larger budgets, or raise the overflow where growing cannot help."""
        self.progress.replans += 1
        if jax.process_count() > 1 or self.progress.replans > MOST_REPLANS:
            raise UserError(f"{overflow}; raise data.budget_margin and resume")
        logger.warning("%s; planned anew (%d times so far), which compiles the step again", overflow, self.progress.replans)
        return tuple(grown_budget(budget) for budget in budgets)


def stage_steps(stage: c.StageConfig, n_frames: int, frames_per_batch: int) -> int:
    """Return the number of steps of a stage; a fractional last batch counts as one."""
    if stage.steps is not None:
        return stage.steps
    return max(int(np.ceil((stage.epochs or 0) * n_frames / frames_per_batch)), 1)


def chunked(n: int, size: int) -> list[list[int]]:
    """Return the numbers below n in order, in lists of `size`."""
    return [list(range(start, min(start + size, n))) for start in range(0, n, size)]
