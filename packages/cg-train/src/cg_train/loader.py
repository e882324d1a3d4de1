"""From the order of frames to packed batches: shards of equal work, a few fixed shapes, made ahead in threads."""

import contextlib
import dataclasses
import heapq
import operator
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from cg_data.contracts import Array, BeadGraph, contract
from cg_models.graph import ROW_WIDTH, Budget, least_padding_cuts, pack
from cg_train.frames import GraphSource
from cg_train.order import SampleOrder

Item = TypeVar("Item")

PLANNED_STEPS = 10_000
"""Batches looked at ahead when budgets are planned."""
COMPARED_BATCHES = 1000
"""Of them, how many at most, evenly spaced in size, decide where the shapes lie."""
ROWS = -1
"""Place of the rows of edges among what a shard needs."""
LEAST_SAVING = 0.05
"""Share of the padded rows of edges that another shape must save: it is compiled for minutes, and saves for days."""

MASKS = ("bead_mask", "edge_mask", "bond_mask", "angle_mask", "dihedral_mask")


@contract
class Batch:
    """What one step learns from. Every array has leading axes [n_parts, n_devices], written `...`.

    graph           packed graphs
    forces          [..., n_beads, 3] kcal/mol/angstrom, what the energy's negative gradient should be; zero for padding
    weights         [..., n_beads], each bead's weight in the loss; zero for padding
    energies        [..., n_frames] kcal/mol, what the energies of a frame's beads should add up to
    energy_weights  [..., n_frames]; zero for padding and for frames without an energy
    stress          [..., n_frames, 6] kcal/mol/angstrom^3, xx yy zz yz xz xy
    stress_weights  [..., n_frames]; zero for padding and for frames without stress
    volumes         [..., n_frames] angstrom^3 of the cell; 1 without
    stop            [...], above zero where the device's process was asked to stop
    """

    graph: BeadGraph
    forces: Array
    weights: Array
    energies: Array
    energy_weights: Array
    stress: Array
    stress_weights: Array
    volumes: Array
    stop: Array


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How a batch is divided: into `n_parts` one after the other, each over `n_devices`, of which some are local.

    local is the range of devices, by place in the mesh, that belong to this process.
    """

    n_parts: int
    n_devices: int
    local: range

    @property
    def n_shards(self) -> int:
        """Number of packed graphs of a batch."""
        return self.n_parts * self.n_devices


@dataclasses.dataclass(frozen=True)
class Example:
    """One frame ready to be packed.

    forces [n_beads, 3]: targets; force_weights [n_beads], beside `weight`, the frame's; energy (NaN: none), kcal/mol;
    stress [6] kcal/mol/angstrom^3 (None: none) in a cell of `volume`, angstrom^3.
    """

    graph: BeadGraph
    forces: np.ndarray
    weight: float = 1.0
    force_weights: np.ndarray | float = 1.0
    energy: float = float("nan")
    stress: np.ndarray | None = None
    volume: float = 1.0


def assign_shards(loads: Sequence[float], n_shards: int) -> list[list[int]]:
    """Return, per shard, the places of its frames: as even in number as possible, then in load.

    Heavy frames go first, each to the lightest shard that still has room; ties go to the lower number, so the outcome
    depends on the loads alone.
    """
    room = -(-len(loads) // n_shards)
    shards: list[list[int]] = [[] for _ in range(n_shards)]
    # A heap: with hundreds of devices, to look at every shard for every frame takes longer than the step.
    with_room = [(0.0, shard) for shard in range(n_shards)]
    for place in sorted(range(len(loads)), key=lambda i: (-loads[i], i)):
        total, shard = with_room[0]
        shards[shard].append(place)
        if len(shards[shard]) < room:
            heapq.heapreplace(with_room, (total + loads[place], shard))
        else:
            heapq.heappop(with_room)
    return shards


def shard_samples(source: GraphSource, samples: Sequence[int], n_shards: int) -> list[list[int]]:
    """Return the samples of each shard."""
    loads = [float(source.table.n_beads[source.table.domain[s]]) for s in samples]
    return [[int(samples[place]) for place in places] for places in assign_shards(loads, n_shards)]


def plan_run_budgets(
    source: GraphSource, batches: Sequence[Sequence[int]], n_shards: int, margin: float, most_shapes: int = 1
) -> tuple[Budget, ...]:
    """Return the budgets of one shard that all `batches` (lists of samples) fit, each with room for all that the one before has.

    All shards of a batch have one shape, the first of these that its largest shards fit. The number of shapes grows up to
    `most_shapes` while each saves enough padding.
    """
    needs = np.array([_largest_shards(source, shard_samples(source, samples, n_shards)) for samples in batches])
    needs = needs[np.argsort(needs[:, ROWS], kind="stable")]
    compared = needs[np.linspace(0, len(needs) - 1, min(len(needs), COMPARED_BATCHES)).round().astype(int), ROWS]
    chosen, padded = needs[-1:], np.inf
    for n_shapes in range(1, min(most_shapes, len(compared)) + 1):
        runs = np.split(compared, least_padding_cuts(compared, n_shapes))
        rows = sum(int(run[-1]) * len(run) for run in runs)
        if rows >= (1 - LEAST_SAVING) * padded:
            break
        padded = rows
        ends = np.searchsorted(needs[:, ROWS], [run[-1] for run in runs], side="right")
        chosen = np.array([needs[:end].max(axis=0) for end in ends])
    return tuple(dict.fromkeys(_with_room(need, margin) for need in chosen))


def _largest_shards(source: GraphSource, shards: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the most beads, bonds, angles, dihedrals, frames and rows of edges of any shard, [6].

    Rows are an estimate from sampled frames, the others are exact.
    """
    needs = source.needs
    of_shards = [needs[source.table.domain[np.asarray(shard, np.int64)]].sum(axis=0) for shard in shards]
    *exact, rows = np.max(of_shards, axis=0)
    return np.array([*exact, max(1, *map(len, shards)), rows])


