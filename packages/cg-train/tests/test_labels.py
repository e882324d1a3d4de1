"""Claims about labels beyond forces: weights, label errors, energies and their reference, stress in periodic cells."""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.contracts import BeadFrames, BeadGraph
from cg_data.errors import UserError
from cg_data.store import Dataset, write_dataset
from cg_data.topology import frame_graph, neighbour_edges, periodic_edges
from cg_models.forces import energy_forces_and_virial
from cg_train.augment import random_rotation, rotated
from cg_train.config import DataConfig, EnergyReferenceConfig, LossConfig
from cg_train.frames import GraphSource, select_frames
from cg_train.loader import Batch, BatchBuilder, Sharding, plan_run_budgets
from cg_train.loss import batch_sums, loss_parts, loss_value
from cg_train.order import random_generator
from cg_train.reference import energy_reference
from cg_train.step import make_gradient
from cg_train.targets import Targets, force_weights

CUTOFF = 4.0
SPECIES_ENERGIES = np.arange(20) * 3.0 - 20.0


def pair_energy(params: dict, graph: BeadGraph) -> jax.Array:
    """Half of a smooth pair energy for each bead, zero beyond the cutoff."""
    vectors = graph.positions[graph.receivers] - graph.positions[graph.senders]
    vectors = vectors if graph.shifts is None else vectors + graph.shifts
    squared = jnp.where(graph.edge_mask, (vectors**2).sum(-1), CUTOFF**2)
    pairs = params["k"] * jnp.maximum(1 - squared / CUTOFF**2, 0) ** 3
    energies = 0.5 * jax.ops.segment_sum(pairs, graph.receivers, graph.positions.shape[0])
    return jnp.where(graph.bead_mask, energies, 0)


def periodic_graph(positions: np.ndarray, cell: np.ndarray) -> BeadGraph:
    species = np.zeros(len(positions), np.int32)
    senders, receivers, shifts = periodic_edges(positions, CUTOFF, cell)
    graph = frame_graph(positions, species, np.arange(len(species)), species, CUTOFF)
    mask = np.ones(len(senders), bool)
    return dataclasses.replace(graph, senders=senders, receivers=receivers, edge_mask=mask, shifts=shifts)


@pytest.fixture(scope="module")
def crystal() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    cell = np.array([[5.1, 0.2, 0.0], [0.3, 4.6, 0.1], [-0.4, 0.2, 5.4]])
    return rng.uniform(-1, 2, size=(6, 3)) @ cell, cell


def test_a_cell_and_the_cell_twice_as_large_have_the_same_edges(crystal: tuple[np.ndarray, np.ndarray]) -> None:
    positions, cell = crystal
    small, wide = periodic_graph(positions, cell), np.diag([2.0, 1.0, 1.0]) @ cell
    large = periodic_graph(np.concatenate([positions, positions + cell[0]]), wide)
    lengths = []
    for graph in (small, large):
        vectors = graph.positions[graph.receivers] - graph.positions[graph.senders] + graph.shifts
        lengths.append(np.sort(np.linalg.norm(vectors, axis=1)[graph.receivers < 6]))
    np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-5)
    assert len(lengths[0]) > 60
    assert lengths[0].max() < CUTOFF + 1e-5


def test_a_wide_cell_has_the_edges_of_free_space() -> None:
    positions = np.random.default_rng(0).uniform(0, 9, size=(20, 3))
    senders, receivers, shifts = periodic_edges(positions, CUTOFF, np.eye(3) * 40.0)
    expected = neighbour_edges(positions, CUTOFF)
    np.testing.assert_array_equal(senders, expected[0])
    np.testing.assert_array_equal(receivers, expected[1])
    assert not shifts.any()


