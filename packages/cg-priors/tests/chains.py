"""Chains whose bonds, angles and dihedrals are drawn exactly and independently from known potentials."""

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.units import thermal_energy


def draw(random, potential, jacobian, low, high, n, temperature=300.0):
    """Return n samples of J(x) exp(-U(x)/kT) on [low, high] by inverting its cumulative distribution on a fine grid."""
    x = np.linspace(low, high, 200_001)
    energy = potential(x)
    density = jacobian(x) * np.exp(-(energy - energy.min()) / thermal_energy(temperature))
    cumulative = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return np.interp(random.uniform(0, cumulative[-1], n), cumulative, x)


def bonds(random, potential, n, temperature=300.0):
    return draw(random, potential, lambda r: r**2, 2.2, 5.5, n, temperature)


def angles(random, potential, n, temperature=300.0):
    return draw(random, potential, np.sin, 0.0, np.pi, n, temperature)


def dihedrals(random, potential, n, temperature=300.0):
    return draw(random, potential, np.ones_like, -np.pi, np.pi, n, temperature)


def build(r, theta, phi):
    """Return positions [n_frames, n_beads, 3] from r [n, b-1], theta [n, b-2], phi [n, b-3] (IUPAC sign)."""
    n, n_beads = r.shape[0], r.shape[1] + 1
    x = np.zeros((n, n_beads, 3))
    x[:, 1, 0] = r[:, 0]
    x[:, 2, 0] = r[:, 0] - r[:, 1] * np.cos(theta[:, 0])
    x[:, 2, 1] = r[:, 1] * np.sin(theta[:, 0])
    for k in range(3, n_beads):
        b = x[:, k - 1] - x[:, k - 2]
        b /= np.linalg.norm(b, axis=1, keepdims=True)
        normal = np.cross(x[:, k - 2] - x[:, k - 3], b)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        side = np.cross(normal, b)
        t, p = theta[:, k - 2, None], phi[:, k - 3, None]
        x[:, k] = x[:, k - 1] + r[:, k - 1, None] * (-np.cos(t) * b + np.sin(t) * (np.cos(p) * side + np.sin(p) * normal))
    return x


def frames(positions, temperature=300.0, n_trajectories=32, species=None, forces=None):
    n, n_beads, _ = positions.shape
    return BeadFrames(
        positions=np.asarray(positions, np.float32),
        forces=None if forces is None else np.asarray(forces, np.float32),
        species=np.asarray(np.zeros(n_beads) if species is None else species, np.int32),
        residue_index=np.arange(n_beads, dtype=np.int32),
        chain_index=np.zeros(n_beads, np.int32),
        temperature=np.full(n, temperature, np.float32),
        trajectory=np.sort(np.arange(n) % n_trajectories).astype(np.int32),
    )
