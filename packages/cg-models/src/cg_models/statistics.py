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


def species_offsets(graphs: Sequence[BeadGraph], energies: Sequence[float] | Array, n_species: int) -> tuple[float, ...]:
    """Return the energies of species, kcal/mol, whose sums over the beads are nearest to the frames' energies.

    graphs: one frame each; energies [n_frames] kcal/mol, NaN for a frame without. Least squares over compositions; where these do
    not determine all species (one molecule alone never does), the solution of least norm; zero for a species that no frame has.
    """
    values = np.asarray(energies, np.float64)
    counts = [np.bincount(np.asarray(graph.species)[np.asarray(graph.bead_mask)], minlength=n_species) for graph in graphs]
    known = ~np.isnan(values)
    found = np.linalg.lstsq(np.asarray(counts, np.float64)[known], values[known], rcond=None)[0]
    return tuple(float(value) for value in found)


def measure_statistics(
    graphs: Sequence[BeadGraph], forces: Sequence[Array], cutoff: float, n_species: int, energies: Sequence[float] | Array | None = None
) -> ModelStatistics:
    """Return what a fresh model is scaled by, from unpadded training frames.

    forces: of each graph, [n_beads, 3] kcal/mol/angstrom; their rms, over one angstrom, is the energy scale. cutoff: angstrom, of
    the backbone. energies [n_frames] kcal/mol, NaN for a frame without, give the species offsets. `match_force_scale` then sets the
    scale of a particular network exactly.
    """
    return ModelStatistics(
        avg_num_neighbors=average_neighbours(graphs, cutoff),
        energy_scale=root_mean_square(forces) or 1.0,
        species_offsets=None if energies is None else species_offsets(graphs, energies, n_species),
    )


def root_mean_square(forces: Sequence[Array]) -> float:
    """Return the rms of all force components, in kcal/mol/angstrom."""
    squares = sum(float((np.asarray(part, np.float64) ** 2).sum()) for part in forces)
    return float(np.sqrt(squares / max(sum(np.size(part) for part in forces), 1)))
