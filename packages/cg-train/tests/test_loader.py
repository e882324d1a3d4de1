import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_data.store import Dataset, open_dataset, write_dataset
from cg_models.graph import ROW_WIDTH, BudgetOverflow
from cg_train.config import DataConfig
from cg_train.frames import GraphSource, sampling_weights, select_frames
from cg_train.loader import BatchBuilder, Example, Sharding, ahead, assign_shards, grown_budget, plan_run_budgets
from cg_train.order import SampleOrder

from .conftest import make_frames


def source_of(dataset: Dataset, split: str = "train", cutoff: float = 7.0, gigabytes: float = 1.0) -> GraphSource:
    return GraphSource(dataset, select_frames(dataset, split, DataConfig()), cutoff, gigabytes)


SIZE = 6


def builder_of(source: GraphSource, n_parts: int, n_devices: int, local: range | None = None, most_shapes: int = 1) -> BatchBuilder:
    batches = [batch_of(source, step) for step in range(40)]
    budgets = plan_run_budgets(source, batches, n_parts * n_devices, 0.1, most_shapes)

    def example(sample: int, step: int) -> Example:
        return Example(source.graph(sample), source.forces(sample))

    return BatchBuilder(source, example, Sharding(n_parts, n_devices, local or range(n_devices)), budgets, 0.1, np.dtype(np.float32))


def batch_of(source: GraphSource, step: int) -> list[int]:
    return SampleOrder(0, len(source.table)).batch(step, SIZE).tolist()


@pytest.mark.parametrize(("n_parts", "n_devices"), [(1, 1), (1, 4), (2, 2)])
def test_a_batch_holds_each_frame_once_however_it_is_divided(dataset: Dataset, n_parts: int, n_devices: int) -> None:
    source = source_of(dataset)
    samples = batch_of(source, 0)
    batch = builder_of(source, n_parts, n_devices).build(samples, 0)
    assert batch.forces.shape[:2] == (n_parts, n_devices)
    real = batch.graph.bead_mask
    found = np.sort(batch.forces[real].sum(axis=-1))
    expected = np.sort(np.concatenate([source.forces(sample) for sample in samples]).sum(axis=-1))
    np.testing.assert_array_equal(found, expected)
    assert (batch.weights[~real] == 0).all()
    assert batch.graph.edge_mask.sum() == sum(len(source.graph(sample).senders) for sample in samples)


def test_processes_build_the_parts_of_one_batch(dataset: Dataset) -> None:
    source = source_of(dataset)
    samples = batch_of(source, 1)
    whole = builder_of(source, 1, 4).build(samples, 0)
    halves = [builder_of(source, 1, 4, local=local).build(samples, 0) for local in (range(2), range(2, 4))]
    np.testing.assert_array_equal(np.concatenate([half.graph.positions for half in halves], axis=1), whole.graph.positions)


def test_shards_without_frames_are_all_padding(dataset: Dataset) -> None:
    source = source_of(dataset)
    batch = builder_of(source, 1, 4).build([0, 1], 0)
    per_shard = batch.graph.bead_mask[0].sum(axis=1)
    assert sorted(per_shard)[:2] == [0, 0]
    assert not batch.graph.edge_mask[0][per_shard == 0].any()
    assert not batch.graph.bond_mask[0][per_shard == 0].any()


