"""The force-matching loss: numerator and denominator, summed apart so that padding and sharding change nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from cg_data.contracts import Array, EnergyFn, Params
from cg_models.forces import energy_and_forces
from cg_train.config import LossConfig
from cg_train.loader import Batch

Sums = dict[str, Array]


def force_sums(energy: EnergyFn, config: LossConfig) -> Callable[[Params, Batch], Sums]:
    """Return `(params, one shard's batch) -> sums`: scalars that add up over shards.

    loss         sum over real beads and components of weight x error^2 (or Huber), (kcal/mol/angstrom)^2
    weight       sum over real beads of 3 x weight: loss / weight is the loss
    squared      sum of unweighted error^2; squared / components is the mean square error
    components   number of real components
    """
    derive = energy_and_forces(energy)

    def sums(params: Params, batch: Batch) -> Sums:
        _, forces = derive(params, batch.graph)
        mask = batch.graph.bead_mask
        error = jnp.where(mask[:, None], forces - batch.forces, 0).astype(jnp.float32)
        weights = batch.weights.astype(jnp.float32)
        return {
            "loss": jnp.sum(weights[:, None] * penalty(error, config)),
            "weight": 3 * jnp.sum(weights),
            "squared": jnp.sum(error * error),
            "components": 3 * jnp.sum(mask, dtype=jnp.float32),
        }

    return sums


def penalty(error: Array, config: LossConfig) -> Array:
    """Return the penalty of each force error: its square, or beyond `huber_delta` d the tangent 2 d |e| - d^2."""
    if config.kind == "mse":
        return error * error
    size, delta = jnp.abs(error), config.huber_delta
    inside = jnp.minimum(size, delta)
    return inside * inside + 2 * delta * (size - inside)


def loss_value(sums: Mapping[str, Any]) -> Any:
    """Return the loss of summed sums; 0 where nothing has weight."""
    return sums["loss"] / jnp.maximum(sums["weight"], 1e-12)