def _with_room(need: np.ndarray, margin: float) -> Budget:
    """Return the budget for what the largest shards need, with `margin` more edges."""
    n_beads, n_bonds, n_angles, n_dihedrals, n_frames, n_rows = (int(n) for n in need)
    n_rows = _round_up(int(n_rows * (1 + margin)) + 1, 8)
    return Budget(
        n_beads=_round_up(n_beads + 1, 16),
        n_edges=n_rows * ROW_WIDTH,
        n_frames=n_frames + 1,
        n_bonds=_round_up(n_bonds + 1, 16),
        n_angles=_round_up(n_angles + 1, 16),
        n_dihedrals=_round_up(n_dihedrals + 1, 16),
        n_rows=n_rows,
    )


class BatchBuilder:
    """Packs lists of samples into batches, each of the first of a few shapes that it fits: the same in all processes.

    example: sample, step -> `Example`; called from several threads. budgets, margin: as `plan_run_budgets` has them.
    """

    def __init__(
        self,
        source: GraphSource,
        example: Callable[[int, int], Example],
        sharding: Sharding,
        budgets: Sequence[Budget],
        margin: float,
        dtype: np.dtype,
    ):
        self.source = source
        self.budgets = tuple(budgets)
        self._example = example
        self._sharding = sharding
        self._margin = margin
        self._dtype = dtype

    def build(self, samples: Sequence[int], step: int) -> Batch:
        """Return this process's part of a batch; `BudgetOverflow` where a shard does not fit."""
        shards = shard_samples(self.source, samples, self._sharding.n_shards)
        budget = self._shape(shards)
        parts = []
        for part in range(self._sharding.n_parts):
            first = part * self._sharding.n_devices
            parts.append(_stack([self._pack(shards[first + device], samples, step, budget) for device in self._sharding.local]))
        return _stack(parts)

    def _shape(self, shards: Sequence[Sequence[int]]) -> Budget:
        if len(self.budgets) == 1:
            return self.budgets[0]
        wanted = dataclasses.astuple(_with_room(_largest_shards(self.source, shards), self._margin))
        fitting = (budget for budget in self.budgets if all(map(operator.le, wanted, dataclasses.astuple(budget))))
        return next(fitting, self.budgets[-1])

    def _pack(self, shard: Sequence[int], samples: Sequence[int], step: int, budget: Budget) -> Batch:
        # A shard without frames packs one of the batch, which its shape has room for, and hides it.
        examples = [self._example(sample, step) for sample in shard or samples[:1]]
        graph = pack([example.graph for example in examples], budget)
        graph = dataclasses.replace(graph, positions=np.asarray(graph.positions, self._dtype))
        forces = np.zeros((budget.n_beads, 3), self._dtype)
        weights = np.zeros(budget.n_beads, self._dtype)
        energies, energy_weights, stress_weights = (np.zeros(budget.n_frames, self._dtype) for _ in range(3))
        stress = np.zeros((budget.n_frames, 6), self._dtype)
        volumes = np.ones(budget.n_frames, self._dtype)
        start = 0
        for frame, example in enumerate(examples if shard else []):
            end = start + len(example.forces)
            forces[start:end] = example.forces
            weights[start:end] = example.weight * example.force_weights
            start = end
            volumes[frame] = example.volume
            if np.isfinite(example.energy):
                energies[frame], energy_weights[frame] = example.energy, example.weight
            if example.stress is not None and np.isfinite(example.stress).all():
                stress[frame], stress_weights[frame] = example.stress, example.weight
        if not shard:
            graph = dataclasses.replace(graph, **{name: np.zeros_like(getattr(graph, name)) for name in MASKS})
        return Batch(
            graph=graph,
            forces=forces,
            weights=weights,
            energies=energies,
            energy_weights=energy_weights,
            stress=stress,
            stress_weights=stress_weights,
            volumes=volumes,
            stop=np.zeros((), np.float32),
        )


