"""What is simulated: beads of unbroken segments, from frames of a data set or a PDB file, and several copies of them."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cg_data.contracts import Array
from cg_data.errors import UserError, require
from cg_data.mapping import residue_species
from cg_data.store import Dataset

MAXIMUM_BOND_ANGSTROM = 4.6
"""Neighbours in a PDB file with CA atoms further apart than this are a chain break."""


@dataclasses.dataclass(frozen=True)
class System:
    """Beads in chain order: names [n], positions [n, 3] angstrom, residue_index and chain_index [n] as in `BeadFrames`."""

    names: tuple[str, ...]
    positions: np.ndarray
    residue_index: np.ndarray
    chain_index: np.ndarray

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return len(self.names)


def make_system(names: Sequence[str], positions: Array, residue_index: Array, chain_index: Array) -> System:
    """Return the system with beads sorted by segment and residue; raise `UserError` where residues of a segment are not consecutive."""
    residue_index, chain_index = np.asarray(residue_index), np.asarray(chain_index)
    order = np.lexsort((residue_index, chain_index))
    residue_index, chain_index = residue_index[order], chain_index[order]
    inside = np.diff(chain_index) == 0
    require(
        bool((np.diff(residue_index)[inside] == 1).all()),
        "system: expected residue indices that rise by one along each segment, received a gap: give a new chain_index after a break",
    )
    return System(tuple(names[i] for i in order), np.asarray(positions, np.float64)[order], residue_index, chain_index)


def frame_system(dataset: Dataset, domain: str, frame: int) -> System:
    """Return one frame of one domain of a data set; raise `UserError` where there is no such domain or frame."""
    frames = dataset.frames(domain)
    require(
        0 <= frame < frames.n_frames, f"{domain}: expected a frame from 0 to {frames.n_frames - 1}, received {frame}: choose another frame"
    )
    names = [dataset.species_names[index] for index in frames.species]
    return make_system(names, frames.positions[frame], frames.residue_index, frames.chain_index)


def read_pdb(path: Path | str) -> System:
    """Return the CA beads of the first model of a PDB file.

    A segment ends where the chain identifier changes, residue numbers jump by more than one, or neighbouring CA atoms are more than
    `MAXIMUM_BOND_ANGSTROM` apart. Raises `UserError` where the file has no CA atom or a residue is unknown.
    """
    path = Path(path)
    require(path.is_file(), f"{path}: no such file: give a PDB file")
    names: list[str] = []
    positions: list[list[float]] = []
    keys: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if line.startswith("ENDMDL"):
            break
        if not line.startswith(("ATOM", "HETATM")) or line[12:16].strip() != "CA" or line[76:78].strip() == "CA":
            continue
        key = (line[21:22], line[22:27])
        if keys and keys[-1] == key:
            continue  # a further alternate location
        try:
            positions.append([float(line[start : start + 8]) for start in (30, 38, 46)])
        except ValueError:
            raise UserError(f"{path}: line {number}: expected three coordinates in columns 31-54, received {line[30:54]!r}") from None
        names.append(residue_species(line[17:20].strip()))
        keys.append(key)
    require(bool(names), f"{path}: expected CA atoms, found none: give the PDB file of a protein")
    beads = np.array(positions)
    breaks = [False] + [
        before[0] != after[0] or _residue_number(after) - _residue_number(before) > 1 or distance > MAXIMUM_BOND_ANGSTROM
        for before, after, distance in zip(keys[:-1], keys[1:], np.linalg.norm(np.diff(beads, axis=0), axis=1), strict=True)
    ]
    return make_system(names, beads, np.arange(len(names), dtype=np.int32), np.cumsum(breaks).astype(np.int32))


def _residue_number(key: tuple[str, str]) -> int:
    digits = "".join(character for character in key[1] if character.isdigit() or character == "-")
    return int(digits) if digits else 0


def combine(systems: Sequence[System], spacing_angstrom: float) -> System:
    """Return all systems in one, each shifted to its own place on a cubic grid with a gap of at least `spacing_angstrom` between them.

    One system stays where it is.
    """
    require(bool(systems), "system: expected at least one structure, received none")
    if len(systems) == 1:
        return systems[0]
    extent = max(float(np.ptp(system.positions, axis=0).max()) for system in systems)
    per_side = math.ceil(len(systems) ** (1 / 3) - 1e-9)
    places = np.array([(i, j, k) for i in range(per_side) for j in range(per_side) for k in range(per_side)], float)
    positions, chains, residues = [], [], []
    names: list[str] = []
    next_chain = 0
    for system, place in zip(systems, places, strict=False):
        centre = (system.positions.max(axis=0) + system.positions.min(axis=0)) / 2
        positions.append(system.positions - centre + place * (extent + spacing_angstrom))
        chains.append(np.unique(system.chain_index, return_inverse=True)[1] + next_chain)
        next_chain = int(chains[-1].max()) + 1
        residues.append(system.residue_index)
        names.extend(system.names)
    return make_system(names, np.concatenate(positions), np.concatenate(residues), np.concatenate(chains))
