"""Memory-mapped arrays larger than memory: looked at in pieces, and their pages given back."""

import mmap
from typing import Any

import numpy as np

CHUNK_BYTES = 64_000_000


def release_pages(array: Any) -> None:
    """Take the pages of a read-only memory-mapped array out of this process; nothing for other arrays.

    They stay valid, and are read again when they are looked at: what was read once and is done with need not count as memory
    of the process.
    """
    if not isinstance(array, np.ndarray) or array.flags.writeable:
        return
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def first_not_finite(array: Any) -> int | None:
    """Return the index along the first axis of the first part with a number that is not finite; None where all are finite.

    Read in pieces, whose pages are given back.
    """
    size = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), size):
        finite = np.isfinite(np.asarray(array[start : start + size]))
        if not finite.all():
            return start + int(np.argwhere(~finite)[0][0])
        release_pages(array)
    return None