def test_frames_are_dealt_as_if_every_shard_were_looked_at_for_each() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        loads, n_shards = random.choice([5.0, 7.0, 9.0, 300.0], random.integers(1, 60)).tolist(), int(random.integers(1, 20))
        expected: list[list[int]] = [[] for _ in range(n_shards)]
        for place in sorted(range(len(loads)), key=lambda i: (-loads[i], i)):
            open_shards = [shard for shard in expected if len(shard) < -(-len(loads) // n_shards)]
            min(open_shards, key=lambda shard: sum(loads[i] for i in shard)).append(place)
        assert assign_shards(loads, n_shards) == expected


def test_a_shard_without_frames_needs_no_more_room_than_its_batch(dataset: Dataset) -> None:
    """Frame 0 is of the largest domain; a batch of one small frame has a shape that it does not fit."""
    source = source_of(dataset)
    smallest = int(np.flatnonzero(source.table.n_beads[source.table.domain] == 7)[0])
    assert source.table.n_beads[source.table.domain[0]] == 12
    budgets = plan_run_budgets(source, [[smallest]], 2, 0.0)
    builder = BatchBuilder(
        source, lambda s, _: Example(source.graph(s), source.forces(s)), Sharding(1, 2, range(2)), budgets, 0.0, np.dtype("f4")
    )
    assert int(builder.build([smallest], 0).graph.bead_mask.sum()) == 7


def test_a_planned_budget_fits_every_batch_and_overflow_is_an_error(dataset: Dataset) -> None:
    source = source_of(dataset)
    builder = builder_of(source, 1, 2)
    for step in range(40):
        builder.build(batch_of(source, step), step)
    (budget,) = builder.budgets
    builder.budgets = (dataclasses.replace(budget, n_rows=2, n_edges=2 * ROW_WIDTH),)
    with pytest.raises(BudgetOverflow):
        builder.build([0, 1], 0)
    assert grown_budget(budget).n_edges > budget.n_edges


def test_more_shapes_hold_the_same_frames_with_less_padding(dataset: Dataset) -> None:
    source = source_of(dataset)
    one, several = builder_of(source, 1, 1), builder_of(source, 1, 1, most_shapes=4)
    assert 1 < len(several.budgets) <= 4
    assert several.budgets[-1] == one.budgets[0]
    rows = []
    for step in range(40):
        first, second = (builder.build(batch_of(source, step), step) for builder in (one, several))
        for whole, close in ((first.forces, second.forces), (first.graph.positions, second.graph.positions)):
            np.testing.assert_array_equal(whole[first.graph.bead_mask], close[second.graph.bead_mask])
        assert first.graph.edge_mask.sum() == second.graph.edge_mask.sum()
        rows.append([batch.graph.senders[0, 0].size // ROW_WIDTH for batch in (first, second)])
        needed = sum(source.n_rows(sample) for sample in batch_of(source, step))
        assert all(room > needed for room in rows[-1])
    assert {second for _, second in rows} == {budget.n_rows for budget in several.budgets}
    before, after = np.sum(rows, axis=0) - sum(source.n_rows(sample) for step in range(40) for sample in batch_of(source, step))
    assert after < 0.7 * before


def test_all_processes_give_a_batch_the_same_shape(dataset: Dataset) -> None:
    source = source_of(dataset)
    shapes = set()
    for step in range(40):
        halves = [builder_of(source, 1, 2, local, most_shapes=4).build(batch_of(source, step), step) for local in (range(1), range(1, 2))]
        assert halves[0].graph.senders.shape == halves[1].graph.senders.shape
        shapes.add(halves[0].graph.senders.shape)
    assert len(shapes) > 1


def test_heavy_frames_are_spread_over_shards() -> None:
    shards = assign_shards([10, 1, 1, 10, 1, 1, 10, 10], 4)
    assert sorted(place for shard in shards for place in shard) == list(range(8))
    assert {len(shard) for shard in shards} == {2}
    assert {sum([10, 1, 1, 10, 1, 1, 10, 10][place] for place in shard) for shard in shards} == {11}


def test_cached_edges_equal_rebuilt_ones(dataset: Dataset) -> None:
    cached, rebuilt = source_of(dataset), source_of(dataset, gigabytes=0)
    for _ in range(2):
        first, second = cached.graph(3), rebuilt.graph(3)
        np.testing.assert_array_equal(first.senders, second.senders)
        np.testing.assert_array_equal(first.receivers, second.receivers)
        assert first.senders.dtype == second.senders.dtype == np.int32


def test_frames_are_chosen_by_temperature_and_domain(dataset: Dataset) -> None:
    table = select_frames(dataset, "train", DataConfig(temperatures_kelvin=(300.0,), domains=("9bbbA00",)))
    assert set(table.temperature.tolist()) == {300.0}
    assert table.domain_names == ("9bbbA00",)
    assert table.describe([0, 2]) == "9bbbA00: 0, 2"
    with pytest.raises(UserError, match="no domain 4xxx"):
        select_frames(dataset, "train", DataConfig(domains=("4xxx",)))


def test_weights_of_domains_and_temperatures_multiply(dataset: Dataset) -> None:
    table = select_frames(dataset, "train", DataConfig())
    assert sampling_weights(table, DataConfig()) is None
    weights = sampling_weights(table, DataConfig(domain_weights={"9bbbA00": 2.0}, temperature_weights={350.0: 3.0}))
    assert weights is not None
    of_domain = np.array(table.domain_names)[table.domain] == "9bbbA00"
    np.testing.assert_allclose(weights, np.where(of_domain, 2, 1) * np.where(table.temperature == 350, 3, 1))
    with pytest.raises(UserError, match="310"):
        sampling_weights(table, DataConfig(temperature_weights={310.0: 2.0}))


def test_work_ahead_keeps_its_order_and_raises_where_it_failed() -> None:
    seen = threading.Event()

    def make(key: int) -> int:
        time.sleep(0.01 * (key % 3))
        if key == 5:
            seen.set()
            raise ValueError("five")
        return key

    with ahead(make, iter(range(100)), n_threads=3, n_ahead=4) as results:
        assert [next(results) for _ in range(5)] == list(range(5))
        with pytest.raises(ValueError, match="five"):
            next(results)
    assert seen.is_set()


def test_a_negative_standard_error_is_named_when_its_frame_is_read(tmp_path: Path) -> None:
    frames = make_frames(7, 40, 0)
    errors = np.full(frames.positions.shape, 0.5, np.float32)
    made = write_dataset(tmp_path / "dataset", {"7aaaA00": dataclasses.replace(frames, force_error=errors)})
    source = source_of(made)
    bad = int(source.table.frame[3])
    errors[bad, 2, 1] = -0.5
    np.save(made.path / "domains/7aaaA00/force_error.npy", errors)
    source = source_of(open_dataset(made.path))
    assert source.force_error(2) is not None
    with pytest.raises(UserError, match=r"7aaaA00: force_error must not be negative; smallest is -0\.5"):
        source.force_error(3)
