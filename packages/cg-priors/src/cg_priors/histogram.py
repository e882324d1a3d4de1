"""Fine histograms of every coordinate, by key and by block of trajectories: all that the inversions need of the data.

They are accumulated in one pass over the frames, in blocks and by all cores, so a fit streams through any number of frames in
bounded memory; every number is checked in that pass, and a bootstrap resamples blocks without reading anything again.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from cg_data.command_line import track
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_data.mapped import as_slice, first_not_finite, in_memory
from cg_data.topology import bonded_tuples
from cg_priors import binning
from cg_priors.binning import NOWHERE, chain_counter, pair_places
from cg_priors.energy import EXCLUDED_SEPARATIONS, REPULSION_SEPARATION, sequence_separation
from cg_priors.keys import KEY_COLUMNS, POOLED, key_name

Item = TypeVar("Item")
Result = TypeVar("Result")

RANGES = {
    "bond": (2.0, 6.0, 1600),
    "angle": (0.0, np.pi, 720),
    "dihedral": (-np.pi, np.pi, 720),
    "repulsion": (0.0, 10.0, 800),
    "excluded_volume": (0.0, 10.0, 800),
}
"""Lowest value, highest value, bins of each coordinate; angstrom and radian."""
STRETCH_BEADS = 4_000_000
"""Beads of the frames that a thread counts in one go: far from what an int32 count can hold."""
PLACES_STEP = 1 << 16
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
    frames: Sequence[BeadFrames],
    terms: Sequence[str],
    species_names: Sequence[str],
    pair_frames: int = 200,
    pooled: Collection[str] = (),
) -> dict[str, Histogram]:
    """Return the histogram of each named term over all frames, which must share one temperature.

    Non-bonded distances are taken below 10 angstrom, of at most `pair_frames` evenly spaced frames of each block and domain.
    Terms in `pooled` have one key for all residues, `*`, which takes less memory and time. Where frames carry weights, counts are
    sums of weights. Memory-mapped positions are read in pieces that do not stay. Raises `UserError` where a position is not finite.
    """
    blocks = trajectory_blocks(frames)
    n_blocks = 1 + max((int(block.max()) for block in blocks if len(block)), default=0)
    tables = [Table.of(item, terms, species_names, pooled) for item in frames]
    names = {term: sorted({name for table in tables for name in table.names[term]}) for term in terms}
    weighted = any(item.weight is not None for item in frames)
    counts = {term: np.zeros((n_blocks, len(names[term]), RANGES[term][2]), float if weighted else np.int64) for term in terms}
    outside = dict.fromkeys(terms, 0)
    block = max([binning.BLOCK_ROWS, *(item.n_beads for item in frames)]), binning.BLOCK_FRAMES
    # Rounded, so that fits of similar data find the function compiled.
    n_places = max(table.bonded_size for table in tables) // PLACES_STEP * PLACES_STEP + PLACES_STEP
    counter = chain_counter(block, n_places, tuple(RANGES[term] for term in WIDTHS), weighted)

    def count(stretch: Stretch) -> np.ndarray:
        item, table = frames[stretch.domain], tables[stretch.domain]
        with jax.enable_x64(weighted):
            return _count(stretch, item, table, counter, block, n_places, weighted)

    work = _stretches(frames, blocks, tables, pair_frames)
    for stretch, found in zip(work, track(_in_threads(count, work), "histograms", len(work)), strict=True):
        for term, own in tables[stretch.domain].split(found).items():
            if term in ("angle", "dihedral"):
                # Rounding can put a value a hair beyond the ends.
                own[:, 1] += own[:, 0]
                own[:, -2] += own[:, -1]
            elif term == "bond":
                outside[term] += int(own[:, [0, -1]].sum())
            rows = [names[term].index(name) for name in tables[stretch.domain].names[term]]
            counts[term][stretch.block, rows] += own[:, 1:-1]
    return {term: Histogram(_centres(term), counts[term], tuple(names[term]), outside[term]) for term in terms}


@dataclass(frozen=True)
class Table:
    """Where the counts of one domain lie in one array: for each term, a row for each key, with one more bin at both ends.

    order        indices [n_beads] of the beads in the order of the chains, or a slice where that is theirs
    chain, pairs [3, n_beads], [n_beads, n_beads]: offsets as in `binning`, of beads in that order, None where there are none
    names        of the keys of each term
    first        each term's place
    bonded_size  places of the bonded terms, which come first; the others' offsets are from there
    size         places in all
    """

    order: np.ndarray | slice
    chain: np.ndarray | None
    pairs: np.ndarray | None
    names: Mapping[str, list[str]]
    first: Mapping[str, int]
    bonded_size: int
    size: int

    @classmethod
    def of(cls, item: BeadFrames, terms: Sequence[str], species_names: Sequence[str], pooled: Collection[str]) -> "Table":
        """Return the table of a domain."""
        order = np.lexsort((np.asarray(item.residue_index), np.asarray(item.chain_index)))
        place = np.argsort(order)
        chain = np.full((3, item.n_beads), NOWHERE, np.int32)
        pairs = np.full((item.n_beads, item.n_beads), -1, np.int32)
        all_names: dict[str, list[str]] = {}
        first: dict[str, int] = {}
        size = bonded_size = 0
        for term in sorted(terms, key=lambda name: name not in WIDTHS):
            tuples = _tuples(item, term)
            keys = np.zeros(len(tuples), int)
            all_names[term] = [POOLED] if len(tuples) else []
            if term not in pooled:
                all_names[term], keys = _keys(item, term, tuples, species_names)
            bins = RANGES[term][2] + 2
            first[term] = size
            size += bins * len(all_names[term])
            if term in WIDTHS:
                chain[list(WIDTHS).index(term), place[tuples[:, 0]]] = first[term] + 1 + bins * keys
                bonded_size = size
            else:
                pairs[tuple(np.sort(place[tuples], 1).T)] = first[term] + 1 + bins * keys - bonded_size
        some_chain, some_pairs = bool((chain < NOWHERE).any()), bool((pairs >= 0).any())
        return cls(as_slice(order), chain if some_chain else None, pairs if some_pairs else None, all_names, first, bonded_size, size)

    def split(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Return [n_keys, n_bins + 2] counts of each term: views."""
        shapes = {term: (len(names), RANGES[term][2] + 2) for term, names in self.names.items()}
        return {term: counts[self.first[term] :][: shape[0] * shape[1]].reshape(shape) for term, shape in shapes.items()}


