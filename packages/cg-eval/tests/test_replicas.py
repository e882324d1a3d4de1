"""Replicas side by side have the edges and tuples they would have alone."""

import jax.numpy as jnp
import numpy as np

from cg_data.topology import frame_graph
from cg_eval.replicas import edges_within, make_replicas, most_neighbours, replica_forces

CUTOFF = 8.0


def frames(n_replicas=3, n_beads=12):
    return np.random.default_rng(0).normal(scale=6.0, size=(n_replicas, n_beads, 3))


def edge_set(senders, receivers, mask):
    return set(zip(np.asarray(senders)[np.asarray(mask)].tolist(), np.asarray(receivers)[np.asarray(mask)].tolist(), strict=True))


def test_edges_are_those_of_each_frame_alone():
    x = frames()
    found = edge_set(*edges_within(jnp.asarray(x), CUTOFF, 11))
    expected = set()
    for replica, frame in enumerate(x):
        graph = frame_graph(frame, np.zeros(12), np.arange(12), np.zeros(12), CUTOFF)
        expected |= set(zip((graph.senders + 12 * replica).tolist(), (graph.receivers + 12 * replica).tolist(), strict=True))
    assert found == expected
    assert len(expected) > 20


def test_exactly_enough_room_loses_no_edge_and_too_little_is_detected():
    x = jnp.asarray(frames())
    most = int(most_neighbours(x, CUTOFF))
    complete = edge_set(*edges_within(x, CUTOFF, 11))
    assert edge_set(*edges_within(x, CUTOFF, most)) == complete
    assert len(edge_set(*edges_within(x, CUTOFF, most - 1))) < len(complete)


def test_row_i_holds_the_edges_that_bead_i_receives():
    senders, receivers, mask = edges_within(jnp.asarray(frames()), CUTOFF, 11)
    assert senders.shape == receivers.shape == mask.shape == (36, 11)
    assert (np.asarray(receivers) == np.arange(36)[:, None]).all()


def test_bonded_tuples_stay_inside_replicas_and_segments():
    replicas = make_replicas(2, np.zeros(5), np.array([0, 1, 2, 0, 1]), np.array([0, 0, 0, 1, 1]))
    x = frames(2, 5)
    graph = replicas.graph(x, *edges_within(jnp.asarray(x), CUTOFF, 4))
    assert graph.bonds.tolist() == [[0, 1], [1, 2], [3, 4], [5, 6], [6, 7], [8, 9]]
    assert graph.angles.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert graph.frame.tolist() == [0] * 5 + [1] * 5


def test_energies_and_forces_come_back_per_replica():
    def energy_and_forces(params, graph):
        energies = params * graph.positions[:, 0]
        return energies, -params * jnp.ones_like(graph.positions) * jnp.array([1.0, 0, 0])

    x = jnp.asarray(frames())
    replicas = make_replicas(3, np.zeros(12), np.arange(12), np.zeros(12))
    energies, forces = replica_forces(replicas, energy_and_forces, CUTOFF, 11)(2.0, x)
    np.testing.assert_allclose(energies, 2 * x[:, :, 0].sum(axis=1))
    assert forces.shape == x.shape


def test_replicas_in_chunks_have_the_energies_and_forces_they_have_together(monkeypatch):
    def energy_and_forces(params, graph):
        apart = graph.positions[graph.senders] - graph.positions[:, None]
        pull = jnp.where(graph.edge_mask[..., None], apart * (1 + graph.species[:, None, None]), 0.0)
        return params * (pull**2).sum((1, 2)), params * pull.sum(1)

    x = jnp.asarray(frames(6))
    replicas = make_replicas(6, np.arange(12) % 3, np.arange(12), np.zeros(12))
    together = replica_forces(replicas, energy_and_forces, CUTOFF, 11)(2.0, x)
    monkeypatch.setattr("cg_eval.replicas.EDGES_PER_CHUNK", 2 * 12 * 11)
    for found, expected in zip(replica_forces(replicas, energy_and_forces, CUTOFF, 11)(2.0, x), together, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
