import numpy as np
import pytest

from cg_train.order import SampleOrder


@pytest.mark.parametrize(("n_frames", "batch"), [(10, 4), (7, 7), (5, 12)])
def test_every_epoch_visits_every_frame_once(n_frames: int, batch: int) -> None:
    order = SampleOrder(3, n_frames)
    stream = np.concatenate([order.batch(step, batch) for step in range(3 * n_frames)])
    for epoch in range(3):
        assert sorted(stream[epoch * n_frames : (epoch + 1) * n_frames]) == list(range(n_frames))


def test_batches_depend_on_seed_and_step_alone() -> None:
    forwards = [SampleOrder(1, 50).batch(step, 8).tolist() for step in range(20)]
    order = SampleOrder(1, 50)
    backwards = [order.batch(step, 8).tolist() for step in reversed(range(20))][::-1]
    assert forwards == backwards
    assert forwards != [SampleOrder(2, 50).batch(step, 8).tolist() for step in range(20)]


def test_epochs_differ() -> None:
    order = SampleOrder(0, 40)
    assert order.batch(0, 40).tolist() != order.batch(1, 40).tolist()


def test_weights_set_how_often_frames_are_drawn() -> None:
    weights = np.array([1.0, 3.0, 0.0, 4.0])
    stream = np.concatenate([SampleOrder(5, 4, weights).batch(step, 400) for step in range(20)])
    assert np.bincount(stream, minlength=4) / len(stream) == pytest.approx(weights / weights.sum(), abs=0.02)
