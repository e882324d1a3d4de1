"""Optimizers and schedules, from configuration to optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cg_data.contracts import Array
from cg_train import config as c

Schedule = Callable[[Array], Array]

NEVER_DECAYED = ("b", "bias", "scale", "offset", "embed")


def make_schedule(stage: c.StageConfig, n_steps: int) -> Schedule:
    """Return step of the stage (from 0) -> learning rate; a plateau's reductions are applied besides.

    Warm-up rises linearly and never starts from zero: step i of n_warmup has (i + 1) / n_warmup of the learning rate.
    """
    schedule = stage.schedule
    n_warmup = round(schedule.warmup_fraction * n_steps)
    final = schedule.final_fraction if isinstance(schedule, c.WarmupCosine) else 1.0

    def learning_rate(step: Array) -> Array:
        step = jnp.asarray(step, jnp.float32)
        rise = jnp.minimum((step + 1) / max(n_warmup, 1), 1.0)
        share = jnp.clip((step - n_warmup) / max(n_steps - n_warmup, 1), 0.0, 1.0)
        fall = final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(np.float32(np.pi) * share))
        return stage.learning_rate * rise * fall

    return learning_rate


def make_optimizer(stage: c.StageConfig, schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Return the stage's optimizer: clipping, the optimizer itself, decoupled weight decay, the learning rate."""
    clip = optax.identity() if stage.gradient_clip_norm is None else optax.clip_by_global_norm(stage.gradient_clip_norm)
    if isinstance(stage.optimizer, c.PolyakSgd):
        # Its step, loss / |gradient|, is bounded by itself, and would grow by what is clipped.
        clip = optax.identity()
    return optax.with_extra_args_support(optax.chain(clip, _core(stage.optimizer, schedule)))


def evaluation_params(stage: c.AnyStage, optimizer_state: Any, trainable: Any) -> Any:
    """Return the parameters to evaluate with, given those that gradients are taken at."""
    if isinstance(stage, c.StageConfig) and isinstance(stage.optimizer, c.ScheduleFreeAdam):
        return optax.contrib.schedule_free_eval_params(optimizer_state[1], trainable)
    return trainable


def decay_mask(params: Any) -> Any:
    """Return which parameters may decay: matrices of the backbone; no scale, offset, embedding or prior."""

    def decays(path: Any, value: Array) -> bool:
        names = [str(getattr(key, "key", key)) for key in path]
        return jnp.ndim(value) >= 2 and names[0] != "prior" and names[-1] not in NEVER_DECAYED

    return jax.tree_util.tree_map_with_path(decays, params)


def _core(optimizer: c.OptimizerBase, schedule: Schedule) -> optax.GradientTransformation:
    match optimizer:
        case c.Muon(beta=beta, adam_b1=b1, adam_b2=b2, weight_decay=decay):
            return optax.contrib.muon(schedule, beta=beta, adam_b1=b1, adam_b2=b2, weight_decay=decay, weight_decay_mask=decay_mask)
        case c.ScheduleFreeAdam(b1=b1, b2=b2, eps=eps, weight_decay=decay):
            base = optax.chain(optax.scale_by_adam(b1=0.0, b2=b2, eps=eps), _decay(decay), optax.scale_by_learning_rate(schedule))
            return optax.contrib.schedule_free(base, schedule, b1=b1)
        case c.Fromage(min_norm=min_norm, weight_decay=decay):
            step = optax.inject_hyperparams(optax.fromage, static_args="min_norm")(learning_rate=schedule, min_norm=min_norm)
            return optax.chain(step, optax.chain(optax.identity())) if not decay else optax.chain(_decay(decay), step)
        case _:
            return optax.chain(_direction(optimizer), _decay(optimizer.weight_decay), optax.scale_by_learning_rate(schedule))


def _direction(optimizer: c.OptimizerBase) -> optax.GradientTransformation:
    match optimizer:
        case c.Adam(b1=b1, b2=b2, eps=eps):
            return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
        case c.AmsGrad(b1=b1, b2=b2, eps=eps):
            return optax.scale_by_amsgrad(b1=b1, b2=b2, eps=eps)
        case c.AdaBelief(b1=b1, b2=b2, eps=eps):
            return optax.scale_by_belief(b1=b1, b2=b2, eps=eps)
        case c.Yogi(b1=b1, b2=b2, eps=eps):
            return optax.scale_by_yogi(b1=b1, b2=b2, eps=eps)
        case c.Lion(b1=b1, b2=b2):
            return optax.scale_by_lion(b1=b1, b2=b2)
        case c.Sgd(momentum=momentum, nesterov=nesterov):
            return optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity()
        case c.PolyakSgd(max_learning_rate=most, f_min=f_min):
            return optax.scale_by_polyak(f_min=f_min, max_learning_rate=most)
    raise TypeError(f"no optimizer for {type(optimizer).__name__}")


def _decay(weight_decay: float) -> optax.GradientTransformation:
    return optax.add_decayed_weights(weight_decay, mask=decay_mask) if weight_decay else optax.identity()
