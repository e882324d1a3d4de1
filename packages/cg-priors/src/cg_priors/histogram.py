"""Fine histograms of every coordinate, by key and by block of trajectories: all that the inversions need of the data.

They are accumulated in chunks, so a fit streams through any number of frames in bounded memory, and a bootstrap resamples
blocks without reading anything again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cg_data.command_line import track
from cg_data.contracts import BeadFrames
from cg_data.mapped import release_pages
from cg_data.topology import bonded_tuples
from cg_priors.binning import Counter, bin_numbers, chain_coordinates, chain_of, pair_distances
from cg_priors.energy import EXCLUDED_SEPARATIONS, REPULSION_SEPARATION, sequence_separation
from cg_priors.keys import KEY_COLUMNS, key_name

RANGES = {
    "bond": (2.0, 6.0, 1600),
    "angle": (0.0, np.pi, 720),
    "dihedral": (-np.pi, np.pi, 720),
    "repulsion": (0.0, 10.0, 800),
    "excluded_volume": (0.0, 10.0, 800),
}
"""Lowest value, highest value, bins of each coordinate; angstrom and radian."""
CHUNK_VALUES = 500_000
"""Coordinates of one term read and counted at once, which bounds the memory."""
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
        """Return [n_blocks, n_bins] counts of each key that occurs: views, not copies."""
        occurs = self.counts.sum((0, 2)) > 0
        return {name: self.counts[:, index] for index, name in enumerate(self.keys) if occurs[index]}


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
    frames: Sequence[BeadFrames], terms: Sequence[str], species_names: Sequence[str], pair_frames: int = 200
) -> dict[str, Histogram]:
    """Return the histogram of each named term over all frames, which must share one temperature.

    Non-bonded distances are taken below 10 angstrom, of at most `pair_frames` evenly spaced frames of each block and domain.
    Where frames carry weights, counts are sums of weights. A memory-mapped array's pages are given back as they are read.
    """
    blocks = trajectory_blocks(frames)
    n_blocks = 1 + max((int(block.max()) for block in blocks if len(block)), default=0)
    everything = [{term: _keyed_tuples(item, term, species_names) for term in terms} for item in frames]
    names = {term: sorted({name for keyed in everything for name in keyed[term].names}) for term in terms}
    weighted = any(item.weight is not None for item in frames)
    counts = {term: np.zeros((n_blocks, len(names[term]), RANGES[term][2]), float if weighted else np.int64) for term in terms}
    outside = dict.fromkeys(terms, 0)
    work = [(*each, number) for each in zip(frames, blocks, everything, strict=True) for number in np.unique(each[1])]
    for item, block, keyed, number in track(work, "histograms"):
        mine = np.flatnonzero(block == number)
        for term, found in _block_counts(item, mine, keyed, pair_frames, weighted).items():
            if term in ("angle", "dihedral"):
                # Rounding can put a value a hair beyond the ends.
                found[:, 1] += found[:, 0]
                found[:, -2] += found[:, -1]
            elif term == "bond":
                outside[term] += int(found[:, [0, -1]].sum())
            counts[term][number, [names[term].index(name) for name in keyed[term].names]] += found[:, 1:-1]
    return {term: Histogram(_centres(term), counts[term], tuple(names[term]), outside[term]) for term in terms}


@dataclass(frozen=True)
class KeyedTuples:
    """Tuples of one term in one domain, [n, width]; names [n_keys] of the rows they can have, and which each has, keys [n]."""

    tuples: np.ndarray
    names: list[str]
    keys: np.ndarray


def _keyed_tuples(item: BeadFrames, term: str, species_names: Sequence[str]) -> KeyedTuples:
    tuples = _tuples(item, term)
    kinds, keys = np.unique(np.asarray(item.species)[tuples][:, list(KEY_COLUMNS[term])], axis=0, return_inverse=True)
    names = [key_name(term, [species_names[kind] for kind in some]) for some in kinds]
    distinct = sorted(set(names))
    return KeyedTuples(tuples, distinct, np.array([distinct.index(name) for name in names], int)[keys.reshape(-1)])


def _block_counts(
    item: BeadFrames, mine: np.ndarray, keyed: Mapping[str, KeyedTuples], pair_frames: int, weighted: bool
) -> dict[str, np.ndarray]:
    """Return term -> [n_keys, n_bins + 2] counts over the frames `mine` of one domain, for terms that have tuples."""
    counters = {
        term: Counter(some.keys, len(some.names), RANGES[term][2], 2 * CHUNK_VALUES, weighted)
        for term, some in keyed.items()
        if len(some.tuples)
    }
    bonded = [term for term in counters if term in WIDTHS]
    if bonded:
        chain = chain_of(_tuples(item, "bond"))
        for positions, weights in _read(item, mine, len(chain.bonds)):
            for some, values in chain_coordinates(positions, chain):
                for term in bonded:
                    numbers = bin_numbers(values[term], *RANGES[term])
                    counters[term].add(slice(None), numbers, None if weights is None else weights[some])
    pairs = [term for term in counters if term not in WIDTHS]
    if pairs:
        thinned = mine if len(mine) <= pair_frames else mine[np.linspace(0, len(mine) - 1, pair_frames).round().astype(int)]
        for positions, weights in _read(item, thinned, item.n_beads):
            for term in pairs:
                for some, which, distances in pair_distances(positions, keyed[term].tuples):
                    counters[term].add(which, bin_numbers(distances, *RANGES[term]), None if weights is None else weights[some])
    return {term: counter.flush() for term, counter in counters.items()}


def _read(item: BeadFrames, mine: np.ndarray, n_tuples: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield positions [n, n_beads, 3] and weights [n] of some frames at a time."""
    size = max(1, CHUNK_VALUES // max(1, n_tuples))
    for start in range(0, len(mine), size):
        part = mine[start : start + size]
        some = slice(int(part[0]), int(part[-1]) + 1) if part[-1] - part[0] + 1 == len(part) else part
        yield np.asarray(item.positions[some]), None if item.weight is None else np.asarray(item.weight[some], np.float64)
        release_pages(item.positions)


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


def sampled_range(histogram: np.ndarray, centres: np.ndarray, quantile: float = 1e-4) -> tuple[float, float]:
    """Return the quantiles of [n_bins] counts at `quantile` and 1 - `quantile`: the range that the data speak for."""
    cumulative = np.cumsum(histogram) / histogram.sum()
    first = int(np.searchsorted(cumulative, quantile, side="right"))
    last = int(np.searchsorted(cumulative, 1 - quantile, side="left"))
    half = 0.5 * (centres[1] - centres[0])
    return float(centres[first] - half), float(centres[min(last, len(centres) - 1)] + half)
