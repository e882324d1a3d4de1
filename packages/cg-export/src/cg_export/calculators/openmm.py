"""OpenMM: `system.addForce(openmm_force(artifact, system))`. Needs cg-export[openmm], for `PythonForce` of OpenMM 8.6."""

from pathlib import Path

import numpy as np
import openmm
from openmm import unit

from cg_export.artifact import Artifact
from cg_export.calculators.molecule import Molecule
from cg_export.lammps.system import System


def openmm_force(artifact: Artifact | Path | str, system: System) -> openmm.PythonForce:
    """Return a force that gives an artifact's energy and forces to the particles 0 to n_beads - 1, in free space."""
    molecule = Molecule(artifact, system)

    def compute(state: openmm.State) -> tuple[unit.Quantity, unit.Quantity]:
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        energies, forces = molecule.energies_and_forces(positions)
        per_mole = unit.kilocalories_per_mole
        return float(energies.sum()) * per_mole, np.ascontiguousarray(forces) * (per_mole / unit.angstrom)

    force = openmm.PythonForce(compute)
    force.setParticles(list(range(system.n_beads)))
    return force


def openmm_system(artifact: Artifact | Path | str, system: System) -> openmm.System:
    """Return an OpenMM system of the beads, with their masses and `openmm_force`."""
    force = openmm_force(artifact, system)
    beads = openmm.System()
    for mass in Molecule(artifact, system).masses_amu:
        beads.addParticle(mass)
    beads.addForce(force)
    return beads
