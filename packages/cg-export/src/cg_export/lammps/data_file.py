"""LAMMPS's `system.data`: atoms whose IDs run along the chains, one molecule for each unbroken segment, and all bonded tuples."""

import math
from collections.abc import Sequence

import numpy as np

from cg_data.errors import require
from cg_data.topology import bonded_tuples
from cg_export.lammps.native import NativePrior
from cg_export.lammps.system import System

FREE_SPACE_MARGIN_ANGSTROM = 20.0
TUPLE_SIZES = {"bond": 2, "angle": 3, "dihedral": 4}


def data_file(
    system: System,
    species_names: Sequence[str],
    masses_amu: Sequence[float],
    box_angstrom: float | None,
    native: NativePrior | None = None,
) -> str:
    """Return the text of a LAMMPS data file (`atom_style molecular`, `units real`).

    Atom types are the species in the given order, from 1. `box_angstrom` is the edge of a periodic cube around the centre of the
    beads, which are wrapped into it with image flags; None leaves a margin for free space. native: tuples with the types of a prior
    in LAMMPS's own styles; without it all tuples of a kind are of type 1. Raises `UserError` for a species that is
    not in `species_names`, and for a box smaller than the beads' extent.
    """
    check_species(system, species_names)
    types = np.array([list(species_names).index(name) + 1 for name in system.names])
    molecules = np.unique(system.chain_index, return_inverse=True)[1] + 1
    low, high = box_bounds(system.positions, box_angstrom)
    positions, images = wrap(system.positions, low, high)
    tuples, types_of = _sections(system, native)

    lines = ["coarse-grained beads, one for each residue; written by cg-export", ""]
    lines += [f"{len(types)} atoms", *(f"{len(rows)} {title.lower()}" for title, rows in tuples.items())]
    lines += ["", f"{len(species_names)} atom types", *(f"{n} {kind} types" for kind, n in types_of.items() if n)]
    lines += ["", *(f"{low[k]:.9g} {high[k]:.9g} {axis}lo {axis}hi" for k, axis in enumerate("xyz"))]
    lines += [
        "",
        "Masses",
        "",
        *(f"{i} {mass:.6g} # {name}" for i, (mass, name) in enumerate(zip(masses_amu, species_names, strict=True), start=1)),
    ]
    lines += ["", "Atoms # molecular", ""]
    for i, (molecule, kind, x, image) in enumerate(zip(molecules, types, positions, images, strict=True), start=1):
        lines.append(f"{i} {molecule} {kind} {x[0]:.15g} {x[1]:.15g} {x[2]:.15g} {image[0]} {image[1]} {image[2]}")
    for title, rows in tuples.items():
        if rows:
            lines += ["", title, "", *rows]
    return "\n".join([*lines, ""])


def check_species(system: System, species_names: Sequence[str]) -> None:
    """Raise `UserError` naming the first species of a system that is not in `species_names`."""
    for name in system.names:
        require(
            name in species_names,
            f"species {name!r} is not in the model; it knows {' '.join(species_names)}: use another model or structure",
        )


def check_box(system: System, edge: float, receptive_field_angstrom: float) -> None:
    """Raise `UserError` where a periodic cube is so small that a chain meets its own image within a model's receptive field.

    Sequence separations would then be wrong: an image of the next residue but two is no neighbour along the chain.
    """
    for chain in np.unique(system.chain_index):
        extent = float(np.ptp(system.positions[system.chain_index == chain], axis=0).max())
        least = math.ceil(10.0 * (extent + receptive_field_angstrom)) / 10.0
        require(
            edge >= least,
            f"box_angstrom: expected at least {least:g} A, so that a chain of {extent:.1f} A does not meet its own image within the "
            f"{receptive_field_angstrom:g} A that the model sees, received {edge:g}: enlarge the box",
        )


def _sections(system: System, native: NativePrior | None) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return title -> lines, and kind -> number of types, of bonds, angles and dihedrals."""
    if native is not None:
        return native.tuples, {kind: native.types.get(kind, 0) for kind in TUPLE_SIZES}
    found = {kind: bonded_tuples(system.residue_index, system.chain_index, size) for kind, size in TUPLE_SIZES.items()}
    lines = {
        f"{kind.title()}s": [f"{i} 1 {' '.join(str(bead + 1) for bead in row)}" for i, row in enumerate(rows, start=1)]
        for kind, rows in found.items()
    }
    return lines, {kind: int(len(rows) > 0) for kind, rows in found.items()}


def bonded_kinds(system: System) -> dict[str, bool]:
    """Return which of bond, angle and dihedral a system has at all; LAMMPS refuses a style without types."""
    return {kind: len(bonded_tuples(system.residue_index, system.chain_index, size)) > 0 for kind, size in TUPLE_SIZES.items()}


def box_bounds(positions: np.ndarray, edge: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the low and high corner [3] of the box: a cube around the centre of `positions`, or their extent and a margin."""
    smallest, largest = positions.min(axis=0), positions.max(axis=0)
    if edge is None:
        return smallest - FREE_SPACE_MARGIN_ANGSTROM, largest + FREE_SPACE_MARGIN_ANGSTROM
    extent = float((largest - smallest).max())
    require(
        edge > extent,
        f"box_angstrom: expected more than the beads' extent of {extent:.1f} A, received {edge:g}: enlarge the box or use fewer copies",
    )
    low = (smallest + largest - edge) / 2
    return low, low + edge


def wrap(positions: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions [..., 3] moved into a periodic box, and the integer image flags that take them back."""
    images = np.floor((positions - low) / (high - low)).astype(int)
    return positions - images * (high - low), images
