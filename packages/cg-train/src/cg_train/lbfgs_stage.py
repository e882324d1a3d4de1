"""A stage of full-batch L-BFGS on forces: pre-training of a prior, whose parameters are few and of unlike scales."""

import dataclasses
import logging
from typing import Any

import jax
import numpy as np
import optax

from cg_data.contracts import Array
from cg_data.errors import UserError
from cg_train.config import LbfgsStage
from cg_train.distributed import any_process, put_batch, put_replicated, sharding_of, to_host
from cg_train.gradient_stage import chunked
from cg_train.loader import Batch, BatchBuilder, Example, plan_run_budgets
from cg_train.loss import SUMS, loss_value, validation_errors
from cg_train.state import Progress, TrainState, trained
from cg_train.step import evaluation_function, sharded_sums, sum_over_parts
from cg_train.targets import Targets
from cg_train.trainer import Trainer

logger = logging.getLogger(__name__)


def run_lbfgs(trainer: Trainer, stage: LbfgsStage, state: TrainState, progress: Progress) -> TrainState:
    """Minimise the loss on a fixed set of frames; return the state. Each iteration is a step of the run.

    Every process computes the same. A stop leaves the run at the start of the stage, which is begun again on resume.
    What it ends with is validated, and is the best where it is. Raises `UserError` where loss or gradient are not finite.
    """
    source = trainer.training
    samples = np.unique(np.linspace(0, len(source.table) - 1, min(stage.n_frames, len(source.table))).round().astype(np.int64)).tolist()
    batch = put_batch(_whole_batch(trainer, samples, state), trainer.mesh)
    sums_of = sharded_sums(trainer.model.energy, trainer.config.loss, trainer.mesh)
    solver = optax.lbfgs(memory_size=stage.memory)
    fixed = state.params

    def loss(trainable: Any, batch: Batch) -> Array:
        return loss_value(sum_over_parts(lambda part: sums_of({**fixed, **trainable}, part), batch), trainer.config.loss)

    @jax.jit
    def iterate(trainable: Any, solver_state: Any, batch: Batch) -> tuple[Any, Any, Array, Array]:
        def of_batch(values: Any) -> Array:
            return loss(values, batch)

        value, gradient = optax.value_and_grad_from_state(of_batch)(trainable, state=solver_state)
        updates, solver_state = solver.update(gradient, solver_state, trainable, value=value, grad=gradient, value_fn=of_batch)
        return optax.apply_updates(trainable, updates), solver_state, value, optax.tree.norm(gradient)

    trainable = trained(state.params, stage.train)
    solver_state = put_replicated(solver.init(to_host(trainable)), trainer.mesh)
    n_done, value, norm = 0, np.inf, np.inf
    record: dict[str, Any] = {}
    while n_done < stage.max_steps and (n_done < stage.min_steps or norm > stage.gradient_norm):
        if any_process(bool(trainer.stop)):
            trainer.stop_now(state, progress)
        trainable, solver_state, loss_now, norm_now = iterate(trainable, solver_state, batch)
        value, norm = float(loss_now), float(norm_now)
        if not np.isfinite([value, norm]).all():
            frames = trainer.training.table.describe(samples)
            raise UserError(f"L-BFGS, iteration {n_done + 1}: the loss or its gradient is not finite; its frames: {frames}: look at these")
        _write(trainer, record)
        n_done += 1
        record = {"step": progress.step + n_done, "stage": progress.stage + 1, "loss": value, "gradient_norm": norm}
    logger.info("L-BFGS: loss %.5g, gradient norm %.3g after %d steps", value, norm, n_done)
    progress.step += n_done
    params = put_replicated(to_host({**state.params, **trainable}), trainer.mesh)
    # An average of what was before this stage would only hold the next one back.
    average = None if state.average is None else put_replicated(to_host(params), trainer.mesh)
    step = put_replicated(np.int32(progress.step), trainer.mesh)
    errors, criterion = _validated(trainer, params)
    _write(trainer, record | errors)
    is_best = progress.note_validation(criterion) or progress.best_mse is None
    best = put_replicated(to_host(params), trainer.mesh) if is_best else state.best
    return dataclasses.replace(state, params=params, average=average, best=best, step=step)


def _validated(trainer: Trainer, params: Any) -> tuple[dict[str, float], float]:
    """Return the errors of parameters on the validation frames, and what the best has least of; NaN without such frames."""
    config, source = trainer.config, trainer.validation
    if source is None:
        return {}, float("nan")
    sharding, margin = sharding_of(trainer.mesh, config.gradient_accumulation), config.data.budget_margin
    chunks, targets = chunked(len(source.table), config.frames_per_batch), Targets(source, None)

    def example(sample: int, step: int) -> Example:
        return targets.example(sample, config.loss)

    builder = BatchBuilder(source, example, sharding, plan_run_budgets(source, chunks, sharding.n_shards, margin), margin, trainer.dtype)
    evaluate = jax.jit(evaluation_function(trainer.model.energy, config.loss, trainer.mesh))
    found = [to_host(evaluate(params, put_batch(builder.build(chunk, 0), trainer.mesh))) for chunk in chunks]
    return validation_errors({name: sum(float(part[name]) for part in found) for name in SUMS}, config.loss)


def _write(trainer: Trainer, record: dict[str, Any]) -> None:
    if trainer.journal is not None and record:
        trainer.journal.write(record)


def _whole_batch(trainer: Trainer, samples: list[int], state: TrainState) -> Batch:
    """Return one batch of training frames, in parts the size of a step's batch."""
    source = trainer.training
    sharding = sharding_of(trainer.mesh, -(-len(samples) // trainer.config.frames_per_batch))
    margin = trainer.config.data.budget_margin
    budgets = plan_run_budgets(source, [samples], sharding.n_shards, margin)
    targets = trainer.targets(source, state, subtracted=False)

    def example(sample: int, step: int) -> Example:
        return targets.example(sample, trainer.config.loss)

    return BatchBuilder(source, example, sharding, budgets, margin, trainer.dtype).build(samples, 0)
