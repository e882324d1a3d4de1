"""Structure scores of copies, half copies and noise; slow coordinates of processes whose timescales are known."""

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_eval.structure import gdt_ts, lddt_ca, tm_score
from cg_eval.tica import tica

ROTATION = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


@pytest.fixture
def chain():
    steps = np.random.default_rng(0).normal(size=(60, 3))
    return np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)


@pytest.mark.parametrize("score", [tm_score, gdt_ts, lddt_ca])
def test_a_rotated_copy_scores_one(score, chain):
    np.testing.assert_allclose(score(np.stack([chain @ ROTATION + 7.0, chain]), chain), 1.0)


def test_scores_of_a_chain_whose_second_half_swung_away(chain):
    moved = chain.copy()
    moved[30:] = (chain[30:] - chain[30]) @ ROTATION + chain[30] + [200.0, 0, 0]
    assert gdt_ts(moved[None], chain)[0] == pytest.approx(0.5, abs=0.05)
    assert 0.5 <= tm_score(moved[None], chain)[0] < 0.52
    first, second = np.triu_indices(60, k=1)
    near = np.linalg.norm(chain[first] - chain[second], axis=1) < 15
    assert lddt_ca(moved[None], chain)[0] == pytest.approx(((first < 30) == (second < 30))[near].mean(), abs=0.01)


def test_gdt_ts_of_a_uniform_displacement_counts_the_cutoffs_it_meets():
    straight = np.zeros((40, 3))
    straight[:, 0] = 100.0 * np.arange(40)
    moved = straight.copy()
    moved[:, 1] = 3.0 * np.where(np.arange(40) % 2, 1, -1)
    assert 0.5 <= gdt_ts(moved[None], straight)[0] <= 0.76


def test_lddt_equals_its_hand_computed_value():
    reference = np.array([[0.0, 0, 0], [4.0, 0, 0], [8.0, 0, 0]])
    model = np.array([[0.0, 0, 0], [4.7, 0, 0], [8.0, 0, 0]])
    # Two of three distances change by 0.7: kept at 1, 2 and 4 A; the third is kept everywhere.
    assert lddt_ca(model[None], reference)[0] == pytest.approx((1 / 3 + 1 + 1 + 1) / 4)


def test_tica_finds_the_slow_coordinate_and_its_timescale():
    generator = np.random.default_rng(1)
    relaxations = np.exp(-1 / np.array([50.0, 5.0]))
    mixing = np.array([[1.0, 2.0, 0.5], [-1.0, 1.0, 3.0]])
    trajectories, hidden = [], []
    for _ in range(8):
        x = np.zeros((4000, 2))
        for step in range(1, len(x)):
            x[step] = relaxations * x[step - 1] + np.sqrt(1 - relaxations**2) * generator.normal(size=2)
        hidden.append(x)
        trajectories.append(x @ mixing)
    found = tica(trajectories, lag=2)
    np.testing.assert_allclose(found.timescales, [50.0, 5.0], rtol=0.25)
    slow = found.project(trajectories[0])[:, 0]
    assert abs(np.corrcoef(slow, hidden[0][:, 0])[0, 1]) > 0.98
    assert np.concatenate([found.project(x) for x in trajectories]).std(axis=0) == pytest.approx(1.0, rel=0.02)


def test_few_frames_do_not_make_slow_coordinates_out_of_noise():
    noise = [np.random.default_rng(seed).normal(size=(40, 60)) for seed in range(2)]
    assert tica(noise, lag=2).timescales[0] > 5
    assert tica(noise, lag=2, most_dimensions=4).timescales[0] < 3


def test_tica_of_trajectories_shorter_than_the_lag_is_refused():
    with pytest.raises(UserError, match="lower it"):
        tica([np.zeros((5, 2))], lag=5)
