"""Bond lengths, angles, dihedrals and neighbours of bead frames, in NumPy on the host."""

import numpy as np
from scipy.spatial import cKDTree

from cg_data.contracts import Array


def bonds_angstrom(positions: Array, bonds: Array) -> np.ndarray:
    """Return [n_frames, n] distances in angstrom; positions [n_frames, n_beads, 3], bonds [n, 2]."""
    vectors = positions[:, bonds[:, 1]] - positions[:, bonds[:, 0]]
    return np.linalg.norm(vectors, axis=-1)


def angles_radian(positions: Array, angles: Array) -> np.ndarray:
    """Return [n_frames, n] angles in radians at the middle bead; positions [n_frames, n_beads, 3], angles [n, 3]."""
    first = positions[:, angles[:, 0]] - positions[:, angles[:, 1]]
    second = positions[:, angles[:, 2]] - positions[:, angles[:, 1]]
    cross = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.arctan2(cross, np.einsum("fnx,fnx->fn", first, second))


def dihedrals_radian(positions: Array, dihedrals: Array) -> np.ndarray:
    """Return [n_frames, n] dihedrals in radians, IUPAC sign; positions [n_frames, n_beads, 3], dihedrals [n, 4]."""
    b1, b2, b3 = (positions[:, dihedrals[:, i + 1]] - positions[:, dihedrals[:, i]] for i in range(3))
    normal_1, normal_2 = np.cross(b1, b2), np.cross(b2, b3)
    along = np.einsum("fnx,fnx->fn", np.cross(normal_1, normal_2), b2) / np.linalg.norm(b2, axis=-1)
    return np.arctan2(along, np.einsum("fnx,fnx->fn", normal_1, normal_2))


def neighbour_counts(positions: Array, cutoff_angstrom: float) -> np.ndarray:
    """Return [n_frames, n_beads] int: beads closer than the cutoff to each bead; positions [n_frames, n_beads, 3]."""
    counts = [cKDTree(frame).query_ball_point(frame, cutoff_angstrom, return_length=True) - 1 for frame in np.asarray(positions)]
    return np.asarray(counts, np.int64).reshape(positions.shape[:2])
