"""The loss: numerators and denominators of its terms, summed apart so that padding and sharding change nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from cg_data.contracts import Array, EnergyFn, Params
from cg_models.forces import energy_and_forces, energy_forces_and_virial
from cg_models.graph import frame_sum
from cg_train.config import LossConfig
from cg_train.loader import Batch

Sums = dict[str, Array]

TERMS = ("force", "energy", "stress")
SUMS = tuple(f"{term}_{part}" for term in TERMS for part in ("loss", "weight", "squared", "count"))


def batch_sums(energy: EnergyFn, config: LossConfig) -> Callable[[Params, Batch], Sums]:
    """Return `(params, one shard's batch) -> sums`: scalars float32 that add up over shards, for each term.

    <term>_loss      sum of weight x error^2 (for forces, Huber's where configured)
    <term>_weight    sum of weights; loss / weight is the term
    <term>_squared   sum of unweighted error^2 over what has a label; squared / count is the mean square error
    <term>_count     number of labels

    Errors are of force components, kcal/mol/angstrom; of energies per bead, kcal/mol; of stress components,
    kcal/mol/angstrom^3. Energies and stress are computed only where their terms have weight, and are zero else.
    """

    def sums(params: Params, batch: Batch) -> Sums:
        graph = batch.graph
        n_frames = batch.energies.shape[0]
        if config.stress_weight > 0:
            energies, forces, virials = energy_forces_and_virial(energy, n_frames)(params, graph)
        else:
            energies, forces = energy_and_forces(energy)(params, graph)
        error = jnp.where(graph.bead_mask[:, None], forces - batch.forces, 0).astype(jnp.float32)
        found = _term("force", penalty(error, config), error, _spread(batch.weights, 3), _spread(graph.bead_mask, 3))
        if config.energy_weight > 0:
            ones = jnp.ones_like(energies)
            n_beads = jnp.maximum(frame_sum(ones, graph, n_frames), 1)
            labelled = batch.energy_weights > 0
            error = jnp.where(labelled, (frame_sum(energies, graph, n_frames) - batch.energies) / n_beads, 0).astype(jnp.float32)
            found |= _term("energy", error * error, error, batch.energy_weights, labelled)
        if config.stress_weight > 0:
            labelled = _spread(batch.stress_weights > 0, 6)
            error = jnp.where(labelled, virials / batch.volumes[:, None] - batch.stress, 0).astype(jnp.float32)
            found |= _term("stress", error * error, error, _spread(batch.stress_weights, 6), labelled)
        return {name: found.get(name, jnp.zeros((), jnp.float32)) for name in SUMS}

    return sums


def term_scales(batch: Batch, config: LossConfig) -> dict[str, Array]:
    """Return each term's weight over the sum of its weights in the whole batch, [n_parts, n_devices, ...]."""
    weights = {"force": 3 * batch.weights, "energy": batch.energy_weights, "stress": 6 * batch.stress_weights}
    return {
        term: _weight_of(term, config) / jnp.maximum(weights[term].sum(dtype=jnp.float32), 1e-12)
        for term in TERMS
        if _weight_of(term, config) > 0
    }


def penalty(error: Array, config: LossConfig) -> Array:
    """Return the penalty of each force error: its square, or beyond `huber_delta` d the tangent 2 d |e| - d^2."""
    if config.kind == "mse":
        return error * error
    size, delta = jnp.abs(error), config.huber_delta
    inside = jnp.minimum(size, delta)
    return inside * inside + 2 * delta * (size - inside)


def loss_parts(sums: Mapping[str, Any], config: LossConfig) -> dict[str, Any]:
    """Return the terms of the loss, each times its weight, by name; a term without labels is 0."""
    return {
        term: _weight_of(term, config) * sums[f"{term}_loss"] / jnp.maximum(sums[f"{term}_weight"], 1e-12)
        for term in TERMS
        if _weight_of(term, config) > 0
    }


def loss_value(sums: Mapping[str, Any], config: LossConfig) -> Any:
    """Return the loss of summed sums; 0 where nothing has weight."""
    return sum(loss_parts(sums, config).values())


def mean_squares(sums: Mapping[str, Any], config: LossConfig) -> dict[str, float]:
    """Return the mean square error of forces, and of energies and stress where they are learned, under the names of metrics."""
    names = {"force": "mse", "energy": "energy_mse", "stress": "stress_mse"}
    wanted = [term for term in TERMS if term == "force" or _weight_of(term, config) > 0]
    return {names[term]: float(sums[f"{term}_squared"]) / max(float(sums[f"{term}_count"]), 1.0) for term in wanted}


def validation_errors(sums: Mapping[str, Any], config: LossConfig) -> tuple[dict[str, float], float]:
    """Return a validation's errors under the names of metrics, and what the best has least of.

    That is the mean square force error, or the loss where energies or stress are learned.
    """
    errors = {f"validation_{name}": value for name, value in mean_squares(sums, config).items()}
    if config.energy_weight + config.stress_weight > 0:
        errors["validation_loss"] = float(loss_value(sums, config))
    return errors, errors.get("validation_loss", errors["validation_mse"])


def _weight_of(term: str, config: LossConfig) -> float:
    return {"force": config.forces_weight, "energy": config.energy_weight, "stress": config.stress_weight}[term]


def _spread(per_row: Array, n: int) -> Array:
    return jnp.broadcast_to(per_row[:, None], (*per_row.shape, n))


def _term(name: str, penalties: Array, error: Array, weights: Array, labelled: Array) -> Sums:
    weights = weights.astype(jnp.float32)
    return {
        f"{name}_loss": jnp.sum(weights * penalties),
        f"{name}_weight": jnp.sum(weights),
        f"{name}_squared": jnp.sum(error * error),
        f"{name}_count": jnp.sum(labelled, dtype=jnp.float32),
    }
