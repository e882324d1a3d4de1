"""All-atom models of OpenMM for the atoms of a source, with the beads' atoms held in place.

Beads are held by their mass. A particle of mass zero cannot have a constraint in OpenMM, and making the bond from a bead to its
hydrogen flexible would change the ensemble; an atom of 1e18 amu keeps the constraint and moves by less than 1e-5 angstrom in a
microsecond at any temperature of interest.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from cg_data.atoms import AtomTable
from cg_data.config import AllAtomConfig
from cg_data.errors import UserError, require
from cg_data.units import KJ_PER_KCAL

HELD_MASS_AMU = 1e18
NANOMETRE_PER_ANGSTROM = 0.1
KCAL_ANGSTROM_PER_KJ_NANOMETRE = NANOMETRE_PER_ANGSTROM / KJ_PER_KCAL

CAPS_IN_RESIDUES = (
    ("ACE", frozenset({"CAY", "CY", "OY", "HY1", "HY2", "HY3"})),
    ("NME", frozenset({"NT", "HNT", "CAT", "HT1", "HT2", "HT3"})),
    ("NHE", frozenset({"NT", "HT1", "HT2"})),
)
"""Caps that CHARMM writes as patches of the first and last residue, by the names of all of their atoms; Amber's residue names."""


@dataclass(frozen=True)
class AllAtomModel:
    """An OpenMM system of a source's atoms.

    system: `openmm.System`; order [n_atoms]: the source's atom that is the system's i-th; particle names are the residues'.
    """

    system: Any
    order: np.ndarray


def import_openmm() -> Any:
    """Return the module `openmm`; `UserError` where it is not installed."""
    try:
        importlib.import_module("openmm.app")
        return importlib.import_module("openmm")
    except ImportError:
        raise UserError("mean forces need OpenMM, which is not installed: pip install 'cg-data[openmm]'") from None


def build_model(atoms: AtomTable, bonds: np.ndarray, constraints: str, config: AllAtomConfig, where: str) -> AllAtomModel:
    """Return the all-atom model of atoms with bonds [n, 2], without cutoff or box; constraints `h-bonds` or `none`.

    Residues are recognised by their elements and bonds, so that names and protonation are those of the file. Raises `UserError`
    naming `where` and the residue that the force field does not know, or has atoms missing.
    """
    openmm = import_openmm()
    app = openmm.app
    try:
        force_field = app.ForceField(*config.force_field)
    except (ValueError, OSError, SyntaxError) as error:
        raise UserError(f"all_atom.force_field: {_line(error)}: give files of OpenMM, such as amber14/protein.ff14SB.xml") from None
    # Amber's caps are residues, CHARMM's are patches of the residue next to them.
    attempts = [_topology(app, atoms, bonds, split) for split in (True, False)]
    unknown = [force_field.getUnmatchedResidues(topology) for topology, _ in attempts]
    best = min((0, 1), key=lambda i: len(unknown[i]))
    if unknown[best]:
        residue = unknown[best][0]
        raise UserError(
            f"{where}: residue {residue.name} {residue.id} with {len(list(residue.atoms()))} atoms is in none of "
            f"{', '.join(config.force_field)} ({len(unknown[best])} such residues): atoms are missing, or add a file that has it to "
            "all_atom.force_field"
        )
    topology, order = attempts[best]
    try:
        system = force_field.createSystem(
            topology,
            nonbondedMethod=app.NoCutoff,
            constraints=app.HBonds if constraints == "h-bonds" else None,
            rigidWater=False,
            hydrogenMass=config.hydrogen_mass_amu,
            removeCMMotion=False,
        )
    except Exception as error:  # noqa: BLE001 - force-field files run code of their own and raise anything
        raise UserError(f"{where}: the force field {', '.join(config.force_field)} cannot be applied: {_line(error)}") from None
    _use_built_in_obc2(openmm, system, config)
    return AllAtomModel(system, order)


def hold(system: Any, held: np.ndarray) -> None:
    """Hold the particles `held` of a system in place, constraints included."""
    for particle in held:
        system.setParticleMass(int(particle), HELD_MASS_AMU)


