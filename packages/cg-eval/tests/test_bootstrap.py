"""The bootstrap resamples trajectories, not frames."""

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_eval.bootstrap import bootstrap, bootstrap_weights, join_blocks, resampled_sums, time_blocks


def mean_of(sums):
    return sums[:, 0] / sums[:, 1]


def interval_of(values, trajectory, block_frames, **options):
    blocks = time_blocks(trajectory, block_frames)
    return bootstrap(blocks.add_up(np.stack([values, np.ones_like(values)], axis=1)), mean_of, blocks, **options)


def test_blocks_are_contiguous_in_time_and_never_cross_a_trajectory():
    trajectory = np.array([7] * 10 + [2] * 4)
    blocks = time_blocks(trajectory, 3)
    assert blocks.n_trajectories == 2
    for block in range(blocks.n_blocks):
        members = np.flatnonzero(blocks.block_of_frame == block)
        assert (np.diff(members) == 1).all()
        assert len(np.unique(trajectory[members])) == 1
    assert blocks.add_up(np.ones(14)).sum() == 14


def test_a_resample_holds_as_many_trajectories_and_blocks_as_the_data():
    weights = bootstrap_weights(np.array([0, 0, 1, 1, 2, 2]), 200, seed=1)
    assert (weights.sum(axis=1) == 6).all()
    assert (weights.reshape(200, 3, 2).sum(axis=2) % 2 == 0).all()
    assert (weights[:, :2] == 0).all(axis=1).any()


def test_resampled_sums_are_those_of_the_weights_for_thousands_of_trajectories_too():
    trajectory = np.array([3, 3, 0, 7, 7, 7])
    sums = np.random.default_rng(0).normal(size=(6, 2, 3))
    blocks = time_blocks(trajectory, 1)
    expected = np.tensordot(bootstrap_weights(blocks.trajectory_of_block, 50, seed=2), sums, axes=1)
    np.testing.assert_allclose(resampled_sums(sums, blocks, 50, seed=2), expected, atol=1e-12)
    many = time_blocks(np.arange(20_000), 1)
    # Comparisons of each with each would be 4e10.
    assert resampled_sums(np.ones(20_000), many, 100).tolist() == [20_000] * 100


def test_interval_reflects_differences_between_trajectories_not_the_number_of_frames():
    generator = np.random.default_rng(0)
    trajectory = np.repeat(np.arange(12), 500)
    level = generator.normal(size=12)[trajectory]
    interval = interval_of(level, trajectory, 50, seed=3)
    expected = level[::500].std(ddof=1) / np.sqrt(12)
    width = (interval.high - interval.low) / (2 * 1.96)
    assert width == pytest.approx(expected, rel=0.25)
    assert interval.low < interval.estimate < interval.high


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(4)
    trajectory = np.repeat(np.arange(20), 10)
    covered = 0
    for _ in range(200):
        values = generator.normal(size=20)[trajectory] + generator.normal(size=200)
        interval = interval_of(values, trajectory, 5, n_resamples=200)
        covered += interval.low <= 0 <= interval.high
    assert 0.86 <= covered / 200 <= 0.99


def test_one_trajectory_is_resampled_by_blocks_and_says_so():
    generator = np.random.default_rng(2)
    interval = interval_of(generator.normal(size=400), np.zeros(400, int), 20)
    assert interval.n_trajectories == 1
    assert interval.n_blocks == 20
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.35)


def test_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=60)
    assert interval_of(values, np.repeat([0, 1, 2], 20), 5, seed=9) == interval_of(values, np.repeat([0, 1, 2], 20), 5, seed=9)


def test_blocks_of_two_domains_keep_their_trajectories_apart():
    both = join_blocks([time_blocks([0] * 6, 2), time_blocks([0] * 4, 2)])
    assert both.n_trajectories == 2
    assert both.n_blocks == 5
    assert both.block_of_frame.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_sums_of_another_number_of_blocks_are_refused():
    with pytest.raises(UserError, match="expected sums of 2 blocks"):
        bootstrap(np.ones((3, 2)), mean_of, time_blocks([0] * 4, 2))


def test_one_block_has_no_interval():
    blocks = time_blocks(np.zeros(5, int), 20)
    interval = bootstrap(np.array([[3.0, 1.0]]), lambda s: s[:, 0] / s[:, 1], blocks)
    assert interval.estimate == 3.0
    assert np.isnan([interval.low, interval.high]).all()
