"""Slow collective variables in closed form: time-lagged independent component analysis.

Fitted on a reference, so that a model's frames can be projected into the reference's slow space.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cg_data.contracts import Array, BeadFrames
from cg_data.errors import require
from cg_data.topology import bonded_tuples
from cg_eval.observables import far_pairs, pair_distances
from cg_priors.geometry import dihedral_angle

SMALLEST_EIGENVALUE = 1e-6
"""Directions whose variance is below this share of the largest are dropped: linear dependencies among features."""


@dataclass(frozen=True)
class Tica:
    """mean [n_features]; components [n_features, n_components], unit variance; timescales [n_components] in lag's unit of time."""

    mean: np.ndarray
    components: np.ndarray
    timescales: np.ndarray

    def project(self, features: Array) -> np.ndarray:
        """Return [n_frames, n_components] coordinates of features [n_frames, n_features]."""
        return (np.asarray(features, np.float64) - self.mean) @ self.components


def tica(trajectories: Sequence[Array], lag: int, n_components: int = 2, most_dimensions: int | None = None) -> Tica:
    """Return the slowest coordinates of feature trajectories, each [n_frames, n_features]; `lag` in frames.

    Solves C(lag) v = lambda C(0) v with both matrices made symmetric over time reversal (Perez-Hernandez et al.,
    doi:10.1063/1.4811489); the timescale is -lag / ln |lambda|. Trajectories not longer than the lag are left out. At most
    `most_dimensions` principal components enter, so that few frames do not make slow coordinates out of noise.
    """
    require(lag >= 1, f"TICA: lag must be at least one frame, received {lag}")
    pairs = [(np.asarray(x, np.float64)[:-lag], np.asarray(x, np.float64)[lag:]) for x in trajectories if len(x) > lag]
    require(bool(pairs), f"TICA: no trajectory is longer than the lag of {lag} frames: lower it")
    early, late = np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])
    mean = 0.5 * (early.mean(axis=0) + late.mean(axis=0))
    early, late = early - mean, late - mean
    instantaneous = 0.5 * (early.T @ early + late.T @ late) / len(early)
    lagged = 0.5 * (early.T @ late + late.T @ early) / len(early)
    variances, directions = np.linalg.eigh(instantaneous)
    kept = variances > SMALLEST_EIGENVALUE * variances[-1]
    if most_dimensions is not None:
        kept &= np.arange(len(variances)) >= len(variances) - most_dimensions
    whitening = directions[:, kept] / np.sqrt(variances[kept])
    correlations, rotation = np.linalg.eigh(whitening.T @ lagged @ whitening)
    order = np.argsort(-correlations)[:n_components]
    with np.errstate(divide="ignore"):
        timescales = -lag / np.log(np.clip(np.abs(correlations[order]), 1e-300, 1 - 1e-15))
    return Tica(mean, whitening @ rotation[:, order], timescales)


def tica_features(frames: BeadFrames) -> np.ndarray:
    """Return [n_frames, n_features]: CA distances of beads three or more apart, and sine and cosine of every dihedral."""
    x = np.asarray(frames.positions, np.float64)
    residue_index, chain_index = np.asarray(frames.residue_index), np.asarray(frames.chain_index)
    phi = dihedral_angle(x[:, bonded_tuples(residue_index, chain_index, 4)])
    return np.concatenate([pair_distances(x, far_pairs(residue_index, chain_index, 3)), np.sin(phi), np.cos(phi)], axis=1)
