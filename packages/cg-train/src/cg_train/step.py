"""One optimizer step and one evaluation, compiled over a mesh."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from cg_data.contracts import Array, EnergyFn
from cg_models.precision import low_precision
from cg_train.config import AnyStage, LossConfig, StageConfig, TrainConfig
from cg_train.distributed import AXIS
from cg_train.loader import Batch
from cg_train.loss import Sums, batch_sums, loss_value, term_scales
from cg_train.optimizer import evaluation_params
from cg_train.state import TrainState, trained

StepFn = Callable[[TrainState, Batch], tuple[TrainState, Array]]
SumsFn = Callable[[Any, Batch], Sums]
GradientFn = Callable[..., tuple[Sums, Any]]


def sharded_sums(energy: EnergyFn, loss: LossConfig, mesh: Mesh | None) -> SumsFn:
    """Return `(params, part of a batch [n_devices, ...]) -> sums over all devices`; without a mesh, of one device.

    Each device evaluates its own packed graph. Whoever differentiates differentiates the global sums, so that the gradient of
    replicated parameters is summed by JAX and exactly once.
    """
    local = batch_sums(energy, loss)

    def of_device(params: Any, batch: Batch) -> Sums:
        sums = local(params, jax.tree.map(lambda array: array[0], batch))
        return {name: value[None] for name, value in sums.items()}

    if mesh is None:
        return lambda params, batch: local(params, jax.tree.map(lambda array: array[0], batch))
    spread = jax.shard_map(
        of_device, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(AXIS)), out_specs=PartitionSpec(AXIS), check_vma=False
    )
    return lambda params, batch: {name: value.sum() for name, value in spread(params, batch).items()}


def make_gradient(energy: EnergyFn, loss: LossConfig, mesh: Mesh | None) -> GradientFn:
    """Return `(trainable, params, batch [n_parts, n_devices, ...], loss_scale=1) -> (sums, gradient of the loss by trainable)`.

    Each term of the loss of the whole batch is a ratio of sums, whose denominator depends on the data alone: numerators are divided
    by the weight of all parts, differentiated and added up over the parts. `loss_scale` multiplies what is differentiated and divides
    the gradient.
    """
    sums_of = sharded_sums(energy, loss, mesh)

    def scaled_loss(trainable: Any, params: Any, part: Batch, scales: dict[str, Array]) -> tuple[Any, Sums]:
        sums = sums_of({**params, **trainable}, part)
        return sum(scale * sums[f"{term}_loss"] for term, scale in scales.items()), sums

    differentiate = jax.grad(scaled_loss, has_aux=True)

    def gradient(trainable: Any, params: Any, batch: Batch, loss_scale: Array | float = 1.0) -> tuple[Sums, Any]:
        scales = {term: scale * loss_scale for term, scale in term_scales(batch, loss).items()}

        def of_part(part: Batch) -> tuple[Sums, Any]:
            grads, sums = differentiate(trainable, params, part, scales)
            return sums, grads

        sums, grads = sum_over_parts(of_part, batch)
        return sums, jax.tree.map(lambda g: (g / loss_scale).astype(g.dtype), grads)

    return gradient


def make_step(
    energy: EnergyFn, stage: StageConfig, optimizer: optax.GradientTransformationExtraArgs, config: TrainConfig, mesh: Mesh
) -> StepFn:
    """Return the compiled step over a mesh; the state it is given is consumed (its buffers are reused)."""
    return jax.jit(step_function(energy, stage, optimizer, config, mesh), donate_argnums=0)


def step_function(
    energy: EnergyFn,
    stage: StageConfig,
    optimizer: optax.GradientTransformationExtraArgs,
    config: TrainConfig,
    mesh: Mesh | None,
) -> StepFn:
    """Return the step `(state, batch [n_parts, n_devices, ...]) -> (state, stop)`, to be compiled.

    A step whose loss or gradient is not finite is not applied, nor is any after it: the state stays the last good one and
    `failed_step` says where. In float16, where gradients may overflow, such a step is left out and the loss scale halved, unless that
    is 1 already. The second result is above zero where any process was asked to stop, the same in all of them.
    """
    precision, ema_decay = config.mixed_precision, config.ema_decay
    is_scaled = precision.matmul == "float16"
    gradient = make_gradient(low_precision(energy, precision.matmul), config.loss, mesh)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        trainable = trained(state.params, stage.train)
        sums, grads = gradient(trainable, state.params, batch, state.loss_scale if is_scaled else 1.0)
        value, norm = loss_value(sums, config.loss), optax.tree.norm(grads)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, trainable, value=value)
        updates = jax.tree.map(lambda update: update * state.learning_scale.astype(update.dtype), updates)
        moved = optax.apply_updates(trainable, updates)
        params = {**state.params, **moved}
        evaluated = {**params, **evaluation_params(stage, optimizer_state, moved)}
        count = state.step.astype(jnp.float32)
        average = None
        if ema_decay is not None:
            # A young average follows quickly, or it would remember the initial parameters.
            decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
            average = jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state.average, evaluated)
        seen = {**sums, "gradient_norm": norm, "steps": jnp.ones((), jnp.float32)}
        moved_state = dataclasses.replace(
            state,
            params=params,
            optimizer=optimizer_state,
            average=average,
            step=state.step + 1,
            window={name: state.window[name] + seen[name].astype(jnp.float32) for name in state.window},
        )
        good = (state.failed_step < 0) & jnp.isfinite(value) & jnp.isfinite(norm)
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved_state, state)
        if is_scaled:
            skipped = ~good & (state.failed_step < 0) & (state.loss_scale > 1)
            grows = good & (state.good_steps + 1 >= precision.growth_steps)
            changed = jnp.where(skipped, 0.5, jnp.where(grows, 2.0, 1.0)).astype(jnp.float32)
            kept = dataclasses.replace(
                kept,
                step=state.step + (good | skipped),
                loss_scale=state.loss_scale * changed,
                good_steps=jnp.where(changed == 1, state.good_steps + good, 0),
            )
            good = good | skipped
        failed = jnp.where(good | (state.failed_step >= 0), state.failed_step, state.step)
        return dataclasses.replace(kept, failed_step=failed), batch.stop.sum()

    return step


def evaluation_function(energy: EnergyFn, loss: LossConfig, mesh: Mesh | None) -> SumsFn:
    """Return `(params, batch [n_parts, n_devices, ...]) -> sums over the batch`, to be compiled."""
    sums_of = sharded_sums(energy, loss, mesh)

    def evaluate(params: Any, batch: Batch) -> Sums:
        return sum_over_parts(lambda part: sums_of(params, part), batch)

    return evaluate


def evaluated_params(state: TrainState, stage: AnyStage) -> Any:
    """Return the parameters that validation and the bundle take: the average where there is one."""
    if state.average is not None:
        return state.average
    moved = trained(state.params, stage.train)
    return {**state.params, **evaluation_params(stage, state.optimizer, moved)}


def sum_over_parts(of_part: Callable[[Batch], Any], batch: Batch) -> Any:
    """Return the sum of `of_part` over the leading axis of a batch, one part after the other."""
    first = jax.tree.map(lambda array: array[0], batch)
    if batch.forces.shape[0] == 1:
        return of_part(first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_part, first))
    return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, of_part(part)), None), zeros, batch)[0]
