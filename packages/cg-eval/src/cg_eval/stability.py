"""When a replica has left the physical range, why, and how many are left over time."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pydantic
from scipy import stats

from cg_data.configuration import Configuration
from cg_data.contracts import Array
from cg_eval.replicas import Replicas, squared_distances

REASONS = ("not finite", "bond out of range", "angle out of range", "radius of gyration too large", "beads overlap")
"""What bit 0, 1, ... of a failure code means."""


class PhysicalRange(Configuration):
    """What a chain of CA beads must satisfy at every step. Wide: leaving it means that the model has failed."""

    smallest_bond_angstrom: float = pydantic.Field(default=2.3, gt=0)
    """cis-proline has 2.9."""
    largest_bond_angstrom: float = pydantic.Field(default=5.2, gt=0)
    smallest_angle_degrees: float = pydantic.Field(default=50.0, ge=0, lt=180)
    """Angles of real chains lie between 75 and 160."""
    largest_relative_rg: float = pydantic.Field(default=4.0, gt=1)
    """Radius of gyration over the largest one among the starting frames, and never below that of a straight chain."""
    smallest_distance_angstrom: float = pydantic.Field(default=2.0, ge=0)
    """Between beads that are not neighbours along a segment."""


def range_check(replicas: Replicas, limits: PhysicalRange, starts: Array) -> Callable[[Array], Array]:
    """Return positions [n_replicas, n_beads, 3] -> [n_replicas] int32 failure codes: 0 inside the range, else bits of `REASONS`.

    starts [n_replicas, n_beads, 3] A are the starting frames, which set the largest radius of gyration.
    """
    bonds, angles = replicas.bonds, replicas.angles
    bonded = np.eye(replicas.n_beads, dtype=bool)
    bonded[bonds[:, 0], bonds[:, 1]] = bonded[bonds[:, 1], bonds[:, 0]] = True
    centred = np.asarray(starts) - np.mean(starts, axis=1, keepdims=True)
    start_rg = np.sqrt((centred**2).sum(-1).mean(-1)).max()
    straight_rg = 3.8 * np.sqrt((replicas.n_beads**2 - 1) / 12)
    largest_rg_squared = float(max(limits.largest_relative_rg * start_rg, straight_rg)) ** 2
    cosine_limit = float(np.cos(np.radians(limits.smallest_angle_degrees)))

    def check(positions: Array) -> Array:
        finite = jnp.isfinite(positions).all(axis=(1, 2))
        bond = jnp.sum((positions[:, bonds[:, 1]] - positions[:, bonds[:, 0]]) ** 2, axis=-1)
        bad_bond = ((bond < limits.smallest_bond_angstrom**2) | (bond > limits.largest_bond_angstrom**2)).any(axis=1)
        first = positions[:, angles[:, 0]] - positions[:, angles[:, 1]]
        second = positions[:, angles[:, 2]] - positions[:, angles[:, 1]]
        norms = jnp.sqrt(jnp.sum(first**2, axis=-1) * jnp.sum(second**2, axis=-1))
        bad_angle = (jnp.sum(first * second, axis=-1) > cosine_limit * norms).any(axis=1)
        offset = positions - positions.mean(axis=1, keepdims=True)
        bad_size = jnp.mean(jnp.sum(offset**2, axis=-1), axis=1) > largest_rg_squared
        bad_overlap = ((squared_distances(positions) < limits.smallest_distance_angstrom**2) & ~bonded).any(axis=(1, 2))
        return sum(
            (bad.astype(jnp.int32) << bit for bit, bad in enumerate((~finite, bad_bond, bad_angle, bad_size, bad_overlap))),
            start=jnp.zeros(positions.shape[0], jnp.int32),
        )

    return check


def explain(code: int) -> str:
    """Return the reasons of a failure code in words; empty for 0."""
    return ", ".join(reason for bit, reason in enumerate(REASONS) if code >> bit & 1)


def survival_curve(stopped_at: Array, times: Array) -> np.ndarray:
    """Return [n_times]: the fraction of replicas still inside the physical range after each time.

    stopped_at [n_replicas] time at which a replica stopped, NaN for one that never did; times [n_times], the same unit.
    """
    stopped = np.asarray(stopped_at, np.float64)
    stopped = np.where(np.isnan(stopped), np.inf, stopped)
    return (stopped[None] > np.asarray(times, np.float64)[:, None]).mean(axis=1)


def survival_interval(fraction: Array, n_replicas: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return (low, high), each like `fraction`: the interval of a fraction of so many independent replicas.

    Exact for counts (Clopper and Pearson, doi:10.1093/biomet/26.4.404): where all of a few replicas survive, a resample of them has no
    spread, and yet little is known.
    """
    alive, tail = np.round(np.asarray(fraction) * n_replicas), 0.5 * (1 - level)
    low = np.where(alive > 0, stats.beta.ppf(tail, np.maximum(alive, 1), n_replicas - alive + 1), 0.0)
    high = np.where(alive < n_replicas, stats.beta.ppf(1 - tail, alive + 1, np.maximum(n_replicas - alive, 1)), 1.0)
    return low, high