def test_the_virial_equals_finite_differences_of_the_strained_cell(crystal: tuple[np.ndarray, np.ndarray]) -> None:
    positions, cell = crystal
    params = {"k": jnp.array(2.5)}
    _, _, virials = energy_forces_and_virial(pair_energy, 1)(params, periodic_graph(positions, cell))

    def strained(index: int, size: float) -> float:
        strain = np.zeros((3, 3))
        row, column = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)][index]
        strain[row, column] += size / 2
        strain[column, row] += size / 2
        change = np.eye(3) + strain
        return float(pair_energy(params, periodic_graph(positions @ change, cell @ change)).sum())

    expected = [(strained(i, 1e-4) - strained(i, -1e-4)) / 2e-4 for i in range(6)]
    np.testing.assert_allclose(virials[0], expected, rtol=1e-4, atol=1e-3)


def test_turning_a_frame_turns_its_stress(crystal: tuple[np.ndarray, np.ndarray]) -> None:
    graph = periodic_graph(*crystal)
    evaluate = energy_forces_and_virial(pair_energy, 1)
    energies, forces, virials = evaluate({"k": 2.0}, graph)
    turned, turned_forces, turned_virial = rotated(graph, np.asarray(forces), np.asarray(virials[0]), random_rotation(random_generator(1)))
    found = evaluate({"k": 2.0}, turned)
    np.testing.assert_allclose(found[0].sum(), energies.sum(), rtol=1e-9)
    np.testing.assert_allclose(found[1], turned_forces, atol=1e-8)
    np.testing.assert_allclose(found[2][0], turned_virial, atol=1e-7)


