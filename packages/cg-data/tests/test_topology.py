import numpy as np
import pytest

from cg_data.topology import bonded_tuples, frame_graph, neighbour_edges


def test_bonded_tuples_of_one_segment_are_its_consecutive_runs():
    assert bonded_tuples(np.arange(4), np.zeros(4), 2).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert bonded_tuples(np.arange(4), np.zeros(4), 4).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_no_tuple_crosses_a_gap_in_numbering_or_a_new_segment(size):
    residue_index = np.array([1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17])
    chain_index = np.array([0] * 10 + [1] * 4)
    tuples = bonded_tuples(residue_index, chain_index, size)
    assert len(tuples) == sum(max(length - size + 1, 0) for length in (5, 5, 4))
    assert (np.diff(residue_index[tuples], axis=1) == 1).all()
    assert (np.ptp(chain_index[tuples], axis=1) == 0).all()


def test_tuples_come_from_residue_numbers_not_from_array_order():
    order = np.array([3, 0, 2, 1])
    residues = np.arange(10, 14)[order]
    assert residues[bonded_tuples(residues, np.zeros(4), 3)].tolist() == [[10, 11, 12], [11, 12, 13]]


def test_a_chain_shorter_than_the_tuple_has_none():
    assert bonded_tuples(np.arange(2), np.zeros(2), 3).shape == (0, 3)


def test_edges_are_every_ordered_pair_within_the_cutoff():
    positions = np.random.default_rng(0).uniform(0, 20, (60, 3))
    senders, receivers = neighbour_edges(positions, 7.0)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    expected = {(i, j) for i, j in np.argwhere(distances <= 7.0) if i != j}
    assert set(zip(senders.tolist(), receivers.tolist(), strict=True)) == expected
    assert len(senders) == len(expected)
    assert (np.diff(receivers) >= 0).all()


def test_a_frame_without_neighbours_has_no_edges():
    graph = frame_graph(np.array([[0.0, 0, 0], [50, 0, 0]]), np.zeros(2, np.int32), np.array([1, 5]), np.zeros(2), 10.0)
    assert graph.check("here").senders.shape == (0,)
    assert graph.bonds.shape == (0, 2)