def training_batches(
    builder: BatchBuilder, order: SampleOrder, batch_size: int, first_step: int, n_threads: int, n_ahead: int
) -> contextlib.AbstractContextManager[Iterator[Batch]]:
    """Return a context whose iterator yields the batch of `first_step`, the next, and so on, built ahead in threads."""

    def steps() -> Iterator[int]:
        step = first_step
        while True:
            yield step
            step += 1

    return ahead(lambda step: builder.build(order.batch(step, batch_size).tolist(), step), steps(), n_threads, n_ahead)


@contextlib.contextmanager
def ahead(make: Callable[[int], Item], keys: Iterator[int], n_threads: int, n_ahead: int) -> Iterator[Iterator[Item]]:
    """Yield an iterator over `make(key)` in order, computed up to `n_ahead` early by `n_threads` threads."""
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="cg-train-loader")
    waiting: deque[Future[Item]] = deque()

    def results() -> Iterator[Item]:
        for key in keys:
            waiting.append(pool.submit(make, key))
            if len(waiting) > n_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield results()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True)


def grown_budget(budget: Budget, growth: float = 1.15) -> Budget:
    """Return a budget with more room for everything but frames, after an overflow."""
    sizes: dict[str, Any] = {
        name: value if value is None else int(value * growth) + 1 for name, value in dataclasses.asdict(budget).items()
    }
    sizes["n_frames"] = budget.n_frames
    if budget.n_rows is not None:
        sizes["n_edges"] = sizes["n_rows"] * ROW_WIDTH
    return Budget(**sizes)


def largest_budget(first: Budget, second: Budget) -> Budget:
    """Return the budget with the larger of each two numbers; both must have the same layout."""
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in dataclasses.asdict(first)}
    larger: dict[str, Any] = {name: None if None in pair else max(pair) for name, pair in pairs.items()}
    return Budget(**larger)


def _stack(batches: Sequence[Batch]) -> Batch:
    fields = {
        field.name: np.stack([getattr(batch, field.name) for batch in batches])
        for field in dataclasses.fields(Batch)
        if field.name != "graph"
    }
    graphs = [batch.graph for batch in batches]
    graph = BeadGraph(
        **{
            field.name: None if getattr(graphs[0], field.name) is None else np.stack([getattr(graph, field.name) for graph in graphs])
            for field in dataclasses.fields(BeadGraph)
        }
    )
    return Batch(graph=graph, **fields)


def _round_up(n: int, block: int) -> int:
    return -(-n // block) * block
