"""Frames with forces, thinned, as arrays that force matching reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cg_data.contracts import BeadFrames, BeadGraph
from cg_data.errors import require
from cg_data.topology import bonded_tuples
from cg_priors.energy import TERM_KINDS
from cg_priors.geometry import feature_gradient, steps
from cg_priors.histogram import trajectory_blocks
from cg_priors.keys import KEY_COLUMNS
from cg_priors.parameters import BONDED, Term


@dataclass(frozen=True)
class ForceFrames:
    """Frames of one domain.

    positions, forces [n_frames, n_beads, 3] float64; block [n_frames]; weight [n_frames] of each frame's squared errors; graph:
    all pairs, frame 0.
    """

    positions: np.ndarray
    forces: np.ndarray
    block: np.ndarray
    weight: np.ndarray
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
        require(
            bool(np.isfinite(positions).all() and np.isfinite(forces).all()),
            "force matching: expected finite positions and forces, received others: find the frame with cg-data verify and remove it",
        )
        weight = np.ones(len(positions)) if item.weight is None else np.asarray(item.weight[::stride], np.float64)
        chosen.append(ForceFrames(positions, forces, block[::stride], weight, all_pairs_graph(item, positions[0])))
    return chosen


def term_tuples(name: str, lookup: np.ndarray, graph: BeadGraph) -> tuple[np.ndarray, np.ndarray]:
    """Return a term's tuples [n, width], each pair once, and their rows [n] (`lookup`: see `keys.row_lookup`)."""
    tuples, mask = (np.asarray(some) for some in TERM_KINDS[name].tuples(graph))
    tuples = tuples[mask]
    if name not in BONDED:
        tuples = tuples[tuples[:, 0] < tuples[:, 1]]
    return tuples, lookup[tuple(graph.species[tuples[:, k]] for k in KEY_COLUMNS[name])]


def term_features(
    name: str, term: Term, positions: np.ndarray, tuples: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a term's coordinates over frames, positions [n_frames, n_beads, 3], pairs beyond the cutoff left out.

    Beads [n, width], counted through all frames; rows [n]; coordinates x [n]; dx/dr [n, width, 3].
    """
    n_frames, n_beads, _ = positions.shape
    beads = (tuples + n_beads * np.arange(n_frames)[:, None, None]).reshape(-1, tuples.shape[1])
    rows = np.tile(rows, n_frames)
    points = positions.reshape(-1, 3)[beads]
    if name not in BONDED:
        near = np.linalg.norm(points[:, 1] - points[:, 0], axis=1) < term.settings["cutoff"]
        beads, rows, points = beads[near], rows[near], points[near]
    return beads, rows, TERM_KINDS[name].feature(*steps(points)), feature_gradient(points)


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
