"""What is measured on frames of beads: size, shape, contacts, flexibility. Angstrom and radians throughout.

positions are [n_frames, n_beads, 3] in A unless said otherwise; every function is plain NumPy in float64.
"""

import numpy as np

from cg_data.contracts import Array
from cg_data.errors import require
from cg_priors.energy import sequence_separation
from cg_priors.geometry import bend_angle, dihedral_angle

HELIX_DIHEDRAL = (np.radians(20.0), np.radians(80.0))
HELIX_ANGLE = (np.radians(80.0), np.radians(105.0))
"""Ranges of CA dihedral and CA angle counted as alpha helix; the ideal helix has 50 and 91 degrees."""


def radius_of_gyration(positions: Array, masses: Array | None = None) -> np.ndarray:
    """Return [n_frames] A: the root of the mean squared distance from the centre, weighted by masses [n_beads] if given."""
    x = np.asarray(positions, np.float64)
    weights = np.full(x.shape[1], 1.0 / x.shape[1]) if masses is None else np.asarray(masses, np.float64) / np.sum(masses)
    centred = x - np.einsum("fbk,b->fk", x, weights)[:, None]
    return np.sqrt(np.einsum("fbk,fbk,b->f", centred, centred, weights))


def end_to_end(positions: Array, residue_index: Array, chain_index: Array) -> np.ndarray:
    """Return [n_frames, n_segments] A: the distance between the first and the last bead of every unbroken segment."""
    x, residue_index, chain_index = np.asarray(positions, np.float64), np.asarray(residue_index), np.asarray(chain_index)
    ends = []
    for chain in np.unique(chain_index):
        members = np.flatnonzero(chain_index == chain)
        order = members[np.argsort(residue_index[members])]
        ends.append(np.linalg.norm(x[:, order[-1]] - x[:, order[0]], axis=-1))
    return np.stack(ends, axis=1)


def far_pairs(residue_index: Array, chain_index: Array, smallest_separation: int) -> np.ndarray:
    """Return [n_pairs, 2] int64, i < j: the pairs at least `smallest_separation` residues apart, or in different segments."""
    first, second = np.triu_indices(len(residue_index), k=1)
    separation = sequence_separation(np.asarray(residue_index), np.asarray(chain_index), first, second)
    return np.stack([first, second], axis=1)[separation >= smallest_separation]


def pair_distances(positions: Array, pairs: Array) -> np.ndarray:
    """Return [n_frames, n_pairs] A, the distances of pairs [n_pairs, 2]."""
    x = np.asarray(positions, np.float64)
    return np.linalg.norm(x[:, pairs[:, 1]] - x[:, pairs[:, 0]], axis=-1)


def superpose(positions: Array, reference: Array, weights: Array | None = None) -> np.ndarray:
    """Return positions rotated and moved onto reference [n_beads, 3] with the least (weighted) squared deviation.

    weights [n_beads], or [n_frames, n_beads] for weights of each frame's own. Kabsch, Acta Cryst. A 32, 922 (1976); reflections
    are excluded.
    """
    x, target = np.asarray(positions, np.float64), np.asarray(reference, np.float64)
    w = np.ones(x.shape[:2]) if weights is None else np.broadcast_to(np.asarray(weights, np.float64), x.shape[:2])
    w = w / w.sum(axis=1, keepdims=True)
    centre = w @ target
    moved = x - np.einsum("fbk,fb->fk", x, w)[:, None]
    covariance = np.matmul((moved * w[..., None]).transpose(0, 2, 1), target[None] - centre[:, None])
    left, _, right = np.linalg.svd(covariance)
    handed = np.sign(np.linalg.det(left @ right))
    left[:, :, -1] *= handed[:, None]
    return moved @ (left @ right) + centre[:, None]


def rmsd(positions: Array, reference: Array) -> np.ndarray:
    """Return [n_frames] A: root mean squared deviation from reference [n_beads, 3] after the best superposition."""
    deviation = superpose(positions, reference) - np.asarray(reference, np.float64)
    return np.sqrt((deviation**2).sum(-1).mean(-1))


