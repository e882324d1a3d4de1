"""ASE, OpenMM and jax-md on one artifact: each gives the bundle's energy and forces."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.errors import UserError
from cg_export.artifact import Artifact
from cg_export.calculators.molecule import Molecule
from cg_export.lammps.system import System
from cg_models.bundle import Bundle

TOLERANCE = 1e-6
JOULE_PER_CALORIE = 4.184


@pytest.fixture(scope="module")
def system(chain_system: Callable[..., System]) -> System:
    return chain_system([9, 7], seed=12)


@pytest.fixture(scope="module")
def loaded(artifact: Path) -> Artifact:
    return Artifact(artifact)


@pytest.fixture(scope="module")
def expected(bundle: Bundle, system: System) -> tuple[float, np.ndarray]:
    graph = bundle.graph(system.positions, list(system.names), system.residue_index, system.chain_index, rows=False)
    energies, forces = bundle.energy_and_forces(graph)
    return float(energies.sum()), np.asarray(forces)


def _check(energy: float, forces: np.ndarray, expected: tuple[float, np.ndarray]) -> None:
    assert energy == pytest.approx(expected[0], rel=TOLERANCE)
    np.testing.assert_allclose(forces, expected[1], atol=TOLERANCE * np.abs(expected[1]).max())


def test_ase_calculator_equals_the_bundle_in_ev(loaded: Artifact, system: System, expected: tuple[float, np.ndarray]) -> None:
    pytest.importorskip("ase")
    from ase import units

    from cg_export.calculators.ase import ase_atoms

    atoms = ase_atoms(loaded, system)
    unit = units.kcal / units.mol
    _check(atoms.get_potential_energy() / unit, atoms.get_forces() / unit, expected)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
    assert atoms.get_masses()[0] == pytest.approx(loaded.manifest.masses_amu[loaded.manifest.species_index(system.names[:1])[0]])
    atoms.pbc = True
    with pytest.raises(UserError, match="expected beads in free space"):
        atoms.get_potential_energy()


def test_openmm_force_equals_the_bundle_in_kilojoules_and_nanometres(
    loaded: Artifact, system: System, expected: tuple[float, np.ndarray]
) -> None:
    openmm = pytest.importorskip("openmm")
    from cg_export.calculators.openmm import openmm_system

    context = openmm.Context(openmm_system(loaded, system), openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(system.positions / 10)
    state = context.getState(getEnergy=True, getForces=True)
    energy, forces = state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value
    _check(energy / JOULE_PER_CALORIE, forces / (10 * JOULE_PER_CALORIE), expected)


@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")  # of jax-md itself
def test_jax_md_energy_equals_the_bundle_with_and_without_neighbour_lists(
    loaded: Artifact, system: System, expected: tuple[float, np.ndarray]
) -> None:
    jax_md = pytest.importorskip("jax_md")
    partition = jax_md.partition
    from cg_export.calculators.jax_md import jax_md_energy

    evaluate = jax.jit(jax.value_and_grad(jax_md_energy(loaded, system)))
    positions = jnp.asarray(system.positions)
    displacement, _ = jax_md.space.free()
    # A neighbour list of free space needs a box for its bookkeeping only.
    for form in (None, partition.Dense, partition.Sparse):
        extra = {}
        if form is not None:
            make = partition.neighbor_list(displacement, 100.0, loaded.manifest.cutoff_angstrom, 1.0, disable_cell_list=True, format=form)
            extra = {"neighbor": make.allocate(positions)}
        energy, slope = evaluate(positions, **extra)
        _check(float(energy), -np.asarray(slope), expected)
    half = partition.neighbor_list(displacement, 100.0, 10.0, 1.0, disable_cell_list=True, format=partition.OrderedSparse)
    with pytest.raises(UserError, match="expected a neighbour list of format Sparse or Dense, received OrderedSparse"):
        jax_md_energy(loaded, system)(positions, neighbor=half.allocate(positions))


def test_jax_md_energy_without_x64_is_refused(loaded: Artifact, system: System) -> None:
    from cg_export.calculators.jax_md import jax_md_energy

    with jax.enable_x64(False), pytest.raises(UserError, match="expected 64-bit JAX"):
        jax_md_energy(loaded, system)


def test_wrong_number_of_positions_is_refused(loaded: Artifact, system: System) -> None:
    with pytest.raises(UserError, match=r"expected shape \(16, 3\), received \(15, 3\)"):
        Molecule(loaded, system).energies_and_forces(system.positions[:-1])
