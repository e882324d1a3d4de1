"""Replicas side by side have the edges and tuples they would have alone."""

import jax.numpy as jnp
import numpy as np

from cg_data.topology import frame_graph
from cg_eval.replicas import all_pairs, edges_within, make_replicas, most_neighbours, replica_forces
from cg_models.forces import energy_and_forces
from cg_models.testing import random_chain

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


def test_all_pairs_are_every_ordered_pair_of_a_replica():
    senders, receivers, mask = all_pairs(2, 4)
    pairs = {(a, b) for a in range(8) for b in range(8) if a != b and a // 4 == b // 4}
    assert edge_set(senders, receivers, mask) == pairs
    assert (receivers == np.arange(8)[:, None]).all()
    assert senders.dtype == np.int32


def test_energies_and_forces_come_back_per_replica():
    def evaluate(params, graph):
        energies = params * graph.positions[:, 0]
        return energies, -params * jnp.ones_like(graph.positions) * jnp.array([1.0, 0, 0])

    x = jnp.asarray(frames())
    replicas = make_replicas(3, np.zeros(12), np.arange(12), np.zeros(12))
    energies, forces, _ = replica_forces(replicas, evaluate, CUTOFF, 11)(2.0, x)
    np.testing.assert_allclose(energies, 2 * x[:, :, 0].sum(axis=1))
    assert forces.shape == x.shape


def test_forces_of_all_pairs_are_those_of_the_edges_within_the_cutoff(prior_bundle):
    x = jnp.asarray(np.stack([random_chain(12, seed) for seed in range(3)]))
    cutoff = prior_bundle.cutoff_angstrom
    species = prior_bundle.species_index(["ALA", "GLY", "LEU", "SER"] * 3)
    replicas = make_replicas(3, species, np.arange(12), np.zeros(12))
    evaluate = energy_and_forces(prior_bundle.energy_fn())
    within = edges_within(x, cutoff, int(most_neighbours(x, cutoff)))
    assert 0 < within[2].sum() < 3 * 12 * 11
    expected_energies, expected_forces = evaluate(prior_bundle.params, replicas.graph(x, *within))
    energies, forces, most = replica_forces(replicas, evaluate, cutoff, None)(prior_bundle.params, x)
    np.testing.assert_allclose(energies, expected_energies.reshape(3, 12).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(forces.reshape(-1, 3), expected_forces, rtol=1e-5, atol=1e-5)
    assert most == 0


def test_too_little_room_is_reported():
    x = jnp.asarray(frames())
    most = int(most_neighbours(x, CUTOFF))
    assert 1 < most < 11
    replicas = make_replicas(3, np.zeros(12), np.arange(12), np.zeros(12))
    evaluate = replica_forces(replicas, lambda params, graph: (graph.positions[:, 0], graph.positions), CUTOFF, most - 1)
    assert evaluate(None, x)[2] == most
