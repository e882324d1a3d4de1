"""Uncertainty by a cluster bootstrap over trajectories, with contiguous time blocks inside each.

Frames of one trajectory are correlated, so a bootstrap over frames reports intervals that are far too narrow. Here whole
trajectories are drawn with replacement, and inside each drawn trajectory its contiguous time blocks are drawn with
replacement. With one trajectory only the second draw remains: the interval then speaks of that trajectory alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from cg_data.contracts import Array
from cg_data.errors import require


@dataclass(frozen=True)
class Blocks:
    """Contiguous time blocks of a set of frames.

    block_of_frame        [n_frames] int, the block of each frame; blocks are numbered from 0 without gaps
    trajectory_of_block   [n_blocks] int, the trajectory of each block, numbered from 0 without gaps
    block_frames          frames aimed at per block
    """

    block_of_frame: np.ndarray
    trajectory_of_block: np.ndarray
    block_frames: int

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.trajectory_of_block)

    @property
    def n_trajectories(self) -> int:
        """Number of trajectories."""
        return len(np.unique(self.trajectory_of_block))

    def add_up(self, values: Array) -> np.ndarray:
        """Return [n_blocks, ...], the sums of per-frame values [n_frames, ...] over each block."""
        values = np.asarray(values)
        sums = np.zeros((self.n_blocks, *values.shape[1:]), values.dtype)
        np.add.at(sums, self.block_of_frame, values)
        return sums


@dataclass(frozen=True)
class Interval:
    """An estimate and the central interval of its bootstrap distribution."""

    estimate: float
    low: float
    high: float
    level: float
    n_trajectories: int
    n_blocks: int
    block_frames: int

    def to_dict(self) -> dict[str, float | int]:
        """Return plain values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.n_blocks < 2:
            return f"{self.estimate:.4g} [one block: none]"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def time_blocks(trajectory: Array, block_frames: int) -> Blocks:
    """Cut each trajectory into contiguous blocks of about `block_frames` frames each.

    trajectory [n_frames] int, frames of one trajectory in the order of time.
    """
    require(block_frames >= 1, f"block_frames: expected at least 1, received {block_frames}")
    trajectory = np.asarray(trajectory)
    block_of_frame = np.zeros(len(trajectory), np.int64)
    trajectory_of_block: list[int] = []
    for number, name in enumerate(np.unique(trajectory)):
        members = np.flatnonzero(trajectory == name)
        n_blocks = max(1, round(len(members) / block_frames))
        inside = np.arange(len(members)) * n_blocks // len(members)
        block_of_frame[members] = inside + len(trajectory_of_block)
        trajectory_of_block += [number] * n_blocks
    return Blocks(block_of_frame, np.asarray(trajectory_of_block, np.int64), block_frames)


def join_blocks(parts: Sequence[Blocks]) -> Blocks:
    """Return the blocks of several sets of frames one after another, whose trajectories are all different ones; one part or more."""
    first_block = np.cumsum([0, *(part.n_blocks for part in parts)])
    first_trajectory = np.cumsum([0, *(int(part.trajectory_of_block.max(initial=-1)) + 1 for part in parts)])
    return Blocks(
        np.concatenate([part.block_of_frame + first for part, first in zip(parts, first_block, strict=False)]),
        np.concatenate([part.trajectory_of_block + first for part, first in zip(parts, first_trajectory, strict=False)]),
        parts[0].block_frames,
    )


def bootstrap_weights(trajectory_of_block: Array, n_resamples: int, seed: int) -> np.ndarray:
    """Return [n_resamples, n_blocks] int64: how often each block is drawn in each resample.

    As many trajectories as there are are drawn with replacement; inside each drawn one, as many blocks as it has.
    """
    weights = np.zeros((n_resamples, len(trajectory_of_block)), np.int64)
    for members, drawn in _draws(trajectory_of_block, n_resamples, seed):
        weights[:, members] = drawn
    return weights


def resampled_sums(sums: Array, blocks: Blocks, n_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Return [n_resamples, ...] float64: sums [n_blocks, ...] over blocks, drawn as `bootstrap_weights` says.

    Time and memory grow with the blocks as the sums themselves do: weights of one trajectory are held at a time.
    """
    sums = np.asarray(sums, np.float64)
    require(len(sums) == blocks.n_blocks, f"bootstrap: expected sums of {blocks.n_blocks} blocks, received {len(sums)}")
    totals = np.zeros((n_resamples, *sums.shape[1:]))
    for members, drawn in _draws(blocks.trajectory_of_block, n_resamples, seed):
        totals += np.tensordot(drawn, sums[members], axes=1)
    return totals


def interval_of(estimate: float, values: Array, blocks: Blocks, level: float = 0.95) -> Interval:
    """Return the percentile interval of a statistic's values [n_resamples] of `resampled_sums`.

    With few trajectories (under about 10) it is somewhat too narrow; the number of trajectories is part of the result so that a
    reader can judge. One block has no spread: its interval is NaN.
    """
    tail, values = 50.0 * (1.0 - level), np.asarray(values)
    known = blocks.n_blocks > 1 and np.isfinite(values).any()
    low, high = np.nanpercentile(values, [tail, 100.0 - tail]) if known else (np.nan, np.nan)
    return Interval(float(estimate), float(low), float(high), level, blocks.n_trajectories, blocks.n_blocks, blocks.block_frames)


def bootstrap(
    sums: Array, statistic: Callable[[np.ndarray], Array], blocks: Blocks, n_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the estimate and percentile interval of a statistic of sums over blocks.

    sums [n_blocks, ...]; statistic maps sums [k, ...] of k resamples to [k] values, so a paired difference of two models is a
    statistic of their stacked sums. The interval is that of `interval_of`.
    """
    sums = np.asarray(sums, np.float64)
    values = statistic(resampled_sums(sums, blocks, n_resamples, seed))
    return interval_of(np.asarray(statistic(sums.sum(axis=0)[None]))[0], values, blocks, level)


def _draws(trajectory_of_block: Array, n_resamples: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (blocks [k], how often each is drawn in each resample [n_resamples, k]) of each trajectory."""
    _, trajectory = np.unique(trajectory_of_block, return_inverse=True)
    n_blocks = np.bincount(trajectory)
    n, generator = len(n_blocks), np.random.default_rng(seed)
    times = np.stack([np.bincount(generator.integers(n, size=n), minlength=n).astype(np.int32) for _ in range(n_resamples)], axis=1)
    ordered = np.split(np.argsort(trajectory, kind="stable"), np.cumsum(n_blocks)[:-1])
    for members, drawn in zip(ordered, times, strict=True):
        yield members, generator.multinomial(drawn * len(members), np.full(len(members), 1.0 / len(members)))
