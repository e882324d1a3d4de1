"""Bond lengths, angles, dihedrals and pair distances of many frames at once, as numbers of bins; NumPy.

What `geometry` computes tuple by tuple is computed here along the chain, in arrays small enough for a core's cache: each bond
vector and each normal once, shared by the coordinates that need it. Every step is a whole-array operation over frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CACHED_FRAMES = 128
"""Frames of one step for bonded coordinates of a chain of about a hundred beads."""
CACHED_VALUES = 16_000
"""Values of one array of a step: a dozen such arrays stay in a core's cache."""


@dataclass(frozen=True)
class Chain:
    """Bonds [n, 2] in the order of the chain, and which of them follow each other.

    angles [m]: the first bond of each angle; dihedrals [k]: the first angle of each dihedral.
    """

    bonds: np.ndarray
    angles: np.ndarray
    dihedrals: np.ndarray


def chain_of(bonds: np.ndarray) -> Chain:
    """Return the chain of bonds [n, 2], ordered as `bonded_tuples` gives them; angles and dihedrals then have its order too."""
    follows = bonds[1:, 0] == bonds[:-1, 1]
    angles = np.flatnonzero(follows)
    return Chain(bonds, angles, np.flatnonzero(np.diff(angles) == 1))


def chain_coordinates(positions: np.ndarray, chain: Chain) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Yield frames and their coordinates, {bond, angle, dihedral: [n_tuples, n_some_frames]}, angstrom and radian.

    positions [n_frames, n_beads, 3]. The same numbers as `geometry.distance`, `bend_angle` and `dihedral_angle`.
    """
    first, second = _whole(chain.bonds[:, 0]), _whole(chain.bonds[:, 1])
    size = max(1, min(CACHED_FRAMES, CACHED_VALUES // max(1, len(chain.bonds))))
    at, after = _whole(chain.angles), _whole(chain.angles + 1)
    twist, twist_after = _whole(chain.dihedrals), _whole(chain.dihedrals + 1)
    middle = _whole(chain.angles[chain.dihedrals] + 1)
    for start in range(0, len(positions), size):
        some = slice(start, start + size)
        x = np.ascontiguousarray(positions[some].transpose(2, 1, 0))
        u = x[:, second] - x[:, first]
        length = np.sqrt(_dot(u, u))
        values = {"bond": length}
        if len(chain.angles):
            v, w = u[:, at], u[:, after]
            normal = np.empty_like(v)
            for k in range(3):
                i, j = (k + 1) % 3, (k + 2) % 3
                np.multiply(v[i], w[j], out=normal[k])
                normal[k] -= v[j] * w[i]
            values["angle"] = np.arctan2(np.sqrt(_dot(normal, normal)), -_dot(v, w))
            if len(chain.dihedrals):
                one, two = normal[:, twist], normal[:, twist_after]
                values["dihedral"] = np.arctan2(length[middle] * _dot(v[:, twist], two), _dot(one, two))
        yield some, values


def pair_distances(positions: np.ndarray, pairs: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yield frames, pairs, and their distances [n_some_pairs, n_some_frames] in angstrom; pairs [n_pairs, 2]."""
    for start in range(0, len(positions), CACHED_FRAMES):
        frames = slice(start, start + CACHED_FRAMES)
        x = np.ascontiguousarray(positions[frames].transpose(2, 1, 0))
        size = max(1, CACHED_VALUES // x.shape[2])
        for begin in range(0, len(pairs), size):
            some = slice(begin, begin + size)
            d = x[:, pairs[some, 1]] - x[:, pairs[some, 0]]
            yield frames, some, np.sqrt(_dot(d, d))


def bin_numbers(values: np.ndarray, low: float, high: float, bins: int) -> np.ndarray:
    """Return 1 + the bin of each value, 0 below `low`, `bins` + 1 from `high` on; int32 of the values' shape."""
    scaled = (values - values.dtype.type(low)) * values.dtype.type(bins / (high - low))
    scaled += 1
    np.clip(scaled, 0, bins + 1, out=scaled)
    return scaled.astype(np.int32)


class Counter:
    """Counts of bin numbers by key, filled a block of memory at a time, because a count of all bins has a price of its own.

    bins: as in `bin_numbers`, with one place on each side for values outside; keys [n_tuples]: key of each tuple, below `n_keys`.
    """

    def __init__(self, keys: np.ndarray, n_keys: int, bins: int, room: int, weighted: bool):
        self.offsets = (keys * (bins + 2)).astype(np.int32)
        self.shape = (n_keys, bins + 2)
        self.counts = np.zeros(self.shape, np.float64 if weighted else np.int64)
        self._places = np.empty(room, np.int32)
        self._weights = np.empty(room) if weighted else None
        self._filled = 0

    def add(self, tuples: slice, numbers: np.ndarray, weights: np.ndarray | None) -> None:
        """Count bin numbers [n_some_tuples, n_frames] of some of the tuples; weights [n_frames] or None."""
        if self._filled + numbers.size > len(self._places):
            self.flush()
        place = slice(self._filled, self._filled + numbers.size)
        np.add(numbers, self.offsets[tuples, None], out=self._places[place].reshape(numbers.shape))
        if self._weights is not None:
            self._weights[place].reshape(numbers.shape)[:] = 1.0 if weights is None else weights
        self._filled += numbers.size

    def flush(self) -> np.ndarray:
        """Count what was added; return the counts so far, [n_keys, bins + 2]."""
        some = slice(0, self._filled)
        weights = None if self._weights is None else self._weights[some]
        found = np.bincount(self._places[some], weights=weights, minlength=self.counts.size)
        self.counts += found.reshape(self.shape)
        self._filled = 0
        return self.counts


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sums over the first axis of a b, [3, ...] -> [...]."""
    total = a[0] * b[0]
    total += a[1] * b[1]
    total += a[2] * b[2]
    return total


def _whole(indices: np.ndarray) -> slice | np.ndarray:
    """Return a slice where the indices are a run, so that an unbroken chain is looked at and not copied."""
    if len(indices) and indices[-1] - indices[0] + 1 == len(indices) and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices
