"""Frames with forces, thinned, as arrays that force matching reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cg_data.contracts import BeadFrames, BeadGraph
from cg_data.errors import require
from cg_data.topology import bonded_tuples
from cg_priors.histogram import trajectory_blocks


@dataclass(frozen=True)
class ForceFrames:
    """Frames of one domain: positions, forces [n_frames, n_beads, 3] float64; block [n_frames]; graph: all pairs, frame 0."""

    positions: np.ndarray
    forces: np.ndarray
    block: np.ndarray
    graph: BeadGraph


def force_frames(frames: Sequence[BeadFrames], max_frames: int) -> list[ForceFrames]:
    """Return at most about `max_frames` evenly spaced frames of all domains; `UserError` where forces are missing."""
    total = sum(item.n_frames for item in frames)
    stride = max(1, -(-total // max_frames))
    chosen = []
    for item, block in zip(frames, trajectory_blocks(frames), strict=True):
        require(
            item.forces is not None,
            "force matching: expected frames with forces, received none: use method=boltzmann or prepare the data with forces",
        )
        positions, forces = (np.asarray(value[::stride], np.float64) for value in (item.positions, item.forces))
        chosen.append(ForceFrames(positions, forces, block[::stride], all_pairs_graph(item, positions[0])))
    return chosen


def all_pairs_graph(item: BeadFrames, positions: np.ndarray) -> BeadGraph:
    """Return the graph of one frame with an edge between any two beads, so that it holds for every frame of the domain."""
    n_beads = item.n_beads
    receivers, senders = np.nonzero(~np.eye(n_beads, dtype=bool))
    tuples = [bonded_tuples(item.residue_index, item.chain_index, size) for size in (2, 3, 4)]
    return BeadGraph(
        positions=positions,
        species=np.asarray(item.species, np.int32),
        residue_index=np.asarray(item.residue_index, np.int32),
        chain_index=np.asarray(item.chain_index, np.int32),
        frame=np.zeros(n_beads, np.int32),
        bead_mask=np.ones(n_beads, bool),
        senders=senders.astype(np.int32),
        receivers=receivers.astype(np.int32),
        edge_mask=np.ones(len(senders), bool),
        **{name: value for name, value in zip(("bonds", "angles", "dihedrals"), tuples, strict=True)},
        **{f"{name}_mask": np.ones(len(value), bool) for name, value in zip(("bond", "angle", "dihedral"), tuples, strict=True)},
    )
