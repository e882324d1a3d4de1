"""What the calculators share: one system's beads, bound to an artifact, as functions of positions."""

from pathlib import Path

import numpy as np

from cg_data.contracts import Array
from cg_data.errors import require
from cg_export.artifact import Artifact
from cg_export.lammps.system import System


class Molecule:
    """The beads of a system and an artifact that gives their energies; in free space."""

    def __init__(self, artifact: Artifact | Path | str, system: System) -> None:
        """Load the artifact where a folder is given; raise `UserError` for a species that it lacks."""
        self.artifact = artifact if isinstance(artifact, Artifact) else Artifact(artifact)
        self.system = system
        manifest = self.artifact.manifest
        self.species = manifest.species_index(system.names)
        self.masses_amu = np.array([manifest.masses_amu[index] for index in self.species])

    def energies_and_forces(self, positions: Array) -> tuple[np.ndarray, np.ndarray]:
        """Return per-bead energies [n_beads] kcal/mol and forces [n_beads, 3] kcal/mol/angstrom at positions [n_beads, 3] angstrom."""
        positions = np.asarray(positions, np.float64)
        expected = (self.system.n_beads, 3)
        require(positions.shape == expected, f"positions: expected shape {expected}, received {positions.shape}: one per bead")
        graph = self.artifact.graph(positions, self.species, self.system.residue_index, self.system.chain_index)
        return self.artifact.energy_and_forces(graph)
