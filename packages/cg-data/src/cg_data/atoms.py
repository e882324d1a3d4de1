"""All-atom structures: who the atoms are, which residues follow one another, and whole molecules from periodic boxes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cg_data.errors import UserError

CAPS = frozenset({"ACE", "NME", "NMA", "NH2", "NHE", "FOR"})
"""Residue names of terminal caps: no residue of theirs becomes a bead."""

MAX_PEPTIDE_BOND_ANGSTROM = 2.0
"""A longer C-N distance between residues next to each other in the file is a missing loop."""


@dataclass(frozen=True)
class AtomTable:
    """The atoms of one domain, in file order.

    names [n_atoms] str; atomic_numbers [n_atoms] int; residues [n_atoms] int, the residue an atom belongs to, counted from 0;
    residue_names, residue_numbers, chains [n_residues]: name, number in the source, chain label; bonds [n, 2] int or None.
    """

    names: np.ndarray
    atomic_numbers: np.ndarray
    residues: np.ndarray
    residue_names: np.ndarray
    residue_numbers: np.ndarray
    chains: np.ndarray
    bonds: np.ndarray | None = None

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.names)

    @property
    def n_residues(self) -> int:
        """Number of residues, caps that are residues of their own included."""
        return len(self.residue_names)

    def find(self, name: str, atomic_number: int) -> np.ndarray:
        """Return [n_residues] int: the residue's last atom of exactly this name and element, -1 where it has none."""
        found = np.full(self.n_residues, -1)
        atoms = np.flatnonzero((self.names == name) & (self.atomic_numbers == atomic_number))
        found[self.residues[atoms]] = atoms
        return found


@dataclass(frozen=True, eq=False)
class SourceTrajectory:
    """One all-atom trajectory of a source.

    `where` names it in messages; `box` [3, 3] holds lattice vectors (rows) in angstrom, of the first frame where the box changes;
    `boxes` then returns those [n, 3, 3] of frames [n].
    """

    temperature_kelvin: float
    replica: int
    n_frames: int
    where: str
    has_forces: bool
    box: np.ndarray | None = None
    block_frames: int = 64
    boxes: Callable[[np.ndarray], np.ndarray] | None = None

    def box_of(self, frames: np.ndarray) -> np.ndarray | None:
        """Return the box of frames [n]: [3, 3] where it is the same in all, [n, 3, 3] where it changes, None where there is none."""
        return self.box if self.boxes is None else self.boxes(frames)


Buffers = tuple[np.ndarray, np.ndarray]
"""Arrays [n_frames, n_atoms, 3] float32 for positions and forces that a source may read into: memory that is already there."""


