"""Forces of a bundle on the frames of a data set, streamed through one compiled program of fixed size, on one or several devices."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cg_data.contracts import BeadFrames, BeadGraph, Params, check_numbers
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
TERM = "term/"
"""What the names of energy terms begin with among `Forces`."""
AXIS = "batch"

Forces = dict[str, np.ndarray]
"""{part or term/NAME: [n_beads, 3] kcal/mol/A} of a frame, or with a leading [n_frames] axis of several frames of a domain."""


@dataclasses.dataclass(frozen=True)
class DomainForces:
    """Predicted forces {part or term/NAME: [n_frames, n_beads, 3] float32 kcal/mol/A} of frames of one domain."""

    domain: str
    frames: BeadFrames
    forces: Forces


def predict_forces(
    bundle: "Bundle",
    dataset: Dataset,
    chosen: Sequence[tuple[str, np.ndarray]],
    parts: Sequence["Part"],
    beads_per_batch: int = 1024,
    n_devices: int | None = None,
) -> Iterator[DomainForces]:
    """Yield the forces of parts of a bundle, and of their energy terms, on the chosen (domain, frame indices), in that order.

    Frames of all domains stream through one budget of beads and neighbours, so there is one compilation; where a bead turns
    out to have more neighbours than there is room for, the budget grows, and the growth is logged. Batches are spread over
    `n_devices` (all, by default) and the next ones are packed while they run. What is not asked for is not computed; only the
    frames of one entry of `chosen` are held at a time, and no other frame is read. Raises `UserError` naming a chosen frame whose
    numbers are not finite.
    """
    require(len(chosen) > 0, "forces: no frame chosen; choose another split or domain")
    results = _Stream(bundle, parts, n_devices, _plan(bundle, dataset, chosen, beads_per_batch)).forces(_graphs(bundle, dataset, chosen))
    for domain, indices in chosen:
        of_frames = [next(results) for _ in indices]
        forces: Forces = {name: np.stack([frame[name] for frame in of_frames]) for name in of_frames[0]}
        frames = dataset.frames(domain, numbers=False).select(indices)
        for name in ("forces", "force_error"):
            values = getattr(frames, name)
            for place, index in enumerate(indices if values is not None else ()):
                check_numbers(values[place : place + 1], name, f"{dataset.path}: {domain}", int(index))
        yield DomainForces(domain, frames, forces)


def dataset_species(bundle: "Bundle", dataset: Dataset, domains: Iterable[str]) -> np.ndarray:
    """Return [n_species] int32: the bundle's index of each of the data set's species that occurs in some domains, -1 for the others.

    Raises `UserError` naming a species of those domains' beads that the bundle does not know.
    """
    used = sorted({int(index) for domain in set(domains) for index in np.unique(dataset.frames(domain, numbers=False).species)})
    table = np.full(len(dataset.species_names), -1, np.int32)
    table[used] = bundle.species_index([dataset.species_names[index] for index in used])
    return table


def choose_devices(n_devices: int | None) -> list[Any]:
    """Return the first `n_devices` devices of JAX, or all; `UserError` where there are fewer."""
    import jax

    found = jax.local_devices()
    wanted = len(found) if n_devices is None else n_devices
    require(1 <= wanted <= len(found), f"devices: expected 1 to {len(found)}, as many as JAX found, received {wanted}: ask for fewer")
    return found[:wanted]


def _graphs(bundle: "Bundle", dataset: Dataset, chosen: Sequence[tuple[str, np.ndarray]]) -> Iterator[BeadGraph]:
    species = dataset_species(bundle, dataset, (domain for domain, _ in chosen))
    for domain, indices in chosen:
        frames = dataset.frames(domain, numbers=False)
        for index in indices:
            positions = np.asarray(frames.positions[index])
            check_numbers(positions[None], "positions", f"{dataset.path}: {domain}", int(index))
            yield frame_graph(
                positions,
                species[frames.species],
                frames.residue_index,
                frames.chain_index,
                bundle.cutoff_angstrom,
            )


def _plan(bundle: "Bundle", dataset: Dataset, chosen: Sequence[tuple[str, np.ndarray]], beads_per_batch: int) -> "Budget":
    from cg_models.graph import ROW_WIDTH, Budget, sizes

    n_beads = [dataset.frames(domain, numbers=False).n_beads for domain, _ in chosen]
    some = [(domain, indices[:: -(-len(indices) // FRAMES_LOOKED_AT)]) for domain, indices in chosen]
    per_bead = max(sizes(graph)["n_rows"] / graph.n_beads for graph in _graphs(bundle, dataset, some))
    total = sum(n * len(indices) for n, (_, indices) in zip(n_beads, chosen, strict=True))
    room = max([min(beads_per_batch, total), *n_beads])
    n_rows = int(np.ceil(NEIGHBOUR_MARGIN * per_bead * room)) + 1
    return Budget(
        n_beads=room,
        n_edges=n_rows * ROW_WIDTH,
        n_frames=room // min(n_beads) + 1,
        n_bonds=room,
        n_angles=room,
        n_dihedrals=room,
        n_rows=n_rows,
    )


class _Stream:
    """Holds the compiled program, its devices and its budget, which grows where beads have more neighbours."""

    def __init__(self, bundle: "Bundle", parts: Sequence["Part"], n_devices: int | None, budget: "Budget"):
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        devices = choose_devices(n_devices)
        mesh = Mesh(np.array(devices), (AXIS,))
        self.n_devices, self.budget = len(devices), budget
        self.sharding = NamedSharding(mesh, PartitionSpec(AXIS))
        self.params = jax.device_put(dict(bundle.params), NamedSharding(mesh, PartitionSpec()))
        self.compute = _compile(bundle, parts, mesh)

    def forces(self, graphs: Iterator[BeadGraph]) -> Iterator[Forces]:
        """Yield the forces of each graph; a round of batches, one per device, is packed while the one before runs."""
        running: tuple[list[list[BeadGraph]], Any] | None = None
        for batches in self._rounds(graphs):
            started = (batches, self._start(batches))
            if running is not None:
                yield from _unpack(*running)
            running = started
        if running is not None:
            yield from _unpack(*running)

    def _rounds(self, graphs: Iterator[BeadGraph]) -> Iterator[list[list[BeadGraph]]]:
        batches: list[list[BeadGraph]] = [[]]
        for graph in graphs:
            if sum(len(g.positions) for g in batches[-1]) + len(graph.positions) > self.budget.n_beads:
                if len(batches) == self.n_devices:
                    yield batches
                    batches = []
                batches.append([])
            batches[-1].append(graph)
        yield batches

    def _start(self, batches: Sequence[Sequence[BeadGraph]]) -> Any:
        """Return the results to come of one batch per device; where there are fewer batches, the last is computed again."""
        import jax

        from cg_models.graph import ROW_WIDTH, pack, sizes

        most = max(sum(sizes(graph)["n_rows"] for graph in batch) for batch in batches)
        if self.budget.n_rows is not None and most > self.budget.n_rows:
            logger.info("frames fill %d rows of edges, room was planned for %d: compiling again with more", most, self.budget.n_rows)
            more = int(np.ceil(NEIGHBOUR_MARGIN * most)) + 1
            self.budget = dataclasses.replace(self.budget, n_rows=more, n_edges=more * ROW_WIDTH)
        packed = [pack(batch, self.budget) for batch in batches]
        packed += [packed[-1]] * (self.n_devices - len(packed))
        together = jax.tree.map(lambda *leaves: np.stack(leaves), *packed)
        return self.compute(self.params, jax.device_put(together, self.sharding))


def _unpack(batches: Sequence[Sequence[BeadGraph]], results: Any) -> Iterator[Forces]:
    values = {name: np.asarray(array, np.float32) for name, array in results.items()}
    for number, graphs in enumerate(batches):
        first = 0
        for graph in graphs:
            last = first + len(graph.positions)
            yield {name: array[number, first:last] for name, array in values.items()}
            first = last


def _compile(bundle: "Bundle", parts: Sequence["Part"], mesh: Any) -> Callable[[Params, BeadGraph], dict[str, Any]]:
    """Return the compiled forces of parts and their terms; each term's gradient is taken once, and parts are sums of terms."""
    import jax
    from jax.sharding import PartitionSpec

    model = bundle.model
    both: tuple[Part, ...] = ("prior", "backbone")
    pieces = [name for name in both if name in model.parts and (name in parts or "full" in parts)]

    def of_one(params: Params, graph: BeadGraph) -> dict[str, Any]:
        terms = {piece: model.force_terms(params, graph, piece) for piece in pieces}
        sums = {piece: sum(forces.values(), jax.numpy.zeros_like(graph.positions)) for piece, forces in terms.items()}
        sums["full"] = sum(sums.values(), jax.numpy.zeros_like(graph.positions))
        return {part: sums[part] for part in parts} | {TERM + name: f for forces in terms.values() for name, f in forces.items()}

    def of_device(params: Params, graphs: BeadGraph) -> dict[str, Any]:
        found = of_one(params, jax.tree.map(lambda leaf: leaf[0], graphs))
        return {name: forces[None] for name, forces in found.items()}

    over = PartitionSpec(AXIS)
    return jax.jit(jax.shard_map(of_device, mesh=mesh, in_specs=(PartitionSpec(), over), out_specs=over, check_vma=False))


class Pace:
    """Says now and then in the log how far a long evaluation is; for where no progress bar is drawn."""

    def __init__(self, what: str, total: int, first: int = 0, every_seconds: float = 10.0):
        self.what, self.total, self.first, self.every = what, total, first, every_seconds
        self.began = self.last = time.monotonic()

    def show(self, done: int) -> None:
        """Log where `done` of the total stand, at most once per interval, with the time left at this pace."""
        now = time.monotonic()
        if now - self.last >= self.every and self.first < done < self.total:
            self.last = now
            left = (now - self.began) * (self.total - done) / (done - self.first)
            logger.info("%s: %d of %d, about %.0f s left", self.what, done, self.total, left)
