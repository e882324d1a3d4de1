"""Random numbers of the dynamics: functions of a key, a step and a replica, so that no state is carried and no order matters.

JAX's own generator is the same function, but on a CPU runs as a loop of small programs, whose start costs more than a step of a small
chain under a prior. Here it is straight arithmetic that XLA fuses into one loop.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def threefry(key: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Return two arrays of random bits, uint32, of counters `first` and `second`, uint32 of one shape; key [2] uint32.

    Threefry-2x32 with 20 rounds (Salmon et al., doi:10.1145/2063384.2063405), as in `jax.random`.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    x, y = first + schedule[0], second + schedule[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x = x + y
            y = (y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))
            y = x ^ y
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def step_noise(key: Array, step: Array, replica: Array, size: int, dtype: jnp.dtype) -> Array:
    """Return standard normal numbers [n_replicas, size] of a step, scalar int32, and of replicas [n_replicas] uint32."""
    second = replica[:, None] * np.uint32(size) + np.arange(size, dtype=np.uint32)
    # Half of the bits are left: to join both halves would keep the loop out of a CPU's vector registers.
    bits = threefry(key, jnp.full_like(second, step), second)[0]
    # Midpoints of 2^23 equal parts of (-1, 1): symmetric, exact in float32, and never at an end, where the inverse is infinite.
    uniform = ((bits >> np.uint32(9)).astype(np.int32).astype(dtype) + 0.5) * 2.0**-22 - 1
    return np.sqrt(2).astype(dtype) * jax.lax.erf_inv(uniform)