class AtomSource(Protocol):
    """All-atom data of one domain: mdCATH or any other format."""

    domain: str
    where: str
    atoms: AtomTable
    trajectories: tuple[SourceTrajectory, ...]
    notes: tuple[str, ...]

    def read(
        self, trajectory: SourceTrajectory, start: int, stop: int, into: Buffers | None = None, with_forces: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return positions and forces [stop - start, n_atoms, 3] float32 in angstrom and kcal/mol/angstrom, perhaps in buffers.

        Forces are None where there are none or they are not wanted.
        """
        ...

    def read_forces(self, trajectory: SourceTrajectory, start: int, stop: int) -> np.ndarray:
        """Return forces alone, as `read` does, of a trajectory that has them."""
        ...

    def series(self, trajectory: SourceTrajectory, name: str) -> np.ndarray:
        """Return [n_frames]: `gyration_radius_angstrom`, `helix_fraction` or `strand_fraction` of each frame."""
        ...


def make_atom_table(
    names: np.ndarray,
    atomic_numbers: np.ndarray,
    atom_residue_names: np.ndarray,
    atom_residue_numbers: np.ndarray,
    atom_chains: np.ndarray,
    bonds: np.ndarray | None = None,
    insertion_codes: np.ndarray | None = None,
) -> AtomTable:
    """Group atoms into residues: a residue ends where chain, number or insertion code changes. All arguments are [n_atoms]."""
    codes = np.zeros(len(names), "U1") if insertion_codes is None else insertion_codes
    starts = np.ones(len(names), bool)
    starts[1:] = (atom_residue_numbers[1:] != atom_residue_numbers[:-1]) | (atom_chains[1:] != atom_chains[:-1]) | (codes[1:] != codes[:-1])
    return AtomTable(
        names=names,
        atomic_numbers=np.asarray(atomic_numbers, np.int64),
        residues=np.cumsum(starts) - 1,
        residue_names=atom_residue_names[starts],
        residue_numbers=np.asarray(atom_residue_numbers[starts], np.int64),
        chains=atom_chains[starts],
        bonds=bonds,
    )


def parse_pdb_atoms(text: str, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return names, residue names, residue numbers and insertion codes [n_atoms] from the fixed columns of ATOM/HETATM lines."""
    lines = [line for line in text.splitlines() if line.startswith(("ATOM  ", "HETATM"))]
    try:
        numbers = np.array([int(line[22:26]) for line in lines], np.int64)
    except ValueError:
        raise UserError(f"{where}: a residue number (columns 23-26 of an ATOM line) is not an integer: repair the file") from None
    names = np.array([line[12:16].strip() for line in lines], str)
    residue_names = np.array([(line[17:21].split() or [""])[0] for line in lines], str)
    codes = np.array([line[26:27].strip() for line in lines], "U1")
    return names, residue_names, numbers, codes


def chain_links(atoms: AtomTable, positions: np.ndarray) -> np.ndarray:
    """Return [n_residues - 1] bool: residue i and i + 1 are neighbours along one unbroken chain.

    positions [n_samples, n_atoms, 3] angstrom, whole molecules. A change of chain label, a gap or a step back in numbering, or a
    median C-N distance above 2 angstrom, is a break.
    """
    carbon, nitrogen = atoms.find("C", 6), atoms.find("N", 7)
    step = np.diff(atoms.residue_numbers)
    linked = (atoms.chains[1:] == atoms.chains[:-1]) & ((step == 1) | (step == 0))
    both = (carbon[:-1] >= 0) & (nitrogen[1:] >= 0)
    gap = np.linalg.norm(positions[:, nitrogen[1:]] - positions[:, carbon[:-1]], axis=-1)
    return linked & both & (np.median(gap, axis=0) <= MAX_PEPTIDE_BOND_ANGSTROM)


def unwrap(positions: np.ndarray, atoms: AtomTable, anchors: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Return positions with molecules cut by the periodic box made whole.

    positions [n_frames, n_atoms, 3] angstrom; anchors [n_residues] one atom of each residue; box lattice vectors in angstrom, [3, 3]
    or of each frame [n_frames, 3, 3], or None. Each atom is brought to the image nearest to its residue's anchor, each anchor to the
    image nearest to the one before it. Frames that need nothing are returned unchanged, to the bit.
    """
    if box is None:
        return positions
    inverse = np.linalg.inv(box)
    anchored = positions[:, anchors]
    reach = max(
        (_reach(frame, frame_anchors, atoms.residues) for frame, frame_anchors in zip(positions, anchored, strict=True)), default=0.0
    )
    if reach * np.sqrt(3.0) < half_height(box):
        return positions
    steps = np.rint(np.diff(anchored, axis=1) @ inverse)
    anchor_shift = np.concatenate([np.zeros_like(steps[:, :1]), np.cumsum(steps, axis=1)], axis=1)
    shift = np.rint((positions - anchored[:, atoms.residues]) @ inverse) + anchor_shift[:, atoms.residues]
    if not shift.any():
        return positions
    return np.asarray(positions - shift @ box, positions.dtype)


def half_height(box: np.ndarray) -> float:
    """Return half the smallest distance between opposite faces of boxes [..., 3, 3]: nothing shorter can be cut by them."""
    return float(0.5 / np.linalg.norm(np.linalg.inv(box), axis=-2).max())


def by_atom(values: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """Return [n_atoms, 3 n_frames], values [n_frames, n_atoms, 3] in order of component, then frame: atoms become rows."""
    n_frames, n_atoms, _ = values.shape
    rows = np.empty((3 * n_atoms, n_frames), dtype)
    # Transposing single numbers is ten times as fast as moving triples about.
    rows[...] = values.reshape(n_frames, 3 * n_atoms).T
    return rows.reshape(n_atoms, 3 * n_frames)


def _reach(frame: np.ndarray, anchors: np.ndarray, residues: np.ndarray) -> float:
    """Return the largest component of any vector from an anchor to the next, or to an atom of its residue."""
    inside = anchors.take(residues, axis=0)
    inside -= frame
    return float(max(inside.max(), -inside.min(), np.abs(np.diff(anchors, axis=0)).max(initial=0.0)))
