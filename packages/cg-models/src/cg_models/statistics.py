"""Numbers of the training set that a model starts from."""

from collections.abc import Sequence

import numpy as np
import pydantic

from cg_data.configuration import Configuration
from cg_data.contracts import Array, BeadGraph


class ModelStatistics(Configuration):
    """What a fresh model is scaled by; kept in the bundle.

    avg_num_neighbors: mean number of edges that a bead receives at the cutoff; energy_scale: kcal/mol, the first standard
    deviation of a bead's energy; species_offsets: kcal/mol of each species, in the order of the species names, or None for zeros.
    """

    avg_num_neighbors: float = pydantic.Field(default=25.0, gt=0)
    energy_scale: float = pydantic.Field(default=1.0, gt=0)
    species_offsets: tuple[float, ...] | None = None


def average_neighbours(graphs: Sequence[BeadGraph], cutoff: float) -> float:
    """Return the mean number of edges shorter than `cutoff` angstrom that a bead receives, over flat graphs; at least 1."""
    edges = beads = 0
    for graph in graphs:
        positions = np.asarray(graph.positions)
        vectors = positions[np.asarray(graph.receivers)] - positions[np.asarray(graph.senders)]
        if graph.shifts is not None:
            vectors = vectors + np.asarray(graph.shifts)
        edges += int((((vectors**2).sum(-1) < cutoff**2) & np.asarray(graph.edge_mask)).sum())
        beads += int(np.sum(graph.bead_mask))
    return max(edges / max(beads, 1), 1.0)


def root_mean_square(forces: Sequence[Array]) -> float:
    """Return the rms of all force components, in kcal/mol/angstrom."""
    squares = sum(float((np.asarray(part, np.float64) ** 2).sum()) for part in forces)
    return float(np.sqrt(squares / max(sum(np.size(part) for part in forces), 1)))
