import dataclasses
import itertools

import jax
import numpy as np
import pytest

from cg_data.errors import UserError
from cg_data.topology import frame_graph
from cg_models.graph import ROW_WIDTH, BudgetOverflow, flat, frame_sum, in_rows, least_padding_cuts, pack, plan_budget, plan_budgets, sizes
from cg_models.testing import random_chain


def chain(n_beads, seed=0, cutoff=9.0):
    index = np.arange(n_beads, dtype=np.int32)
    return frame_graph(random_chain(n_beads, seed).astype(np.float32), index % 3, index, np.zeros(n_beads, np.int32), cutoff)


GRAPHS = [chain(8, 0), chain(12, 1), chain(10, 2)]


def test_the_planned_budget_holds_every_choice_of_frames():
    budget = plan_budget(GRAPHS, 2)
    for first in GRAPHS:
        for second in GRAPHS:
            if first is not second:
                pack([first, second], budget).check("packed")
    assert budget.n_beads == 22
    assert budget.n_frames == 3


@pytest.mark.parametrize("rows", [False, True])
def test_packing_keeps_every_frame_apart_and_whole(rows):
    budget = plan_budget(GRAPHS, 3, rows=rows)
    packed = flat(pack(GRAPHS, dataclasses.replace(budget, n_beads=budget.n_beads + 5)))
    edges = {(s, r) for s, r, used in zip(packed.senders, packed.receivers, packed.edge_mask, strict=True) if used}
    start, expected = 0, set()
    for number, graph in enumerate(GRAPHS):
        rows = slice(start, start + graph.n_beads)
        np.testing.assert_array_equal(packed.positions[rows], graph.positions)
        np.testing.assert_array_equal(packed.frame[rows], number)
        expected |= {(s + start, r + start) for s, r in zip(graph.senders, graph.receivers, strict=True)}
        start += graph.n_beads
    assert edges == expected
    assert (packed.frame[start:] == budget.n_frames - 1).all()
    assert not packed.bead_mask[start:].any()
    bonds = packed.bonds[packed.bond_mask]
    assert len(bonds) == sum(len(graph.bonds) for graph in GRAPHS)
    assert (packed.frame[bonds[:, 0]] == packed.frame[bonds[:, 1]]).all()


@pytest.mark.parametrize("name", ["n_beads", "n_edges", "n_bonds", "n_angles", "n_dihedrals", "n_frames"])
def test_overflow_of_any_budget_raises_and_names_the_number(name):
    exact = plan_budget(GRAPHS, 3)
    too_small = dataclasses.replace(exact, **{name: getattr(exact, name) - 1})
    needed = getattr(exact, name) - (name == "n_frames")
    with pytest.raises(BudgetOverflow, match=rf"{needed} .*do not fit the budget of {needed - 1}"):
        pack(GRAPHS, too_small)


def test_overflow_of_rows_raises_and_names_the_number():
    exact = plan_budget(GRAPHS, 3, rows=True)
    packed = pack(GRAPHS, exact)
    assert packed.senders.shape == (exact.n_rows, ROW_WIDTH)
    with pytest.raises(BudgetOverflow, match=f"{exact.n_rows} rows of edges do not fit the budget of {exact.n_rows - 1}"):
        pack(GRAPHS, dataclasses.replace(exact, n_rows=exact.n_rows - 1))


def test_what_is_packed_already_is_not_packed_again():
    budget = plan_budget(GRAPHS, 3)
    with pytest.raises(UserError, match="expected flat edges, received rows in graph 1: build it with rows=False"):
        pack([GRAPHS[0], in_rows(GRAPHS[1])], budget)
    with pytest.raises(UserError, match="received padding in graph 0"):
        pack([pack(GRAPHS[:1], plan_budget(GRAPHS, 1))], budget)


