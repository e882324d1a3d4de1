"""What is simulated: beads of unbroken segments, from frames of a data set or a PDB file, and several copies of them."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cg_data.contracts import Array
from cg_data.errors import require
from cg_data.pdb import read_pdb_beads
from cg_data.store import Dataset


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
    """Return the CA beads of the first model of a PDB file (see `cg_data.pdb`)."""
    found = read_pdb_beads(path)
    return make_system(found.residue_names, found.positions, found.residue_index, found.chain_index)


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
