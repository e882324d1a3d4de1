"""What is known of a domain before its frames are read: beads, unbroken chains, bonds, rigid groups; and the reader of its frames."""

from dataclasses import dataclass

import numpy as np

from cg_data.atoms import AtomSource, AtomTable, Buffers, SourceTrajectory, chain_links, unwrap
from cg_data.checks import check_lengths, extent, unreadable
from cg_data.config import PrepareConfig, QualityConfig
from cg_data.constraints import find_bonds, joins, rigid_bonds, rigid_groups
from cg_data.errors import UserError
from cg_data.force_map import Reduction, reduce_atoms
from cg_data.mapping import BeadMap, map_beads

SAMPLE_TRAJECTORIES = 5
SAMPLE_FRAMES = 4


@dataclass(frozen=True)
class Structure:
    """Beads, chains, bonds and rigid groups of a domain.

    anchors [n_residues] one atom of each residue; linked, neighbours [n_residues - 1] bool: a residue and the next are joined by a
    peptide bond, and both anchors are CA atoms; bonds, rigid [n, 2]; joined: bonds lead from each atom to its residue's anchor, so
    that uncut bonds make a whole residue.
    """

    beads: BeadMap
    anchors: np.ndarray
    linked: np.ndarray
    neighbours: np.ndarray
    bonds: np.ndarray
    joined: bool
    rigid: np.ndarray
    reduction: Reduction | None


class Reader:
    """Reads the frames of a source, all blocks into the same memory.

    The first block of a trajectory, looked at to learn the structure, is kept until it is asked for, and not read twice.
    """

    def __init__(self, source: AtomSource, with_forces: bool):
        self.source = source
        self.with_forces = with_forces
        self._first: dict[SourceTrajectory, tuple[np.ndarray, np.ndarray | None]] = {}
        self._buffers: Buffers | None = None

    def peek(self, trajectory: SourceTrajectory, n_frames: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return positions and forces of the first frames, and keep their block for `read`."""
        if trajectory not in self._first:
            self._first[trajectory] = self.source.read(
                trajectory, 0, min(trajectory.block_frames, trajectory.n_frames), with_forces=self.with_forces
            )
        positions, forces = self._first[trajectory]
        return positions[:n_frames], None if forces is None else forces[:n_frames]

    def read(self, trajectory: SourceTrajectory, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return positions and forces as the source does; they are valid until the next call."""
        positions, forces = self._first.pop(trajectory, (None, None))
        if positions is None or stop > len(positions):
            if self._buffers is None or stop - start > len(self._buffers[0]):
                shape = (max(trajectory.block_frames, stop - start), self.source.atoms.n_atoms, 3)
                self._buffers = np.empty(shape, np.float32), np.empty(shape, np.float32)
            return self.source.read(trajectory, start, stop, self._buffers, self.with_forces)
        return positions[start:stop], None if forces is None else forces[start:stop]


def learn_structure(reader: Reader, trajectories: list[SourceTrajectory], config: PrepareConfig) -> Structure:
    """Return beads, unbroken chains, bonds and rigid groups, from the topology and a few frames."""
    source, atoms = reader.source, reader.source.atoms
    beads = map_beads(atoms, config.mapping, source.where)
    anchors = _residue_anchors(atoms)
    sample = _sample(reader, trajectories, anchors, config.quality)
    linked = chain_links(atoms, sample)
    ca = atoms.find("CA", 6)
    both = (ca[:-1] >= 0) & (ca[1:] >= 0)
    check_lengths(sample, consecutive(anchors, both & (np.diff(atoms.residue_numbers) == 1)), trajectories[0].where)
    bonds = find_bonds(atoms, sample)
    if config.force_map.kind in ("none", "slice") and not (atoms.atomic_numbers == 1).any():
        rigid = np.zeros((0, 2), np.int64)
    else:
        rigid = rigid_bonds(bonds, atoms.atomic_numbers, config.force_map.constraints, source.where)
    reduction = None
    if config.force_map.kind != "none":
        reduction = reduce_atoms(rigid_groups(rigid, atoms.n_atoms), beads.weights, source.where)
    return Structure(beads, anchors, linked, linked & both, bonds, joins(bonds, atoms, anchors), rigid, reduction)


def consecutive(anchors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return [n, 2] atoms: the anchors of chosen [n_residues - 1] bool residues, each with the next residue's."""
    return np.stack([anchors[:-1][chosen], anchors[1:][chosen]], axis=1)


def _residue_anchors(atoms: AtomTable) -> np.ndarray:
    """Return [n_residues] one atom per residue: its CA, or its first atom."""
    anchors = atoms.find("CA", 6)
    first = np.searchsorted(atoms.residues, np.arange(atoms.n_residues))
    return np.where(anchors >= 0, anchors, first)


def _sample(reader: Reader, trajectories: list[SourceTrajectory], anchors: np.ndarray, config: QualityConfig) -> np.ndarray:
    """Return a few readable frames [n, n_atoms, 3] of several trajectories; more of them are read only where those are broken."""
    spread = [trajectories[i] for i in sorted({round(x) for x in np.linspace(0, len(trajectories) - 1, SAMPLE_TRAJECTORIES)})]
    found: list[np.ndarray] = []
    for trajectory in spread:
        found += _readable(reader.source, trajectory, anchors, 0, reader.peek(trajectory, SAMPLE_FRAMES), config)
    for trajectory in trajectories if not found else []:
        for start in range(0, trajectory.n_frames, trajectory.block_frames):
            stop = min(start + trajectory.block_frames, trajectory.n_frames)
            block = reader.source.read(trajectory, start, stop, with_forces=reader.with_forces)
            found += _readable(reader.source, trajectory, anchors, start, block, config)[:SAMPLE_FRAMES]
            if found:
                return np.stack(found)
    if not found:
        raise UserError(
            f"{reader.source.where}: no usable frame: every one is non-finite, all zero or out of range; expected coordinates in angstrom: "
            "get the file again"
        )
    return np.stack(found)


def _readable(
    source: AtomSource,
    trajectory: SourceTrajectory,
    anchors: np.ndarray,
    start: int,
    block: tuple[np.ndarray, np.ndarray | None],
    config: QualityConfig,
) -> list[np.ndarray]:
    positions, forces = block
    readable = np.flatnonzero(unreadable(extent(positions), None if forces is None else extent(forces), config) < 0)
    return list(unwrap(positions[readable], source.atoms, anchors, trajectory.box_of(start + readable)))
