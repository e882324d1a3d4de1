import ctypes
import resource

import jax
import jax.numpy as jnp
import pytest

from cg_models.memory import keep_freed_memory


def test_temporary_arrays_of_a_step_are_not_mapped_anew():
    if not keep_freed_memory():
        pytest.skip("not glibc")
    step = jax.jit(lambda x: x * 2 + 1)
    x = jnp.ones(10_000_000, jnp.float32)
    # Small arrays settle in what the first large ones leave, and the process grows a few times before all of them have a place.
    for _ in range(30):
        step(x).block_until_ready()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step(x).block_until_ready()
    pages = 10 * x.nbytes // resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 0.7 * pages


def test_more_than_two_gibibytes_are_kept_too():
    if not keep_freed_memory():
        pytest.skip("not glibc")
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    n_bytes = 2**31 + 2**26

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(n_bytes)
        ctypes.memset(block, 1, n_bytes)
        libc.free(block)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert faults() < 0.1 * n_bytes / resource.getpagesize()
