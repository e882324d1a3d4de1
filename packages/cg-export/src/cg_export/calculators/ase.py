"""ASE: `atoms.calc = ArtifactCalculator(artifact, system)`. Needs cg-export[ase]."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import ase
import numpy as np
from ase import units
from ase.calculators.calculator import Calculator, all_changes

from cg_data.errors import UserError
from cg_export.artifact import Artifact
from cg_export.calculators.molecule import Molecule
from cg_export.lammps.system import System

EV_PER_KCAL_PER_MOL = units.kcal / units.mol


class ArtifactCalculator(Calculator):
    """Energy (eV), per-bead energies (eV) and forces (eV/angstrom) of an artifact, for the beads of one system in free space."""

    implemented_properties = ["energy", "free_energy", "energies", "forces"]  # noqa: RUF012

    def __init__(self, artifact: Artifact | Path | str, system: System, **options: Any) -> None:
        """Bind an artifact, or its folder, to a system; options go to ASE's `Calculator`."""
        super().__init__(**options)
        self.molecule = Molecule(artifact, system)

    def calculate(
        self, atoms: ase.Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Fill `results`; raises `UserError` for periodic atoms, and where the number of beads differs."""
        super().calculate(atoms, properties, system_changes)
        beads = cast(ase.Atoms, self.atoms)
        if beads.pbc.any():
            raise UserError("ASE calculator: expected beads in free space, received periodic ones: set atoms.pbc = False, or use LAMMPS")
        energies, forces = self.molecule.energies_and_forces(beads.positions)
        energy = float(energies.sum()) * EV_PER_KCAL_PER_MOL
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": energies * EV_PER_KCAL_PER_MOL,
            "forces": forces * EV_PER_KCAL_PER_MOL,
        }


def ase_atoms(artifact: Artifact | Path | str, system: System) -> ase.Atoms:
    """Return the system's beads with their masses, residue names and a calculator: symbols are X, ASE's name for what is no element."""
    calculator = ArtifactCalculator(artifact, system)
    atoms = ase.Atoms("X" * system.n_beads, positions=system.positions, masses=calculator.molecule.masses_amu, calculator=calculator)
    atoms.set_array("residuenames", np.array(system.names))
    return atoms