def test_a_row_holds_edges_of_one_receiver_and_a_bead_fills_its_rows_one_after_the_other():
    graph = chain(40, cutoff=14.0)
    rows = in_rows(graph, 200)
    assert (rows.receivers == rows.receivers[:, :1]).all()
    filled = rows.edge_mask.sum(1)
    for bead, degree in enumerate(np.bincount(graph.receivers, minlength=40)):
        of_bead = filled[(rows.receivers[:, 0] == bead) & (filled > 0)]
        np.testing.assert_array_equal(of_bead, [ROW_WIDTH] * (degree // ROW_WIDTH) + [degree % ROW_WIDTH] * int(degree % ROW_WIDTH > 0))
    assert sizes(graph)["n_rows"] == (filled > 0).sum() > 40


def test_planning_needs_a_frame():
    with pytest.raises(UserError, match="at least one frame"):
        plan_budget([], 2)


def test_edges_in_rows_and_flat_ones_are_the_same_with_their_shifts():
    graph = GRAPHS[1]
    shifts = np.random.default_rng(0).normal(size=(len(graph.senders), 3))
    graph = dataclasses.replace(graph, shifts=shifts)
    back = flat(in_rows(graph))
    used = back.edge_mask

    def keyed(g, mask):
        return {(s, r): tuple(shift) for s, r, shift in zip(g.senders[mask], g.receivers[mask], g.shifts[mask], strict=True)}

    assert keyed(back, used) == keyed(graph, graph.edge_mask)


def test_frame_sums_leave_padding_out():
    packed = pack(GRAPHS, plan_budget(GRAPHS, 4))
    sums = frame_sum(jax.numpy.ones(packed.n_beads), packed, 5)
    np.testing.assert_array_equal(sums, [8, 12, 10, 0, 0])


def proteins(n_frames, seed=0):
    """Sizes like those of mdCATH: 50 to 500 residues, log-normal about 130, about 26 neighbours, fewer in small proteins."""
    rng = np.random.default_rng(seed)
    found = []
    for beads in np.clip(np.exp(rng.normal(np.log(130), 0.5, n_frames)), 50, 500).astype(int):
        edges = int(beads * (30 - 60 / np.cbrt(beads) + rng.normal(0, 0.7)))
        tuples = {"n_bonds": beads - 1, "n_angles": beads - 2, "n_dihedrals": beads - 3}
        found.append({"n_beads": int(beads), "n_edges": edges, "n_rows": edges // 8, **tuples})
    return found


def test_few_shapes_keep_padding_below_five_percent_on_proteins_of_50_to_500_residues():
    needs = proteins(400)
    plan = plan_budgets(needs, beads_per_batch=2000)
    padding = plan.padding(needs)
    assert padding["n_beads"] < 0.05
    assert padding["n_edges"] < 0.05
    assert len(plan.budgets) <= 4


def test_frames_without_edges_need_no_more_shapes():
    needs = [{**need, "n_edges": 0, "n_rows": 0} for need in proteins(400)]
    plan = plan_budgets(needs, beads_per_batch=2000)
    assert len(plan.budgets) <= 4
    assert plan.padding(needs)["n_beads"] < 0.05
    with pytest.raises(UserError, match="most_shapes must be positive"):
        plan_budgets(needs, 2000, most_shapes=0)


def test_planned_batches_hold_every_frame_once_and_fit_their_budgets():
    graphs = [chain(6 + seed % 7, seed) for seed in range(12)]
    plan = plan_budgets(graphs, beads_per_batch=25)
    assert sorted(frame for _, frames in plan.batches for frame in frames) == list(range(12))
    for number, frames in plan.batches:
        pack([graphs[frame] for frame in frames], plan.budgets[number]).check("packed")


@pytest.mark.parametrize("n_runs", [1, 2, 3, 4])
def test_cuts_leave_the_least_padding_of_all(n_runs):
    sizes = np.sort(np.random.default_rng(n_runs).integers(1, 40, 9))

    def padded(cuts):
        return sum(run.max() * len(run) for run in np.split(sizes, cuts))

    best = min(padded(cuts) for cuts in itertools.combinations(range(1, len(sizes)), n_runs - 1))
    cuts = least_padding_cuts(sizes, n_runs)
    assert len(cuts) == n_runs - 1
    assert padded(cuts) == best