@dataclass(frozen=True)
class Stretch:
    """Some frames [n] of one block of one domain, and those of them [n_paired] whose pairs are looked at."""

    domain: int
    block: int
    frames: np.ndarray
    paired: np.ndarray


def _stretches(frames: Sequence[BeadFrames], blocks: Sequence[np.ndarray], tables: Sequence[Table], pair_frames: int) -> list[Stretch]:
    work = []
    for domain, (item, block, table) in enumerate(zip(frames, blocks, tables, strict=True)):
        for number in np.unique(block):
            mine = np.flatnonzero(block == number)
            paired = mine if len(mine) <= pair_frames else mine[np.linspace(0, len(mine) - 1, pair_frames).round().astype(int)]
            if table.chain is None:
                mine = paired
            size = max(1, STRETCH_BEADS // item.n_beads)
            for part in (mine[start : start + size] for start in range(0, len(mine), size)):
                work.append(Stretch(domain, int(number), part, paired[(paired >= part[0]) & (paired <= part[-1])]))
    return work


def _count(
    stretch: Stretch, item: BeadFrames, table: Table, counter: Callable[..., Any], block: tuple[int, int], n_places: int, weighted: bool
) -> np.ndarray:
    """Return the counts of the frames of a stretch in the table of their domain, [size]; block: as in `chain_counter`."""
    n_beads, (n_rows, n_frames) = item.n_beads, block
    groups = n_rows // n_beads
    counts = np.zeros(n_places, np.float64 if weighted else np.int32)
    # Three rows more, for what starts at the last beads.
    points = np.zeros((3, n_rows + 3, n_frames), np.float32)
    amounts = np.ones(block if weighted else (), counts.dtype)
    chain = np.full((3, n_rows), NOWHERE, np.int32)
    if table.chain is not None:
        chain[:, : groups * n_beads] = np.tile(table.chain, groups)
    paired = np.zeros((len(stretch.paired), n_beads, 3), np.float32)
    size = groups * n_frames
    for part in (stretch.frames[start : start + size] for start in range(0, len(stretch.frames), size)):
        positions = in_memory(item.positions[as_slice(part)])
        used = np.zeros(n_rows, np.int32)
        for group, start in enumerate(range(0, len(part), n_frames)):
            some, rows = part[start : start + n_frames], slice(group * n_beads, (group + 1) * n_beads)
            used[rows] = len(some)
            x = positions[start : start + len(some), table.order]
            if not np.isfinite(x).all():
                _refuse(item, part)
            points[:, rows, : len(some)] = x.transpose(2, 1, 0)
            if weighted and item.weight is not None:
                amounts[rows, : len(some)] = item.weight[some]
        here = np.flatnonzero((stretch.paired >= part[0]) & (stretch.paired <= part[-1]))
        paired[here] = positions[np.searchsorted(part, stretch.paired[here])][:, table.order]
        if table.chain is not None:
            counts = counter(counts, points, chain, used, amounts)
            # Until then the points are read.
            counts.block_until_ready()
    found = [np.asarray(counts)[: table.bonded_size]]
    if table.pairs is not None:
        weights = item.weight[stretch.paired].astype(np.float64) if item.weight is not None else None
        places, frame = pair_places(paired, table.pairs, RANGES["repulsion"])
        found.append(np.bincount(places, None if weights is None else weights[frame], table.size - table.bonded_size))
    return np.concatenate(found)


def _refuse(item: BeadFrames, part: np.ndarray) -> None:
    """Raise `UserError` about a position among some frames that is not finite."""
    file = getattr(item.positions, "filename", None)
    if file is None:
        where, frame = "frames", part[first_not_finite(item.positions[part]) or 0]
    else:
        where, frame = str(file), first_not_finite(np.load(file, mmap_mode="r")) or 0
    raise UserError(f"{where}: positions must be finite; frame {frame} is not: remove it and prepare again")


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the results in the order of the items, computed by as many threads as there are cores for this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(cores)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _keys(item: BeadFrames, term: str, tuples: np.ndarray, species_names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the sorted names of the keys that tuples [n, width] have, and which each has, [n]."""
    kinds, keys = np.unique(np.asarray(item.species)[tuples][:, list(KEY_COLUMNS[term])], axis=0, return_inverse=True)
    names = [key_name(term, [species_names[kind] for kind in some]) for some in kinds]
    distinct = sorted(set(names))
    return distinct, np.array([distinct.index(name) for name in names], int)[keys.reshape(-1)]


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
