"""A project of somebody else: forces of a chain from a bundle."""

import sys

import numpy as np

from cg_models.bundle import load_bundle


def main() -> None:
    """Print the forces of two frames, [2 * 8, 3] kcal/mol/angstrom."""
    chain = np.array([[3.8 * i, 1.5 * (i % 2), 0.8 * (i % 3)] for i in range(8)])
    _, forces = load_bundle(sys.argv[1]).for_frames(np.stack([chain, 1.01 * chain]), ["ALA", "GLY", "LYS", "TRP"] * 2)
    np.savetxt(sys.stdout, forces.reshape(-1, 3))
