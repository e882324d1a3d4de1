import dataclasses

import jax
import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_data.topology import frame_graph


def chain_frames(n_frames=3, n_beads=5):
    return BeadFrames(
        positions=np.cumsum(np.full((n_frames, n_beads, 3), 2.0, np.float32), axis=1),
        forces=np.zeros((n_frames, n_beads, 3), np.float32),
        species=np.zeros(n_beads, np.int32),
        residue_index=np.arange(n_beads, dtype=np.int32),
        chain_index=np.zeros(n_beads, np.int32),
        temperature=np.full(n_frames, 348.0, np.float32),
        trajectory=np.arange(n_frames, dtype=np.int32),
    )


def chain_graph():
    frames = chain_frames()
    return frame_graph(frames.positions[0], frames.species, frames.residue_index, frames.chain_index, cutoff=8.0)


def test_selected_frames_keep_bead_arrays_and_cut_frame_arrays():
    chosen = chain_frames().select(np.array([2, 0]))
    assert chosen.n_frames == 2
    assert chosen.trajectory.tolist() == [2, 0]
    assert chosen.species.shape == (5,)


def test_weights_and_errors_are_cut_with_their_frames():
    weight = np.array([1.0, 2.0, 3.0], np.float32)
    error = np.arange(45, dtype=np.float32).reshape(3, 5, 3)
    frames = dataclasses.replace(chain_frames(), weight=weight, force_error=error).check("here")
    chosen = frames.select(np.array([2, 0])).check("here")
    assert chosen.weight.tolist() == [3.0, 1.0]
    np.testing.assert_array_equal(chosen.force_error, error[[2, 0]])


def test_errors_of_forces_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="force_error without forces"):
        dataclasses.replace(chain_frames(), forces=None, force_error=np.zeros((3, 5, 3), np.float32)).check("here")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weight", np.ones((3, 5), np.float32), r"weight: expected shape \[3\], received \[3, 5\]"),
        ("weight", np.array([1, 0, 1], np.float32), "weight must be above 0; smallest is 0"),
        ("weight", np.array([1, np.inf, 1], np.float32), "weight must be finite; frame 1"),
        ("force_error", np.zeros((3, 5), np.float32), r"force_error: expected shape \[3, 5, 3\]"),
        ("force_error", np.full((3, 5, 3), -1, np.float32), "force_error must not be negative"),
        ("forces", np.zeros((2, 5, 3), np.float32), r"forces: expected shape \[3, 5, 3\], received \[2, 5, 3\]"),
        ("positions", np.zeros((3, 5, 3)), "positions: expected float32, received float64"),
        ("species", np.zeros(5, np.int64), "species: expected int32, received int64"),
        ("temperature", np.zeros(3, np.float32), "temperature must be above 0 K"),
    ],
)
def test_frames_that_break_the_contract_are_refused_by_field(field, value, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(chain_frames(), **{field: value}).check("here")


def test_a_frame_that_is_not_finite_is_named():
    positions = chain_frames().positions.copy()
    positions[1, 3, 0] = np.nan
    with pytest.raises(UserError, match="here: positions must be finite; frame 1 is not"):
        dataclasses.replace(chain_frames(), positions=positions).check("here")


def test_frames_without_forces_are_accepted():
    assert dataclasses.replace(chain_frames(), forces=None).check("here").forces is None


def test_a_graph_index_out_of_range_is_refused():
    graph = chain_graph()
    with pytest.raises(UserError, match=r"bonds: bead indices must lie in \[0, 5\)"):
        dataclasses.replace(graph, bonds=graph.bonds + 1).check("here")


def test_contracts_pass_through_jit_unchanged():
    graph = chain_graph().check("here")
    doubled = jax.jit(lambda g: dataclasses.replace(g, positions=2 * g.positions))(graph)
    np.testing.assert_array_equal(doubled.positions, 2 * graph.positions)
    np.testing.assert_array_equal(doubled.bonds, graph.bonds)


def test_contracts_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        chain_graph().positions = None
