"""Where a chain moves and what it touches: fluctuations bead by bead, contact maps; model beside reference."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cg_data.contracts import BeadFrames
from cg_eval.bootstrap import bootstrap_weights
from cg_eval.chain_observables import positions_of
from cg_eval.observables import contact_map, rmsf

CONTACT_ANGSTROM = 8.0
SMALLEST_SEPARATION = 3


@dataclass(frozen=True)
class Flexibility:
    """Root mean squared fluctuations [n_beads] A, each trajectory about its own mean structure, mean squares over trajectories.

    low, high: 95 % bootstrap interval of the model's, over replicas (NaN with one); stored: that which the data set's source
    states, where it does; noise: root mean squared difference of two halves of the reference.
    """

    model: np.ndarray
    low: np.ndarray
    high: np.ndarray
    reference: np.ndarray
    stored: np.ndarray | None
    deviation: float
    noise: float
    pearson: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Contacts:
    """Fractions of frames in contact (CA within 8 A) [n_beads, n_beads]; deviation: mean absolute difference over pairs three or
    more apart along the chain; noise: that of two halves of the reference; low, high: interval of the deviation over replicas.
    """

    model: np.ndarray
    reference: np.ndarray
    deviation: float
    low: float
    high: float
    noise: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


def compare_flexibility(
    model: BeadFrames, reference: BeadFrames, halves: np.ndarray, stored: np.ndarray | None, n_resamples: int, seed: int
) -> Flexibility:
    """Return the fluctuations of model and reference; those of a single frame count as none; NaN where there are no others."""
    squares = _trajectory_squares(model)
    means = np.sqrt(squares.mean(axis=0))
    expected = np.sqrt(_trajectory_squares(reference).mean(axis=0))
    low = high = np.full(len(means), np.nan)
    if len(squares) > 1:
        weights = bootstrap_weights(np.arange(len(squares)), n_resamples, seed) / len(squares)
        low, high = np.percentile(np.sqrt(weights @ squares), [2.5, 97.5], axis=0)
    parts = [np.sqrt(_trajectory_squares(reference.select(half)).mean(axis=0)) for half in (halves, ~halves)]
    varies = means.std() > 0 and expected.std() > 0
    return Flexibility(
        model=means,
        low=low,
        high=high,
        reference=expected,
        stored=stored,
        deviation=_rms(means - expected),
        noise=_rms(parts[0] - parts[1]),
        pearson=float(np.corrcoef(means, expected)[0, 1]) if varies else float("nan"),
    )


def compare_contacts(model: BeadFrames, reference: BeadFrames, halves: np.ndarray, n_resamples: int, seed: int) -> Contacts:
    """Return the contact maps of model and reference."""
    maps = [contact_map(positions_of(model.select(model.trajectory == name)), CONTACT_ANGSTROM) for name in np.unique(model.trajectory)]
    counts = np.array([(model.trajectory == name).sum() for name in np.unique(model.trajectory)], float)
    expected = contact_map(positions_of(reference), CONTACT_ANGSTROM)
    n_beads = len(expected)
    far = np.abs(np.subtract.outer(np.arange(n_beads), np.arange(n_beads))) >= SMALLEST_SEPARATION
    far = far if far.any() else ~np.eye(n_beads, dtype=bool)
    weighted = np.stack(maps) * counts[:, None, None]
    total = weighted.sum(axis=0) / counts.sum()
    low = high = float("nan")
    if len(maps) > 1:
        weights = bootstrap_weights(np.arange(len(maps)), n_resamples, seed)
        drawn = np.tensordot(weights, weighted[:, far], axes=1) / (weights @ counts)[:, None]
        low, high = (float(value) for value in np.percentile(np.abs(drawn - expected[far]).mean(axis=1), [2.5, 97.5]))
    parts = [contact_map(positions_of(reference.select(half)), CONTACT_ANGSTROM) for half in (halves, ~halves)]
    return Contacts(
        model=total,
        reference=expected,
        deviation=float(np.abs(total - expected)[far].mean()),
        low=low,
        high=high,
        noise=float(np.abs(parts[0] - parts[1])[far].mean()),
    )


def _trajectory_squares(frames: BeadFrames) -> np.ndarray:
    """Return [n_trajectories, n_beads] A^2: squared fluctuations of each trajectory of two or more frames; NaN where there is none."""
    found = [
        rmsf(positions_of(frames.select(frames.trajectory == name))) ** 2
        for name in np.unique(frames.trajectory)
        if (frames.trajectory == name).sum() > 1
    ]
    return np.stack(found) if found else np.full((1, frames.n_beads), np.nan)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))
