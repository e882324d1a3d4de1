"""Covalent bonds, rigid bonds, and groups of atoms held together by them."""

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from cg_data.atoms import AtomTable
from cg_data.errors import UserError

COVALENT_RADIUS_ANGSTROM = {1: 0.31, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57, 15: 1.07, 16: 1.05, 34: 1.20}
"""Cordero et al., Dalton Trans. 2008, 2832."""
BOND_TOLERANCE = 1.25
RIGID_DEVIATION_ANGSTROM = 1e-2
"""Standard deviation below which a bond length counts as constant: coordinates from XTC are rounded to 0.01 angstrom."""
MIN_DETECTOR_FRAMES = 100
MAX_DETECTOR_FRAMES = 400
"""Frames the constraint detector needs, and is satisfied with."""
ATOMS_TOGETHER = 16_384
BOND_SAMPLES = 5
"""Frames in which bonds are looked for by distance."""


def find_bonds(atoms: AtomTable, positions: np.ndarray) -> np.ndarray:
    """Return [n, 2] int64 covalent bonds, first atom below second: those of the source, or else from distances.

    positions [n_samples, n_atoms, 3] angstrom, whole molecules. From distances, a bond is a pair closer than 1.25 times the sum of
    the covalent radii in most samples, and a hydrogen has one bond, to its nearest heavy atom.
    """
    if atoms.bonds is not None:
        return np.unique(np.sort(atoms.bonds, axis=1), axis=0)
    radii = np.array([COVALENT_RADIUS_ANGSTROM.get(int(z), 1.0) for z in atoms.atomic_numbers])
    reach = 2 * BOND_TOLERANCE * radii.max()
    sample = positions[:: max(1, len(positions) // BOND_SAMPLES)]
    found = np.concatenate([_close_pairs(frame, radii, atoms.atomic_numbers, reach) for frame in sample])
    bonds, votes = np.unique(found, axis=0, return_counts=True)
    return np.asarray(bonds[2 * votes > len(sample)], np.int64)


def rigid_bonds(bonds: np.ndarray, atomic_numbers: np.ndarray, constraints: str, where: str) -> np.ndarray:
    """Return the bonds [n, 2] the simulation held rigid: those to hydrogen (`h-bonds`), or `none`.

    Raises `UserError` where hydrogens are needed and there are none, or one is bonded to nothing.
    """
    hydrogens = np.flatnonzero(atomic_numbers == 1)
    if len(hydrogens) == 0:
        raise UserError(
            f"{where}: no hydrogen atoms; a force map needs all atoms: take the file with hydrogens, or ask for force_map.kind=slice"
        )
    loose = np.setdiff1d(hydrogens, bonds)
    if len(loose):
        raise UserError(f"{where}: hydrogen atom {loose[0] + 1} is bonded to nothing; expected one bond for each: repair the structure")
    return bonds[(atomic_numbers[bonds] == 1).any(axis=1)] if constraints == "h-bonds" else np.zeros((0, 2), np.int64)


def rigid_groups(rigid: np.ndarray, n_atoms: int) -> csr_array:
    """Return [n_groups, n_atoms] sparse float64 with a 1 where an atom belongs to a group joined by rigid bonds."""
    graph = coo_array((np.ones(len(rigid)), (rigid[:, 0], rigid[:, 1])), shape=(n_atoms, n_atoms))
    n_groups, group = connected_components(graph, directed=False)
    return csr_array((np.ones(n_atoms), (group, np.arange(n_atoms))), shape=(n_groups, n_atoms))


def joins(bonds: np.ndarray, atoms: AtomTable, anchors: np.ndarray) -> bool:
    """Return whether bonds [n, 2] lead from each atom to its residue's anchor [n_residues]."""
    graph = coo_array((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(atoms.n_atoms, atoms.n_atoms))
    component = connected_components(graph, directed=False)[1]
    return bool((component == component[anchors][atoms.residues]).all())


class BondStatistics:
    """Mean and variance of bond lengths over frames, as a check of the constraints assumed."""

    def __init__(self, bonds: np.ndarray):
        self.bonds = bonds
        self.n_frames = 0
        self._sum = np.zeros(len(bonds))
        self._square = np.zeros(len(bonds))
        self._reference: np.ndarray | None = None

    @property
    def n_wanted(self) -> int:
        """Number of further frames that would be counted."""
        return MAX_DETECTOR_FRAMES - self.n_frames

    def add(self, lengths: np.ndarray) -> None:
        """Add bond lengths [n_frames, n_bonds] in angstrom."""
        lengths = lengths[: self.n_wanted]
        if len(lengths) == 0:
            return
        if self._reference is None:
            # Deviations from one frame keep the difference of squares free of cancellation.
            self._reference = lengths[0].astype(np.float64)
        deviation = lengths - self._reference
        self.n_frames += len(deviation)
        self._sum += deviation.sum(axis=0)
        self._square += (deviation**2).sum(axis=0)

    def deviations(self) -> np.ndarray:
        """Return [n_bonds] standard deviations in angstrom."""
        mean = self._sum / self.n_frames
        return np.sqrt(np.maximum(self._square / self.n_frames - mean**2, 0.0))

    def disagreements(self, rigid: np.ndarray) -> str:
        """Return one line on bonds whose fluctuation contradicts the constraints assumed; empty where there are none."""
        if self.n_frames < MIN_DETECTOR_FRAMES:
            return ""
        assumed = np.isin(self.bonds[:, 0] * 2**32 + self.bonds[:, 1], rigid[:, 0] * 2**32 + rigid[:, 1])
        constant = self.deviations() < RIGID_DEVIATION_ANGSTROM
        loose, stiff = int((assumed & ~constant).sum()), int((~assumed & constant).sum())
        if not loose and not stiff:
            return ""
        return f"constraints: {loose} of {int(assumed.sum())} bonds assumed rigid fluctuate; {stiff} bonds assumed flexible are constant"


class BondLengths:
    """Lengths of the same bonds in block after block of frames.

    Nearly every atom has one bond to an atom before it in the file: these are looked up for all atoms at once, a few frames at a
    time so that everything stays in the processor's cache. The bonds that are left (rings, disulfides) follow in further columns.
    """

    def __init__(self, bonds: np.ndarray, n_atoms: int):
        first, second = np.sort(bonds, axis=1).T
        _, single = np.unique(second, return_index=True)
        left = np.setdiff1d(np.arange(len(bonds)), single)
        before = np.arange(n_atoms)
        before[second[single]] = first[single]
        self._left = bonds[left]
        self._columns = np.empty(len(bonds), np.int64)
        self._columns[single], self._columns[left] = second[single], n_atoms + np.arange(len(left))
        self._n_together = max(1, ATOMS_TOGETHER // n_atoms)
        frame = np.arange(self._n_together)[:, None, None] * n_atoms
        self._components = (3 * (frame + before[:, None]) + np.arange(3)).ravel()

    def squares(self, positions: np.ndarray) -> np.ndarray:
        """Return squared lengths [n_frames, n_atoms + n_left] in positions [n_frames, n_atoms, 3]; zero where an atom has no bond."""
        n_frames, n_atoms, _ = positions.shape
        squares = np.empty((n_frames, n_atoms + len(self._left)), positions.dtype)
        buffer = np.empty(len(self._components), positions.dtype)
        for start in range(0, n_frames, self._n_together):
            frames = positions[start : start + self._n_together].ravel()
            vectors = buffer[: len(frames)]
            # Every index is valid; without the mode, NumPy would look through a copy of the result.
            np.take(frames, self._components[: len(frames)], out=vectors, mode="clip")
            vectors -= frames
            vectors *= vectors
            x, y, z = vectors.reshape(-1, n_atoms, 3).transpose(2, 0, 1)
            square = squares[start : start + self._n_together, :n_atoms]
            np.add(x, y, out=square)
            square += z
        squares[:, n_atoms:] = distances(positions, self._left) ** 2
        return squares

    def of_bonds(self, squares: np.ndarray) -> np.ndarray:
        """Return lengths [n_frames, n_bonds] in angstrom, in the order of the bonds, of what `squares` returned."""
        return np.sqrt(squares[:, self._columns])


def distances(positions: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return [n_frames, n_pairs] distances in angstrom of pairs [n_pairs, 2] in positions [n_frames, n_atoms, 3]."""
    vectors = positions.take(pairs[:, 0], axis=1) - positions.take(pairs[:, 1], axis=1)
    return np.asarray(np.sqrt(np.einsum("fpx,fpx->fp", vectors, vectors)))


def along_chain(positions: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return [n_frames, n - 1] distances in angstrom from each of the atoms anchors [n] to the next."""
    vectors = np.diff(positions.take(anchors, axis=1), axis=1)
    return np.asarray(np.sqrt(np.einsum("fpx,fpx->fp", vectors, vectors)))


def _close_pairs(frame: np.ndarray, radii: np.ndarray, atomic_numbers: np.ndarray, reach: float) -> np.ndarray:
    pairs = cKDTree(frame).query_pairs(reach, output_type="ndarray")
    distances = np.linalg.norm(frame[pairs[:, 0]] - frame[pairs[:, 1]], axis=1)
    with_hydrogen = (atomic_numbers[pairs] == 1).sum(axis=1)
    near = distances < BOND_TOLERANCE * radii[pairs].sum(axis=1)
    heavy = pairs[near & (with_hydrogen == 0)]
    light, light_distances = pairs[with_hydrogen == 1], distances[with_hydrogen == 1]
    light, light_distances = light[light_distances < 1.6], light_distances[light_distances < 1.6]
    hydrogen = np.where(atomic_numbers[light[:, 0]] == 1, light[:, 0], light[:, 1])
    order = np.lexsort((light_distances, hydrogen))
    _, first = np.unique(hydrogen[order], return_index=True)
    return np.sort(np.concatenate([heavy, light[order][first]]), axis=1)