def rmsf(positions: Array, n_iterations: int = 5) -> np.ndarray:
    """Return [n_beads] A: root mean squared fluctuation about the mean structure, frames superposed on it.

    The mean structure starts at the first frame and is refined `n_iterations` times.
    """
    x = np.asarray(positions, np.float64)
    mean = x[0]
    for _ in range(n_iterations):
        mean = superpose(x, mean).mean(axis=0)
    return np.sqrt(((superpose(x, mean) - mean) ** 2).sum(-1).mean(0))


def native_contacts(
    native: Array, residue_index: Array, chain_index: Array, cutoff: float = 8.0, smallest_separation: int = 4
) -> np.ndarray:
    """Return [n_pairs, 2] int64: pairs of native [n_beads, 3] within `cutoff` A, at least `smallest_separation` residues apart."""
    pairs = far_pairs(residue_index, chain_index, smallest_separation)
    return pairs[pair_distances(np.asarray(native)[None], pairs)[0] < cutoff]


def fraction_of_native_contacts(
    positions: Array, native: Array, pairs: Array, steepness_per_angstrom: float = 5.0, tolerance: float = 1.2
) -> np.ndarray:
    """Return [n_frames] Q: the mean over native pairs of 1 / (1 + exp(beta (r - lambda r0))).

    beta is `steepness_per_angstrom` (5/A = 50/nm), lambda is `tolerance`, r0 the native distance (Best, Hummer and Eaton,
    PNAS 110, 17874 (2013), who use lambda 1.8 for all-atom distances; 1.2 to 1.5 suit one bead per residue). By its
    definition Q of the native structure is slightly below 1: each contact gives 1 / (1 + exp(-beta (lambda - 1) r0)).
    """
    require(len(pairs) > 0, "fraction of native contacts: the native structure has no contacts; raise the cutoff")
    native_distance = pair_distances(np.asarray(native)[None], pairs)
    exponent = steepness_per_angstrom * (pair_distances(positions, pairs) - tolerance * native_distance)
    return np.mean(1.0 / (1.0 + np.exp(np.clip(exponent, -500.0, 500.0))), axis=1)


def contact_map(positions: Array, cutoff: float = 8.0) -> np.ndarray:
    """Return [n_beads, n_beads] float64: the fraction of frames in which two beads are within `cutoff` A."""
    x = np.asarray(positions, np.float64)
    counts = np.zeros((x.shape[1], x.shape[1]))
    for frame in x:
        counts += np.linalg.norm(frame[:, None] - frame[None], axis=-1) < cutoff
    return counts / len(x)


def clashes(positions: Array, residue_index: Array, chain_index: Array, distance: float = 4.0) -> np.ndarray:
    """Return [n_frames] int64: pairs closer than `distance` A that are not neighbours along a segment."""
    pairs = far_pairs(residue_index, chain_index, 2)
    return (pair_distances(positions, pairs) < distance).sum(axis=1)


def chain_helicity(positions: Array, dihedrals: Array) -> np.ndarray:
    """Return [n_frames] `helicity` over dihedral tuples [m, 4] of any segments."""
    x, quadruples = np.asarray(positions, np.float64), np.asarray(dihedrals)
    phi = dihedral_angle(x[:, quadruples])
    theta = [bend_angle(x[:, quadruples[:, first : first + 3]]) for first in (0, 1)]
    return _helical(phi, theta[0], theta[1])


def helicity(angles: Array, dihedrals: Array) -> np.ndarray:
    """Return [n_frames]: the fraction of dihedrals that are alpha-helical together with both angles they span.

    angles [n_frames, m + 1], dihedrals [n_frames, m] radians of one unbroken segment.
    """
    angles, dihedrals = np.asarray(angles), np.asarray(dihedrals)
    return _helical(dihedrals, angles[:, :-1], angles[:, 1:])


def _helical(dihedrals: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    helical = (dihedrals > HELIX_DIHEDRAL[0]) & (dihedrals < HELIX_DIHEDRAL[1])
    for angle in (first, second):
        helical &= (angle > HELIX_ANGLE[0]) & (angle < HELIX_ANGLE[1])
    return np.asarray(helical.mean(axis=1))
