"""Flat packing: many frames in one graph of fixed size, and the budgets that fix it.

Two layouts of edges, both `BeadGraph`:

* flat: `senders`, `receivers`, `edge_mask` are [n_edges], in any order (what LAMMPS gives and files hold);
* rows: they are [n_rows, width]; a row holds edges that one bead receives, and a bead has as many rows as it needs. Sums over the
  edges of a row are sums over an axis and products of matrices, without scatters of edges, which is what dominates on CPU. Same
  energies, faster; `in_rows` makes it from flat.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array, BeadGraph
from cg_data.errors import UserError, require

ROW_WIDTH = 16
"""Edges of a row that `in_rows` makes: whole vector registers, and few free slots where a bead has some thirty neighbours."""
BEAD_FIELDS = ("positions", "species", "residue_index", "chain_index")
SUMMED = ("n_beads", "n_edges", "n_bonds", "n_angles", "n_dihedrals")
TUPLE_FIELDS = (("bonds", "bond_mask"), ("angles", "angle_mask"), ("dihedrals", "dihedral_mask"))

MASKS = ("bead_mask", "edge_mask", *(mask for _, mask in TUPLE_FIELDS))


class BudgetOverflow(UserError):
    """Something is larger than the budget it must fit into."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Fixed sizes of a packed graph.

    n_frames counts the padding frame, which is the last. With n_rows the edges are packed in so many rows, and n_edges, which
    counts slots, is n_rows * ROW_WIDTH.
    """

    n_beads: int
    n_edges: int
    n_frames: int
    n_bonds: int
    n_angles: int
    n_dihedrals: int
    n_rows: int | None = None


def sizes(graph: BeadGraph) -> dict[str, int]:
    """Return what an unpadded graph of one frame asks of a budget, keyed by the names of `Budget`."""
    return {
        "n_beads": graph.positions.shape[0],
        "n_edges": int(np.sum(graph.edge_mask)),
        "n_bonds": len(graph.bonds),
        "n_angles": len(graph.angles),
        "n_dihedrals": len(graph.dihedrals),
        "n_rows": count_rows(np.asarray(graph.receivers)[np.asarray(graph.edge_mask)]),
    }


def count_rows(receivers: np.ndarray) -> int:
    """Return how many rows the edges of these receivers [n_edges] fill."""
    return int((-(-np.bincount(receivers) // ROW_WIDTH)).sum()) if len(receivers) else 0


def plan_budget(
    graphs: Sequence[BeadGraph | Mapping[str, int]], frames_per_batch: int, rows: bool = False, headroom: float = 1.0
) -> Budget:
    """Return the budget that holds any `frames_per_batch` of the given frames.

    graphs: unpadded graphs of one frame each, or their `sizes`. Each number is the sum of its `frames_per_batch` largest
    values, so no choice of frames can overflow. rows: plan edges in rows. headroom multiplies the edges (or the rows), for beads
    that will move. Raises `UserError` where there is nothing to plan from.
    """
    require(len(graphs) > 0, "plan_budget: expected at least one frame, received none: check the split of the data set")
    require(frames_per_batch > 0, f"plan_budget: frames_per_batch must be positive, received {frames_per_batch}")
    needs = [sizes(graph) if isinstance(graph, BeadGraph) else graph for graph in graphs]

    def largest(name: str) -> int:
        return max(int(sum(sorted((need[name] for need in needs), reverse=True)[:frames_per_batch])), 1)

    n_rows = int(np.ceil(largest("n_rows") * headroom)) if rows else None
    return Budget(
        n_beads=largest("n_beads"),
        n_edges=int(np.ceil(largest("n_edges") * headroom)) if n_rows is None else n_rows * ROW_WIDTH,
        n_frames=frames_per_batch + 1,
        n_bonds=largest("n_bonds"),
        n_angles=largest("n_angles"),
        n_dihedrals=largest("n_dihedrals"),
        n_rows=n_rows,
    )


@dataclasses.dataclass(frozen=True)
class BudgetPlan:
    """Batches of frames and, for each, which of a few budgets it is packed into.

    budgets: the shapes, each compiled once; batches: (number of the budget, indices of the frames).
    """

    budgets: tuple[Budget, ...]
    batches: tuple[tuple[int, tuple[int, ...]], ...]

    def padding(self, needs: Sequence[Mapping[str, int]]) -> dict[str, float]:
        """Return the share of the packed beads and edges that is padding, given the `sizes` of all frames."""
        shares = {}
        for name in ("n_beads", "n_edges"):
            used = sum(needs[frame][name] for _, frames in self.batches for frame in frames)
            # Where no frame has an edge, the one that a budget needs at least is no waste to plan against.
            shares[name] = 1 - used / sum(getattr(self.budgets[number], name) for number, _ in self.batches) if used else 0.0
        return shares


def plan_budgets(
    graphs: Sequence[BeadGraph | Mapping[str, int]], beads_per_batch: int, max_padding: float = 0.05, most_shapes: int = 8
) -> BudgetPlan:
    """Return batches of all frames, each of about `beads_per_batch` beads, in the fewest shapes that keep padding small.

    graphs: unpadded graphs of one frame each, or their `sizes`. Frames are put together first-fit, largest first, bounded by
    beads and by edges in proportion; batches of alike size then share a budget. The number of shapes grows until padding is below
    `max_padding` of beads and of edges, or is `most_shapes`. A frame larger than `beads_per_batch` has a batch of its own.
    """
    require(len(graphs) > 0, "plan_budgets: expected at least one frame, received none: check the split of the data set")
    for name, value in (("beads_per_batch", beads_per_batch), ("most_shapes", most_shapes)):
        require(value > 0, f"plan_budgets: {name} must be positive, received {value}")
    needs = [sizes(graph) if isinstance(graph, BeadGraph) else graph for graph in graphs]
    groups = _first_fit(needs, beads_per_batch)
    plan = BudgetPlan((), ())
    for n_shapes in range(1, min(most_shapes, len(groups)) + 1):
        plan = _shared_shapes(needs, groups, n_shapes)
        if max(plan.padding(needs).values()) < max_padding:
            break
    return plan


def _first_fit(needs: Sequence[Mapping[str, int]], beads_per_batch: int) -> list[list[int]]:
    """Return groups of frames, first-fit decreasing over beads and edges; the capacity for edges is that of an average batch."""
    edges_per_batch = beads_per_batch * sum(need["n_edges"] for need in needs) / max(sum(need["n_beads"] for need in needs), 1)
    groups: list[list[int]] = []
    room: list[list[float]] = []
    for frame in sorted(range(len(needs)), key=lambda frame: -needs[frame]["n_beads"]):
        beads, edges = needs[frame]["n_beads"], needs[frame]["n_edges"]
        place = next((n for n, (b, e) in enumerate(room) if beads <= b and edges <= e), None)
        if place is None:
            groups.append([])
            room.append([float(beads_per_batch), edges_per_batch])
            place = len(groups) - 1
        groups[place].append(frame)
        room[place] = [room[place][0] - beads, room[place][1] - edges]
    return groups


def _shared_shapes(needs: Sequence[Mapping[str, int]], groups: Sequence[Sequence[int]], n_shapes: int) -> BudgetPlan:
    """Return the plan whose shapes are runs of groups in order of their edges, cut so that padded edges are fewest."""
    totals = {name: np.array([sum(needs[frame][name] for frame in group) for group in groups]) for name in SUMMED}
    order = np.argsort(totals["n_edges"], kind="stable")
    budgets: list[Budget] = []
    batches: list[tuple[int, tuple[int, ...]]] = []
    for members in reversed(np.split(order, least_padding_cuts(totals["n_edges"][order], n_shapes))):
        n_frames = max(len(groups[member]) for member in members) + 1
        budgets.append(Budget(n_frames=n_frames, **{name: max(int(totals[name][members].max()), 1) for name in SUMMED}))
        batches += [(len(budgets) - 1, tuple(groups[member])) for member in members]
    return BudgetPlan(tuple(budgets), tuple(batches))


def least_padding_cuts(sizes: np.ndarray, n_runs: int) -> np.ndarray:
    """Return where to cut ascending sizes [n] into runs so that, each raised to its run's largest, they add up to the least.

    [n_runs - 1] ascending indices, for `numpy.split`; n_runs is at most n. Exact, in time that grows as n_runs n^2.
    """
    n = len(sizes)
    cost = np.full((n_runs + 1, n + 1), np.inf)
    cost[0, 0] = 0
    cuts = np.zeros((n_runs + 1, n + 1), int)
    for run in range(1, n_runs + 1):
        for end in range(1, n + 1):
            options = cost[run - 1, :end] + float(sizes[end - 1]) * (end - np.arange(end))
            cuts[run, end] = int(options.argmin())
            cost[run, end] = options.min()
    ends = [n]
    for run in range(n_runs, 1, -1):
        ends.append(cuts[run, ends[-1]])
    return np.array(ends[:0:-1], int)


def pack(graphs: Sequence[BeadGraph], budget: Budget) -> BeadGraph:
    """Return one NumPy graph of exactly the budget's size that holds the given frames side by side.

    graphs: flat unpadded graphs of one frame each; frame f of the result is graphs[f], beads of padding belong to frame
    budget.n_frames - 1. Positions keep their dtype. Raises `BudgetOverflow`, naming the number, where they do not fit, and
    `UserError` where a graph has its edges in rows or holds padding, and where some frames have periodic shifts and others not.
    """
    require(len(graphs) > 0, "pack: expected at least one frame, received none")
    for number, graph in enumerate(graphs):
        require(not has_rows(graph), f"pack: expected flat edges, received rows in graph {number}: build it with rows=False")
        unpadded = all(np.all(getattr(graph, mask)) for mask in MASKS)
        require(unpadded, f"pack: expected unpadded graphs, received padding in graph {number}: pack graphs of one frame each")
    _fits("frames", len(graphs), budget.n_frames - 1)
    starts = np.cumsum([0] + [graph.positions.shape[0] for graph in graphs])
    _fits("beads", int(starts[-1]), budget.n_beads)
    packed: dict[str, Any] = {name: _padded([getattr(graph, name) for graph in graphs], budget.n_beads, name) for name in BEAD_FIELDS}
    frame = np.repeat(np.arange(len(graphs), dtype=np.int32), np.diff(starts))
    packed["frame"] = np.full(budget.n_beads, budget.n_frames - 1, np.int32)
    packed["frame"][: len(frame)] = frame
    packed["bead_mask"] = _mask(int(starts[-1]), budget.n_beads)
    for (name, mask), size in zip(TUPLE_FIELDS, (budget.n_bonds, budget.n_angles, budget.n_dihedrals), strict=True):
        tuples = [np.asarray(getattr(graph, name)) + start for graph, start in zip(graphs, starts, strict=False)]
        packed[name] = _padded(tuples, size, name).astype(np.int32)
        packed[mask] = _mask(sum(map(len, tuples)), size)
    periodic = {graph.shifts is not None for graph in graphs}
    require(len(periodic) == 1, "pack: expected shifts in all frames or in none, received a mixture: build all with one cell rule")
    for name in ("senders", "receivers"):
        indices = [np.asarray(getattr(graph, name)) + start for graph, start in zip(graphs, starts, strict=False)]
        packed[name] = np.concatenate(indices).astype(np.int32)
    packed["shifts"] = np.concatenate([np.asarray(graph.shifts) for graph in graphs]) if periodic.pop() else None
    packed["edge_mask"] = np.ones(len(packed["senders"]), bool)
    if budget.n_rows is not None:
        return in_rows(BeadGraph(**packed), budget.n_rows)
    packed["edge_mask"] = _mask(len(packed["senders"]), budget.n_edges)
    for name in ("senders", "receivers", "shifts"):
        if packed[name] is not None:
            packed[name] = _padded([packed[name]], budget.n_edges, "edges")
    return BeadGraph(**packed)


def in_rows(graph: BeadGraph, n_rows: int | None = None) -> BeadGraph:
    """Return a flat graph with its edges in rows (on the host).

    n_rows: rows to fill up to; default as many as are needed. Raises `BudgetOverflow` where it takes more. Edges of padding are
    dropped; free slots are masked and point at bead 0, free rows are the last bead's.
    """
    used = np.asarray(graph.edge_mask)
    receivers, senders = np.asarray(graph.receivers)[used], np.asarray(graph.senders)[used]
    n_beads = graph.positions.shape[0]
    degree = np.bincount(receivers, minlength=n_beads)
    rows_of_bead = -(-degree // ROW_WIDTH)
    needed = int(rows_of_bead.sum())
    n_rows = max(needed, 1) if n_rows is None else n_rows
    _fits("rows of edges", needed, n_rows)
    order = np.argsort(receivers, kind="stable")
    place = np.arange(len(receivers)) - np.repeat(np.cumsum(degree) - degree, degree)
    row = np.repeat(np.cumsum(rows_of_bead) - rows_of_bead, degree) + place // ROW_WIDTH
    slots = (row, place % ROW_WIDTH)

    def filled(values: np.ndarray) -> np.ndarray:
        table = np.zeros((n_rows, ROW_WIDTH, *values.shape[1:]), values.dtype)
        table[slots] = values
        return table

    row_receivers = np.full(n_rows, n_beads - 1, np.int32)
    row_receivers[:needed] = np.repeat(np.arange(n_beads, dtype=np.int32), rows_of_bead)
    return dataclasses.replace(
        graph,
        senders=filled(senders[order].astype(np.int32)),
        receivers=np.repeat(row_receivers[:, None], ROW_WIDTH, axis=1),
        edge_mask=filled(np.ones(len(senders), bool)),
        shifts=None if graph.shifts is None else filled(np.asarray(graph.shifts)[used][order]),
    )


def has_rows(graph: BeadGraph) -> bool:
    """Return whether the edges are in rows."""
    return graph.senders.ndim == 2


def flat(graph: BeadGraph) -> BeadGraph:
    """Return the graph with flat edges, also inside `jax.jit`; free slots of rows become masked edges from bead 0 to itself.

    With the receiver of their row they would lead from it to bead 0, of another frame, whose forces a position that is not finite
    would spoil.
    """
    if not has_rows(graph):
        return graph
    shifts = None if graph.shifts is None else graph.shifts.reshape(-1, 3)
    return dataclasses.replace(
        graph,
        senders=graph.senders.reshape(-1),
        receivers=(graph.receivers * graph.edge_mask).reshape(-1),
        edge_mask=graph.edge_mask.reshape(-1),
        shifts=shifts,
    )


def frame_sum(per_bead: Array, graph: BeadGraph, n_frames: int) -> Array:
    """Return the sums over the beads of each frame, [n_beads, ...] -> [n_frames, ...]; padding adds nothing."""
    mask = graph.bead_mask.reshape(graph.bead_mask.shape + (1,) * (per_bead.ndim - 1))
    return jax.ops.segment_sum(jnp.where(mask, per_bead, 0), graph.frame, n_frames)


def _fits(what: str, needed: int, budget: int) -> None:
    if needed > budget:
        raise BudgetOverflow(f"{needed} {what} do not fit the budget of {budget}: plan the budget from all frames or put fewer in a batch")


def _mask(used: int, size: int) -> np.ndarray:
    return np.arange(size) < used


def _padded(parts: Sequence[Array], size: int, what: str) -> np.ndarray:
    joined = np.concatenate([np.asarray(part) for part in parts])
    _fits(what, len(joined), size)
    padded = np.zeros((size, *joined.shape[1:]), joined.dtype)
    padded[: len(joined)] = joined
    return padded