def new_context(system: Any, integrator: Any, platform: str) -> Any:
    """Return a context that gives the same numbers each time, on one thread of the CPU; `UserError` where there is no such platform."""
    openmm = import_openmm()
    names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    require(platform in names, f"all_atom.platform: this OpenMM has no {platform}; it has {', '.join(names)}")
    properties = {
        "CPU": {"Threads": "1", "DeterministicForces": "true"},
        "CUDA": {"Precision": "mixed", "DeterministicForces": "true"},
        "HIP": {"Precision": "mixed", "DeterministicForces": "true"},
        "OpenCL": {"Precision": "mixed"},
    }
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties.get(platform, {}))


def forces_now(context: Any) -> np.ndarray:
    """Return [n_particles, 3] float64 kcal/mol/angstrom."""
    return np.asarray(context.getState(getForces=True).getForces(asNumpy=True)._value) * KCAL_ANGSTROM_PER_KJ_NANOMETRE


def model_forces(model: AllAtomModel, positions: np.ndarray, platform: str) -> np.ndarray:
    """Return forces [n_frames, n_atoms, 3] kcal/mol/angstrom of positions [n_frames, n_atoms, 3] angstrom, both in the source's order."""
    context = new_context(model.system, import_openmm().VerletIntegrator(0.001), platform)
    forces = np.empty(positions.shape)
    for frame, found in zip(positions, forces, strict=True):
        context.setPositions(np.asarray(frame[model.order], np.float64) * NANOMETRE_PER_ANGSTROM)
        found[model.order] = forces_now(context)
    return forces


def _topology(app: Any, atoms: AtomTable, bonds: np.ndarray, split_caps: bool) -> tuple[Any, np.ndarray]:
    topology = app.Topology()
    chain, order, made = None, [], {}
    for residue in range(atoms.n_residues):
        if chain is None or atoms.chains[residue] != atoms.chains[residue - 1]:
            chain = topology.addChain(str(atoms.chains[residue]))
        members = np.flatnonzero(atoms.residues == residue)
        parts = _without_caps(members, atoms.names) if split_caps else [("", members)]
        for name, part in parts:
            added = topology.addResidue(name or str(atoms.residue_names[residue]), chain, id=str(atoms.residue_numbers[residue]))
            for atom in part:
                element = app.Element.getByAtomicNumber(int(atoms.atomic_numbers[atom]))
                made[int(atom)] = topology.addAtom(str(atoms.names[atom]), element, added)
                order.append(int(atom))
    for first, second in bonds:
        topology.addBond(made[int(first)], made[int(second)])
    return topology, np.array(order)


def _without_caps(members: np.ndarray, names: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return (name, atoms) of the parts of a residue: a cap before it, itself ("" for its own name), a cap after it."""
    for cap, cap_names in CAPS_IN_RESIDUES:
        inside = np.isin(names[members], sorted(cap_names))
        if inside.sum() == len(cap_names):
            rest = _without_caps(members[~inside], names)
            return [(cap, members[inside]), *rest] if cap == "ACE" else [*rest, (cap, members[inside])]
    return [("", members)]


def _use_built_in_obc2(openmm: Any, system: Any, config: AllAtomConfig) -> None:
    """Replace the OBC2 solvent, written as a custom force, by OpenMM's own: the same energy, four times as fast on a CPU."""
    if "implicit/obc2.xml" not in config.force_field:
        return
    custom = [i for i, force in enumerate(system.getForces()) if isinstance(force, openmm.CustomGBForce)]
    if len(custom) != 1:
        return
    force, offset = system.getForce(custom[0]), 0.009
    native = openmm.GBSAOBCForce()
    native.setSoluteDielectric(1.0)
    native.setSolventDielectric(78.5)
    native.setNonbondedMethod(openmm.GBSAOBCForce.NoCutoff)
    for particle in range(force.getNumParticles()):
        charge, radius, scaled = force.getParticleParameters(particle)
        native.addParticle(charge, radius + offset, scaled / radius)
    system.removeForce(custom[0])
    system.addForce(native)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or error.__class__.__name__
