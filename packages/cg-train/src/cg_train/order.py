"""The order of training frames: a function of (seed, epoch) alone, the same on any number of processes."""

import functools

import numpy as np


class SampleOrder:
    """An endless stream of training frames, epoch after epoch, cut into batches.

    Each epoch is a permutation of [0, n_frames); with `weights` [n_frames] it is n_frames draws with replacement, with
    probabilities proportional to them. A step takes the next frames of the stream, so every batch is full, and the step
    number is the whole position in the data.
    """

    def __init__(self, seed: int, n_frames: int, weights: np.ndarray | None = None):
        self.n_frames = n_frames
        self._seed = seed
        self._cumulative = None if weights is None else np.cumsum(weights, dtype=np.float64)
        self._epoch = functools.lru_cache(maxsize=3)(self._make_epoch)

    def batch(self, step: int, size: int) -> np.ndarray:
        """Return [size] int64: what the step (counted from 0) learns from, as places in [0, n_frames)."""
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size, dtype=np.int64), self.n_frames)
        samples = np.empty(size, np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            samples[chosen] = self._epoch(int(epoch))[places[chosen]]
        return samples

    def _make_epoch(self, epoch: int) -> np.ndarray:
        generator = random_generator(self._seed, epoch)
        if self._cumulative is None:
            # Sorting raw draws, not Generator.permutation, whose algorithm NumPy may change.
            return np.argsort(generator.bit_generator.random_raw(self.n_frames), kind="stable")
        draws = generator.random(self.n_frames) * self._cumulative[-1]
        return np.searchsorted(self._cumulative, draws, side="right").clip(max=self.n_frames - 1)


def random_generator(seed: int, *counters: int) -> np.random.Generator:
    """Return a generator keyed by the seed and any counters (epoch, step, ...); equal keys give equal numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *counters))))
