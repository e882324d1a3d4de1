"""Forces of a bundle on the frames of a data set, streamed through one compiled program of fixed size."""

import dataclasses
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cg_data.contracts import BeadFrames, BeadGraph, Params
from cg_data.errors import require
from cg_data.store import Dataset
from cg_data.topology import frame_graph

if TYPE_CHECKING:
    from cg_models.bundle import Bundle
    from cg_models.graph import Budget
    from cg_models.hybrid import Part

logger = logging.getLogger("cg_eval")

NEIGHBOUR_MARGIN = 1.1
"""Room for neighbours of a bead, over the most among the frames looked at to plan the budget."""
FRAMES_LOOKED_AT = 8

Forces = dict[str, np.ndarray]
"""{part: [n_beads, 3] kcal/mol/A} of a frame, or with a leading [n_frames] axis of a domain."""


@dataclasses.dataclass(frozen=True)
class DomainForces:
    """Predicted forces {part: [n_frames, n_beads, 3] float32 kcal/mol/A} of frames of one domain."""

    domain: str
    frames: BeadFrames
    forces: Forces


def predict_forces(
    bundle: "Bundle", dataset: Dataset, chosen: Sequence[tuple[str, np.ndarray]], parts: Sequence["Part"], beads_per_batch: int = 1024
) -> Iterator[DomainForces]:
    """Yield the forces of each part of a bundle on the chosen (domain, frame indices), in that order.

    Frames of all domains stream through one budget of beads and neighbours, so there is one compilation; where a bead turns
    out to have more neighbours than there is room for, the budget grows, and the growth is logged. A part that is not asked
    for is not computed.
    """
    require(len(chosen) > 0, "forces: no frame chosen; choose another split or domain")
    results = _in_batches(bundle, _graphs(bundle, dataset, chosen), _plan(bundle, dataset, chosen, beads_per_batch), parts)
    for domain, indices in chosen:
        of_frames = [next(results) for _ in indices]
        forces: Forces = {part: np.stack([frame[part] for frame in of_frames]) for part in parts}
        yield DomainForces(domain, dataset.frames(domain).select(indices), forces)


def dataset_species(bundle: "Bundle", dataset: Dataset) -> np.ndarray:
    """Return [n_species] int32: the bundle's index of each of the data set's species that occurs in it, -1 for the others.

    Raises `UserError` naming a species of the data set's beads that the bundle does not know.
    """
    used = sorted({int(index) for domain in dataset.domains for index in np.unique(dataset.frames(domain).species)})
    table = np.full(len(dataset.species_names), -1, np.int32)
    table[used] = bundle.species_index([dataset.species_names[index] for index in used])
    return table


def _graphs(bundle: "Bundle", dataset: Dataset, chosen: Sequence[tuple[str, np.ndarray]]) -> Iterator[BeadGraph]:
    species = dataset_species(bundle, dataset)
    for domain, indices in chosen:
        frames = dataset.frames(domain)
        for index in indices:
            yield frame_graph(
                np.asarray(frames.positions[index]),
                species[frames.species],
                frames.residue_index,
                frames.chain_index,
                bundle.cutoff_angstrom,
            )


def _plan(bundle: "Bundle", dataset: Dataset, chosen: Sequence[tuple[str, np.ndarray]], beads_per_batch: int) -> "Budget":
    from cg_models.graph import Budget, sizes

    n_beads = [dataset.frames(domain).n_beads for domain, _ in chosen]
    some = [(domain, indices[:: -(-len(indices) // FRAMES_LOOKED_AT)]) for domain, indices in chosen]
    most = max(sizes(graph)["n_neighbours"] for graph in _graphs(bundle, dataset, some))
    room = max([beads_per_batch, *n_beads])
    n_neighbours = int(np.ceil(NEIGHBOUR_MARGIN * most)) + 1
    return Budget(
        n_beads=room,
        n_edges=room * n_neighbours,
        n_frames=room // min(n_beads) + 1,
        n_bonds=room,
        n_angles=room,
        n_dihedrals=room,
        n_neighbours=n_neighbours,
    )


def _in_batches(bundle: "Bundle", graphs: Iterator[BeadGraph], budget: "Budget", parts: Sequence["Part"]) -> Iterator[Forces]:
    compute = _compile(bundle, parts)
    waiting: list[BeadGraph] = []
    for graph in graphs:
        if sum(len(g.positions) for g in waiting) + len(graph.positions) > budget.n_beads:
            budget = yield from _run(compute, bundle.params, waiting, budget)
            waiting = []
        waiting.append(graph)
    yield from _run(compute, bundle.params, waiting, budget)


def _run(
    compute: Callable[[Params, BeadGraph], dict[str, Any]], params: Params, graphs: Sequence[BeadGraph], budget: "Budget"
) -> Generator[Forces, None, "Budget"]:
    """Yield the forces of each graph; return the budget, larger where a bead had too many neighbours."""
    from cg_models.graph import pack, sizes

    most = max(sizes(graph)["n_neighbours"] for graph in graphs)
    if budget.n_neighbours is not None and most > budget.n_neighbours:
        logger.info("a bead has %d neighbours, room was planned for %d: compiling again with more", most, budget.n_neighbours)
        more = int(np.ceil(NEIGHBOUR_MARGIN * most)) + 1
        budget = dataclasses.replace(budget, n_neighbours=more, n_edges=budget.n_beads * more)
    forces = {part: np.asarray(values, np.float32) for part, values in compute(params, pack(graphs, budget)).items()}
    first = 0
    for graph in graphs:
        last = first + len(graph.positions)
        yield {part: values[first:last] for part, values in forces.items()}
        first = last
    return budget


def _compile(bundle: "Bundle", parts: Sequence["Part"]) -> Callable[[Params, BeadGraph], dict[str, Any]]:
    import jax

    from cg_models.forces import energy_and_forces

    functions = {part: energy_and_forces(bundle.energy_fn(part)) for part in parts}

    @jax.jit
    def compute(params: Params, graph: BeadGraph) -> dict[str, Any]:
        return {part: function(params, graph)[1] for part, function in functions.items()}

    return compute
