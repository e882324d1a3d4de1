"""Memory that a process has freed stays with it, because getting it again from the system costs more than the arithmetic on it."""

import ctypes
import functools

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""Names of options of glibc's `mallopt`, from its malloc.h."""
NEVER = -1
"""Of the trim threshold; the largest int would still give back whatever a step frees above 2 GiB."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed, for this whole process; return whether it does (not without glibc).

    XLA on CPU takes the temporary arrays of each step from malloc. By default glibc maps every array above 32 MB anew and gives it
    back after the step, so that the system clears each of its pages again and again. With this a process stays as large as its
    largest step. One arena for all threads, because those of threads give back what they hold regardless. The same as
    MALLOC_MMAP_MAX_=0, MALLOC_ARENA_MAX=1 and a large MALLOC_TRIM_THRESHOLD_ in the environment (mallopt(3)).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(*option) for option in ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (ARENA_MAX, 1)))
