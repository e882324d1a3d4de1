"""Memory-mapped arrays larger than memory: read in pieces that do not stay with the process."""

import mmap
from typing import Any

import numpy as np

from cg_data.errors import require

CHUNK_BYTES = 64_000_000


def in_memory(array: Any) -> np.ndarray:
    """Return an array that does not depend on a file: a contiguous slice of a read-only memory-mapped one is read from its file.

    That costs half of what copying out of the pages does, and the pages never become memory of this process. Other arrays are
    returned as they are. Raises `UserError` where the file has become shorter.
    """
    first = _first_byte(array)
    if first is None or not array.flags.c_contiguous:
        return np.asarray(array)
    # Where NumPy lets a mapping start.
    first += array.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    values = np.fromfile(array.filename, array.dtype, array.size, offset=first)
    require(
        values.size == array.size,
        f"{array.filename}: expected {array.size} numbers from byte {first}, received {values.size}: it changed meanwhile: run again",
    )
    return values.reshape(array.shape)


def _release_pages(array: Any) -> None:
    """Take the pages of a read-only memory-mapped array, or of a slice of one, out of this process; nothing for other arrays.

    They stay valid, and are read again when they are looked at: what was read once and is done with need not count as memory
    of the process.
    """
    first = _first_byte(array)
    if first is not None and hasattr(mmap, "MADV_DONTNEED"):
        last = first + sum((size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)) + array.itemsize
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        _mapping(array).madvise(mmap.MADV_DONTNEED, start, last - start)


def _first_byte(array: Any) -> int | None:
    """Return where an array starts in its mapping; None where it is not read-only and memory-mapped, or is empty."""
    if not isinstance(array, np.memmap) or array.flags.writeable or not array.size:
        return None
    mapping = _mapping(array)
    if not isinstance(mapping, mmap.mmap):
        return None
    return array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data


def _mapping(array: Any) -> Any:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base


class Rows:
    """Chosen rows of an array, which are read when they are asked for: `rows[a:b]`, `np.asarray(rows)`.

    Indexing a memory-mapped array by numbers would read all of them at once.
    """

    def __init__(self, array: Any, indices: np.ndarray):
        """array [n, ...], which may be `Rows` itself; indices [n_chosen] integers."""
        nested = isinstance(array, Rows)
        self.array: Any = array.array if nested else array
        self.indices: np.ndarray = array.indices[indices] if nested else indices
        self.dtype, self.shape, self.ndim = array.dtype, (len(indices), *array.shape[1:]), array.ndim

    @property
    def filename(self) -> Any:
        """The file of the array, None where it has none."""
        return getattr(self.array, "filename", None)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Any) -> Any:
        """Return rows as an array; a view where they are a run of the array's."""
        if isinstance(key, tuple):
            return np.asarray(self)[key]
        chosen = as_slice(self.indices[key])
        values = self.array[chosen]
        if not isinstance(chosen, slice) and np.size(chosen):
            _release_pages(self.array[np.min(chosen) : np.max(chosen) + 1])
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def as_slice(indices: Any) -> Any:
    """Return a slice where an array of indices is an ascending run, else the indices: a slice of a memory-mapped array reads nothing."""
    indices = np.asarray(indices)
    if indices.ndim == 1 and len(indices) and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def first_not_finite(array: Any) -> int | None:
    """Return the index along the first axis of the first part with a number that is not finite; None where all are finite.

    Read in pieces.
    """
    size = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), size):
        finite = np.isfinite(in_memory(array[start : start + size]))
        if not finite.all():
            return start + int(np.argwhere(~finite)[0][0])
    return None
