"""Who is bonded to whom, and who is near whom, in one frame of beads."""

import numpy as np
from scipy.spatial import cKDTree

from cg_data.contracts import Array, BeadGraph


def bonded_tuples(residue_index: Array, chain_index: Array, size: int) -> np.ndarray:
    """Return the runs of `size` consecutive residues of one segment.

    residue_index, chain_index [n_beads] int32; the order of beads in the array does not matter. Returns [n, size] int32 bead
    indices, ordered by segment and residue: bonds (size 2), angles (3), dihedrals (4). A chain break, which is a new
    chain_index or a gap in residue_index, is never crossed.
    """
    residue_index, chain_index = np.asarray(residue_index), np.asarray(chain_index)
    order = np.lexsort((residue_index, chain_index)).astype(np.int32)
    if len(order) < size:
        return np.zeros((0, size), np.int32)
    linked = (np.diff(residue_index[order]) == 1) & (np.diff(chain_index[order]) == 0)
    runs = np.lib.stride_tricks.sliding_window_view(order, size)
    whole = np.lib.stride_tricks.sliding_window_view(linked, size - 1).all(axis=1)
    return np.ascontiguousarray(runs[whole])


def neighbour_edges(positions: Array, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (senders, receivers), each [n_edges] int32: every ordered pair closer than `cutoff` angstrom in free space.

    positions [n_beads, 3] angstrom. Edges are sorted by receiver, then sender, so equal inputs give equal edges.
    """
    pairs = cKDTree(np.asarray(positions, np.float64)).query_pairs(cutoff, output_type="ndarray")
    senders = np.concatenate([pairs[:, 0], pairs[:, 1]])
    receivers = np.concatenate([pairs[:, 1], pairs[:, 0]])
    order = np.lexsort((senders, receivers))
    return senders[order].astype(np.int32), receivers[order].astype(np.int32)


def periodic_edges(positions: Array, cutoff: float, cell: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (senders, receivers [n_edges] int32, shifts [n_edges, 3] float64 angstrom): every ordered pair of images closer than
    `cutoff` angstrom in a periodic cell.

    positions [n_beads, 3] angstrom, inside the cell or not; cell [3, 3], rows are its vectors, of any shape and size: a bead sees
    images of itself where the cutoff reaches them. The vector of an edge is positions[receiver] - positions[sender] + shift.
    """
    positions, cell = np.asarray(positions, np.float64), np.asarray(cell, np.float64)
    inverse = np.linalg.inv(cell)
    wraps = np.floor(positions @ inverse)
    wrapped = positions - wraps @ cell
    # As many cells each way as the cutoff spans, in units of the distance between opposite faces.
    reach = np.ceil(cutoff * np.linalg.norm(inverse, axis=0)).astype(int)
    images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 3)
    copies = (wrapped[None] + (images @ cell)[:, None]).reshape(-1, 3)
    near = (copies > wrapped.min(axis=0) - cutoff).all(axis=1) & (copies < wrapped.max(axis=0) + cutoff).all(axis=1)
    kept = np.flatnonzero(near)
    found = cKDTree(wrapped).query_ball_tree(cKDTree(copies[kept]), cutoff)
    receivers = np.repeat(np.arange(len(positions)), [len(row) for row in found])
    image, senders = np.divmod(kept[np.concatenate([np.asarray(row, np.int64) for row in found])], len(positions))
    moved = images[image]
    itself = (senders == receivers) & (moved == 0).all(axis=1)
    senders, receivers, moved = senders[~itself], receivers[~itself], moved[~itself]
    order = np.lexsort((*moved.T, senders, receivers))
    senders, receivers, moved = senders[order], receivers[order], moved[order]
    shifts = (wraps[senders] - wraps[receivers] - moved) @ cell
    return senders.astype(np.int32), receivers.astype(np.int32), shifts


def frame_graph(positions: Array, species: Array, residue_index: Array, chain_index: Array, cutoff: float) -> BeadGraph:
    """Return the unpadded `BeadGraph` of one frame in free space.

    positions [n_beads, 3] angstrom; species, residue_index, chain_index [n_beads] int32; cutoff in angstrom.
    """
    n_beads = len(species)
    senders, receivers = neighbour_edges(positions, cutoff)
    bonds, angles, dihedrals = (bonded_tuples(residue_index, chain_index, size) for size in (2, 3, 4))
    return BeadGraph(
        positions=positions,
        species=np.asarray(species, np.int32),
        residue_index=np.asarray(residue_index, np.int32),
        chain_index=np.asarray(chain_index, np.int32),
        frame=np.zeros(n_beads, np.int32),
        bead_mask=np.ones(n_beads, bool),
        senders=senders,
        receivers=receivers,
        edge_mask=np.ones(len(senders), bool),
        bonds=bonds,
        bond_mask=np.ones(len(bonds), bool),
        angles=angles,
        angle_mask=np.ones(len(angles), bool),
        dihedrals=dihedrals,
        dihedral_mask=np.ones(len(dihedrals), bool),
    )
