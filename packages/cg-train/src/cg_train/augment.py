"""Training frames in other orientations and with noise; what is drawn depends on (seed, step, frame) alone."""

import dataclasses

import numpy as np

from cg_data.contracts import Array, BeadGraph
from cg_data.units import thermal_energy
from cg_train.config import AugmentationConfig


def random_rotation(generator: np.random.Generator) -> np.ndarray:
    """Return a rotation [3, 3] (determinant +1) drawn uniformly (Haar) from SO(3).

    A normalised Gaussian quaternion is uniform on the sphere (Shoemake, Graphics Gems III, 1992).
    """
    w, x, y, z = (q := generator.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotated(graph: BeadGraph, forces: Array, stress: Array | None, rotation: np.ndarray) -> tuple[BeadGraph, np.ndarray, np.ndarray | None]:
    """Return a frame turned by `rotation` [3, 3]: positions and cell shifts, forces [n_beads, 3], stress [6] (xx yy zz yz xz xy)."""
    shifts = None if graph.shifts is None else graph.shifts @ rotation.T
    graph = dataclasses.replace(graph, positions=graph.positions @ rotation.T, shifts=shifts)
    if stress is None:
        return graph, forces @ rotation.T, None
    xx, yy, zz, yz, xz, xy = np.asarray(stress, np.float64)
    turned = rotation @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ rotation.T
    return graph, forces @ rotation.T, turned[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def noised(
    positions: Array, forces: Array, temperature_kelvin: float, config: AugmentationConfig, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions y = x + sigma xi and forces whose mean at y is that of the noised density, all [n_beads, 3].

    Both F(x) and kB T (x - y) / sigma^2 = -kB T xi / sigma have the gradient of kB T ln p_sigma(y) as conditional mean, so
    any mixture of them has: here (1 - score_fraction) of the first and score_fraction of the second (arXiv 2407.01286).
    """
    sigma, share = config.noise_angstrom, config.score_fraction
    xi = generator.normal(size=np.shape(positions))
    score = -thermal_energy(temperature_kelvin) / sigma * xi
    return positions + sigma * xi, (1 - share) * forces + share * score
