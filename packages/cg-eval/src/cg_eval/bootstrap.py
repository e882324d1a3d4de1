"""Uncertainty by a cluster bootstrap over trajectories, with contiguous time blocks inside each.

Frames of one trajectory are correlated, so a bootstrap over frames reports intervals that are far too narrow. Here whole
trajectories are drawn with replacement, and inside each drawn trajectory its contiguous time blocks are drawn with
replacement. With one trajectory only the second draw remains: the interval then speaks of that trajectory alone.
"""

from collections.abc import Callable
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

    def followed_by(self, other: "Blocks") -> "Blocks":
        """Return the blocks of these frames followed by other frames, whose trajectories are all different ones."""
        offset = 0 if self.n_blocks == 0 else int(self.trajectory_of_block.max()) + 1
        return Blocks(
            np.concatenate([self.block_of_frame, other.block_of_frame + self.n_blocks]),
            np.concatenate([self.trajectory_of_block, other.trajectory_of_block + offset]),
            self.block_frames,
        )


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


def bootstrap_weights(trajectory_of_block: Array, n_resamples: int, seed: int) -> np.ndarray:
    """Return [n_resamples, n_blocks] int64: how often each block is drawn in each resample.

    As many trajectories as there are are drawn with replacement; inside each drawn one, as many blocks as it has.
    """
    trajectory_of_block = np.asarray(trajectory_of_block)
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(trajectory_of_block == name) for name in np.unique(trajectory_of_block)]
    drawn = generator.integers(len(members), size=(n_resamples, len(members)))
    weights = np.zeros((n_resamples, len(trajectory_of_block)), np.int64)
    for number, blocks in enumerate(members):
        times = (drawn == number).sum(axis=1)
        weights[:, blocks] = generator.multinomial(times * len(blocks), np.full(len(blocks), 1.0 / len(blocks)))
    return weights


def bootstrap(
    sums: Array, statistic: Callable[[np.ndarray], Array], blocks: Blocks, n_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the estimate and percentile interval of a statistic of sums over blocks.

    sums [n_blocks, ...]; statistic maps sums [k, ...] of k resamples to [k] values, so a paired difference of two models is a
    statistic of their stacked sums. With few trajectories (under about 10) a percentile interval is somewhat too narrow; the
    number of trajectories is part of the result so that a reader can judge. One block has no spread: its interval is NaN.
    """
    sums = np.asarray(sums, np.float64)
    require(len(sums) == blocks.n_blocks, f"bootstrap: expected sums of {blocks.n_blocks} blocks, received {len(sums)}")
    weights = bootstrap_weights(blocks.trajectory_of_block, n_resamples, seed)
    values = np.asarray(statistic(np.tensordot(weights, sums, axes=1)))
    estimate = float(np.asarray(statistic(sums.sum(axis=0)[None]))[0])
    tail = 50.0 * (1.0 - level)
    known = blocks.n_blocks > 1 and np.isfinite(values).any()
    low, high = np.nanpercentile(values, [tail, 100.0 - tail]) if known else (np.nan, np.nan)
    return Interval(estimate, float(low), float(high), level, blocks.n_trajectories, blocks.n_blocks, blocks.block_frames)
