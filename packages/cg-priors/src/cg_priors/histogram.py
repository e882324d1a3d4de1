"""Fine histograms of every coordinate, by key and by block of trajectories: all that the inversions need of the data.

They are accumulated in chunks, so a fit streams through any number of frames in bounded memory, and a bootstrap resamples
blocks without reading anything again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cg_data.command_line import track
from cg_data.contracts import BeadFrames
from cg_data.topology import bonded_tuples
from cg_priors.energy import EXCLUDED_SEPARATIONS, REPULSION_SEPARATION, TERM_KINDS, sequence_separation
from cg_priors.keys import flat_keys, key_names

RANGES = {
    "bond": (2.0, 6.0, 1600),
    "angle": (0.0, np.pi, 720),
    "dihedral": (-np.pi, np.pi, 720),
    "repulsion": (0.0, 10.0, 800),
    "excluded_volume": (0.0, 10.0, 800),
}
"""Lowest value, highest value, bins of each coordinate; angstrom and radian."""
CHUNK_COORDINATES = 1_000_000
"""Coordinates computed at once, which bounds the memory."""
WIDTHS = {"bond": 2, "angle": 3, "dihedral": 4}


@dataclass(frozen=True)
class Histogram:
    """Counts of one coordinate.

    centres [n_bins] angstrom or radian; counts [n_blocks, n_keys, n_bins]; keys: row name of each key; outside: samples that
    fell beyond the range.
    """

    centres: np.ndarray
    counts: np.ndarray
    keys: tuple[str, ...]
    outside: int

    @property
    def width(self) -> float:
        """Width of a bin."""
        return float(self.centres[1] - self.centres[0])

    def by_name(self) -> dict[str, np.ndarray]:
        """Return [n_blocks, n_bins] counts of each key that occurs."""
        groups: dict[str, np.ndarray] = {}
        for index in np.flatnonzero(self.counts.any(axis=(0, 2))):
            name = self.keys[index]
            groups[name] = groups.get(name, 0) + self.counts[:, index]
        return groups


def trajectory_blocks(frames: Sequence[BeadFrames], smallest_number: int = 10, largest_number: int = 64) -> list[np.ndarray]:
    """Return the block of every frame, one [n_frames] int32 array per domain.

    A block is a trajectory; trajectories are cut into equal stretches of time where there are fewer than `smallest_number`, and
    dealt to `largest_number` groups where there are more.
    """
    trajectories = [(domain, value) for domain, item in enumerate(frames) for value in np.unique(item.trajectory)]
    pieces = max(1, -(-smallest_number // max(1, len(trajectories))))
    blocks = [np.zeros(item.n_frames, np.int32) for item in frames]
    for number, (domain, value) in enumerate(trajectories):
        mine = np.flatnonzero(np.asarray(frames[domain].trajectory) == value)
        for piece, part in enumerate(np.array_split(mine, pieces)):
            blocks[domain][part] = (number * pieces + piece) % largest_number
    return blocks


def accumulate(
    frames: Sequence[BeadFrames], terms: Sequence[str], species_names: Sequence[str], pair_frames: int = 1000
) -> dict[str, Histogram]:
    """Return the histogram of each named term over all frames, which must share one temperature.

    Non-bonded distances are taken below 10 angstrom, of at most `pair_frames` evenly spaced frames of each block and domain.
    """
    blocks = trajectory_blocks(frames)
    n_blocks = 1 + max((int(block.max()) for block in blocks if len(block)), default=0)
    counts = {term: np.zeros((n_blocks, len(key_names(term, species_names)), RANGES[term][2]), np.int64) for term in terms}
    outside = dict.fromkeys(terms, 0)
    for item, block in track(list(zip(frames, blocks, strict=True)), "histograms"):
        for term in terms:
            tuples = _tuples(item, term)
            if not len(tuples):
                continue
            keys = flat_keys(term, np.asarray(item.species)[tuples], len(species_names))
            for some, number in _chunks(block, len(tuples), None if term in WIDTHS else pair_frames):
                outside[term] += _count(counts[term][number], np.asarray(item.positions[some]), tuples, keys, term)
    return {term: Histogram(_centres(term), counts[term], tuple(key_names(term, species_names)), outside[term]) for term in terms}


def _centres(term: str) -> np.ndarray:
    low, high, bins = RANGES[term]
    return low + (np.arange(bins) + 0.5) * (high - low) / bins


def _tuples(item: BeadFrames, term: str) -> np.ndarray:
    if term in WIDTHS:
        return bonded_tuples(item.residue_index, item.chain_index, WIDTHS[term])
    first, second = np.triu_indices(item.n_beads, 1)
    separation = sequence_separation(np.asarray(item.residue_index), np.asarray(item.chain_index), first, second)
    low, high = EXCLUDED_SEPARATIONS
    chosen = separation >= REPULSION_SEPARATION if term == "repulsion" else (separation >= low) & (separation <= high)
    return np.stack([first, second], 1)[chosen]


def _chunks(block: np.ndarray, n_tuples: int, most: int | None) -> Iterator[tuple[slice | np.ndarray, int]]:
    """Yield runs of frames of one block, small enough, with the block's number; of each block at most `most` frames."""
    size = max(1, CHUNK_COORDINATES // n_tuples)
    for number in np.unique(block):
        mine = np.flatnonzero(block == number)
        if most is not None and len(mine) > most:
            mine = mine[np.linspace(0, len(mine) - 1, most).round().astype(int)]
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            whole = part[-1] - part[0] + 1 == len(part)
            yield (slice(int(part[0]), int(part[-1]) + 1) if whole else part), int(number)


def _count(counts: np.ndarray, positions: np.ndarray, tuples: np.ndarray, keys: np.ndarray, term: str) -> int:
    """Add the coordinates of [n_frames, n_beads, 3] positions to [n_keys, n_bins] counts; return how many fell outside."""
    low, high, bins = RANGES[term]
    values = TERM_KINDS[term].feature(positions[:, tuples])
    index = np.floor((values - low) * (bins / (high - low))).astype(np.int64)
    if term in ("angle", "dihedral"):
        np.clip(index, 0, bins - 1, out=index)
    inside = (index >= 0) & (index < bins)
    flat = (keys[None, :] * bins + index)[inside]
    counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
    return 0 if term in ("repulsion", "excluded_volume") else int(inside.size - inside.sum())


def sampled_range(histogram: np.ndarray, centres: np.ndarray, quantile: float = 1e-4) -> tuple[float, float]:
    """Return the quantiles of [n_bins] counts at `quantile` and 1 - `quantile`: the range that the data speak for."""
    cumulative = np.cumsum(histogram) / histogram.sum()
    first = int(np.searchsorted(cumulative, quantile, side="right"))
    last = int(np.searchsorted(cumulative, 1 - quantile, side="left"))
    half = 0.5 * (centres[1] - centres[0])
    return float(centres[first] - half), float(centres[min(last, len(centres) - 1)] + half)


def pooled(histograms: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the [n_blocks, n_bins] sum over keys."""
    return np.sum(list(histograms.values()), axis=0)