@pytest.fixture(scope="module")
def labelled(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> GraphSource:
    """The tests' data with every label: energies of species plus a spring's, some missing."""
    domains: dict[str, BeadFrames] = {}
    for name in dataset.domains:
        frames = dataset.frames(name)
        energy = SPECIES_ENERGIES[frames.species].sum() + 0.1 * (np.asarray(frames.positions, np.float64) ** 2).sum(axis=(1, 2))
        energy[::5] = np.nan
        n_frames = frames.n_frames
        domains[name] = dataclasses.replace(
            frames,
            weight=np.linspace(0.5, 2, n_frames).astype(np.float32),
            force_error=np.full(frames.forces.shape, 2.0, np.float32),
            energy=energy,
            cell=np.tile(np.eye(3, dtype=np.float32) * 60, (n_frames, 1, 1)),
            stress=np.ones((n_frames, 6), np.float32),
        )
    written = write_dataset(tmp_path_factory.mktemp("labelled") / "dataset", domains)
    return GraphSource(written, select_frames(written, "train", DataConfig()), 7.0, 1.0)


def spring(params: dict, graph: BeadGraph) -> jax.Array:
    energies = params["k"] * (graph.positions**2).sum(-1)
    return jnp.where(graph.bead_mask, energies, 0)


def packed(source: GraphSource, samples: list[int], loss: LossConfig) -> Batch:
    budgets, targets = plan_run_budgets(source, [samples], 1, 0.05), Targets(source, None)
    builder = BatchBuilder(source, lambda s, _: targets.example(s, loss), Sharding(1, 1, range(1)), budgets, 0.05, np.dtype(np.float64))
    return jax.tree.map(lambda array: array[0, 0], builder.build(samples, 0))


def test_each_term_is_the_weighted_mean_over_its_labels(labelled: GraphSource) -> None:
    samples = [0, 7, 40, 61, 83]
    loss = LossConfig(forces_weight=0.5, energy_weight=3.0, stress_weight=7.0, force_error_floor=1.0)
    sums = batch_sums(spring, loss)({"k": 0.1}, packed(labelled, samples, loss))
    totals: dict[str, list[tuple[float, float]]] = {"force": [], "energy": [], "stress": []}
    for sample in samples:
        positions, weight = labelled.positions(sample).astype(float), labelled.weight(sample)
        error = -0.2 * positions - labelled.forces(sample)
        totals["force"].append((weight * 0.2 * (error**2).sum(), weight * 0.2 * error.size))
        energy = labelled.energy(sample)
        if np.isfinite(energy):
            totals["energy"].append((weight * ((0.1 * (positions**2).sum() - energy) / len(positions)) ** 2, weight))
        moment = 0.2 * positions.T @ positions
        virial = moment[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / 60.0**3
        totals["stress"].append((weight * ((virial - 1) ** 2).sum(), weight * 6))
    assert 0 < len(totals["energy"]) < len(samples)
    scales = {"force": 0.5, "energy": 3.0, "stress": 7.0}
    expected = {t: scales[t] * sum(a for a, _ in rows) / sum(b for _, b in rows) for t, rows in totals.items()}
    found = loss_parts(sums, loss)
    assert {term: float(value) for term, value in found.items()} == pytest.approx(expected, rel=1e-5)
    assert float(loss_value(sums, loss)) == pytest.approx(sum(expected.values()), rel=1e-5)


def test_the_steps_gradient_is_that_of_the_sum_of_terms(labelled: GraphSource) -> None:
    samples, params = [0, 7, 40], {"k": jnp.array(0.1)}
    loss = LossConfig(forces_weight=0.5, energy_weight=1e-4, stress_weight=7.0)
    batch = packed(labelled, samples, loss)
    whole = jax.tree.map(lambda array: array[None, None], batch)
    _, found = make_gradient(spring, loss, None)(params, params, whole, 16.0)
    expected = jax.grad(lambda p: loss_value(batch_sums(spring, loss)(p, batch), loss))(params)
    np.testing.assert_allclose(found["k"], expected["k"], rtol=1e-5)


def test_label_errors_weigh_by_inverse_variance_above_the_floor() -> None:
    loss = LossConfig(force_error_floor=2.0, assumed_force_error=6.0)
    weights = force_weights(np.array([[0.0, 0, 0], [20.0, 20, 20], [40.0, 40, 40]]), loss)
    assert weights[0] == 1.0
    assert weights[1] / weights[2] == pytest.approx(4.0, rel=0.02)
    assert force_weights(None, loss) == pytest.approx(0.1)


def test_the_energy_reference_follows_its_order(labelled: GraphSource, caplog: pytest.LogCaptureFixture) -> None:
    names = tuple(f"S{i}" for i in range(20))
    composition = np.stack([labelled.composition(s, 20) for s in range(len(labelled.table))])
    prior = np.array([0.1 * (labelled.positions(s).astype(np.float64) ** 2).sum() for s in range(len(labelled.table))])
    logging.getLogger("cg_train").propagate = True
    solved = energy_reference(labelled, EnergyReferenceConfig(solve=True, shift=3.0), names, prior)
    np.testing.assert_allclose(composition @ np.array(solved), composition @ SPECIES_ENERGIES, atol=1e-3)
    assert "rank 3" in caplog.text
    assert np.linalg.norm(solved) <= np.linalg.norm(SPECIES_ENERGIES)
    assert energy_reference(labelled, EnergyReferenceConfig(shift=-2.0), names) == (-2.0,) * 20
    mean = energy_reference(labelled, EnergyReferenceConfig(), names, prior)
    assert len(set(mean)) == 1
    given = {name: 1.0 for name in names}
    assert energy_reference(labelled, EnergyReferenceConfig(species=given, solve=True), names)[0] == 1.0
    with pytest.raises(UserError, match="occur in the data"):
        energy_reference(labelled, EnergyReferenceConfig(species={"S0": 1.0}), names)


def test_an_energy_weight_without_energies_is_one_clear_line(dataset: Dataset) -> None:
    source = GraphSource(dataset, select_frames(dataset, "train", DataConfig()), 7.0, 1.0)
    with pytest.raises(UserError, match="no training frame has an energy"):
        energy_reference(source, EnergyReferenceConfig(), ("A",) * 20)


def test_labels_survive_the_dataset_folder(labelled: GraphSource, tmp_path: Path) -> None:
    assert labelled.has("energy")
    assert labelled.stress(0) is not None
    assert labelled.graph(0).shifts is not None
