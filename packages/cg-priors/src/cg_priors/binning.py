"""Bond lengths, angles and dihedrals along chains, and distances of pairs, as places in a table of counts.

The coordinates of chains are computed by one function that is compiled once for a whole fit: frames of any molecule come as
blocks of one shape, in which beads are rows and frames are columns, so that the steps from bead to bead are whole rows, and all
that a row counts has one key and stays in a core's cache.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_priors.geometry import step_bend, step_dihedral, step_length

BLOCK_FRAMES = 128
BLOCK_ROWS = 512
"""Columns and rows of a block: frames, and beads of as many groups of frames as find room."""
CACHED_VALUES = 50_000
"""Values of one array of a step of `pair_places`: a few such arrays stay in a core's cache."""
ARCTANGENT = (0.999999336, -0.333298608, 0.199465657, -0.139086296, 0.0964219745, -0.0559123272, 0.0218629576, -0.00405456701)
"""arctan(t) = t sum_n c_n t^2n on [0, 1], within 4e-8 (least largest error, fitted)."""
NOWHERE = 2**30
"""Offset of a tuple that does not count: beyond every table."""

Range = tuple[float, float, int]
"""Lowest value, highest value, number of bins."""


@cache
def chain_counter(block: tuple[int, int], n_places: int, ranges: tuple[Range, Range, Range], weighted: bool) -> Callable[..., Any]:
    """Return a compiled function that counts the bonds, angles and dihedrals of a block of frames, on the CPU where JAX has it.

    block: its rows and frames; ranges: of bonds, angles, dihedrals.
    The function is (counts, points, offsets, used, amounts) -> counts, with
        counts   [n_places] int32, float64 where weighted; given up by the caller, because its memory is used again
        points   [3, n_rows + 3, n_frames] float32, angstrom: x, y, z of beads in the order of the chains
        offsets  [3, n_rows] int32: the place of the first bin of the bond, angle and dihedral that starts at a bead, or `NOWHERE`;
                 one place before it is that of values below the range, the place after the last bin that of values above it
        used     [n_rows] int32: how many of a row's frames count
        amounts  [n_rows, n_frames] float64 where weighted, else 1
    """

    n_rows, n_frames = block

    def count(counts: Array, points: Array, offsets: Array, used: Array, amounts: Array) -> Array:
        steps = points[:, 1:] - points[:, :-1]
        first, second, third = (tuple(steps[c, k : k + n_rows] for c in range(3)) for k in range(3))
        coordinates = (
            step_length(first),
            step_bend(first, second, arctan2=quick_arctan2),
            step_dihedral(first, second, third, arctan2=quick_arctan2),
        )
        among_used = jax.lax.broadcasted_iota(jnp.int32, block, 1) < used[:, None]
        places = jnp.stack(
            [
                jnp.where(among_used, offset[:, None] + bin_number(x, *some), NOWHERE)
                for offset, x, some in zip(offsets, coordinates, ranges, strict=True)
            ]
        )
        # One scatter: after a second one the compiler would copy the table.
        amounts = jnp.broadcast_to(amounts, places.shape).reshape(-1) if weighted else amounts
        return counts.at[places.reshape(-1)].add(amounts, mode="drop", wrap_negative_indices=False)

    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        # JAX_PLATFORMS leaves it out.
        device = jax.local_devices()[0]
    here = jax.sharding.SingleDeviceSharding(device)
    number = np.float64 if weighted else np.int32
    shapes = [((n_places,), number), ((3, n_rows + 3, n_frames), np.float32), ((3, n_rows), np.int32), ((n_rows,), np.int32)]
    shapes.append((block if weighted else (), number))
    with jax.enable_x64(weighted):
        arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=here) for shape, dtype in shapes]
        return jax.jit(count, donate_argnums=0).lower(*arguments).compile()


def quick_arctan2(y: Array, x: Array) -> Array:
    """Return arctan2(y, x) of float32 JAX arrays within 5e-7, 0 at the origin.

    A polynomial on the first octant and its mirror images: unlike the compiler's own it works on whole vector registers.
    """
    across, along = jnp.abs(y), jnp.abs(x)
    t = jnp.minimum(across, along) / jnp.maximum(jnp.maximum(across, along), 1e-30)
    angle = jnp.full_like(t, ARCTANGENT[-1])
    for coefficient in ARCTANGENT[-2::-1]:
        angle = angle * t**2 + coefficient
    angle = angle * t
    angle = jnp.where(across > along, np.pi / 2 - angle, angle)
    angle = jnp.where(x < 0, np.pi - angle, angle)
    return jnp.where(y < 0, -angle, angle)


def bin_number(values: Array, low: float, high: float, bins: int) -> Array:
    """Return the bin of each value, -1 below `low`, `bins` from `high` on and for NaN; int32 JAX array of the values' shape."""
    scaled = (values - low) * (bins / (high - low)) + 1
    return jnp.where(scaled < bins + 1, jnp.maximum(scaled, 0), bins + 1).astype(jnp.int32) - 1


def pair_places(positions: np.ndarray, offsets: np.ndarray, span: Range) -> tuple[np.ndarray, np.ndarray]:
    """Return the place and the frame of every pair whose distance is inside the range, each [n] integers.

    positions [n_frames, n_beads, 3] angstrom; offsets [n_beads, n_beads] int32: the place of the first bin of a pair i < j, -1 for
    pairs that do not count and for i >= j; span: starts at 0.
    """
    _, high, bins = span
    n_frames, n_beads, _ = positions.shape
    columns = min(n_frames, BLOCK_FRAMES)
    rows = max(1, CACHED_VALUES // (n_beads * columns))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, n_frames, columns):
        x = np.ascontiguousarray(positions[start : start + columns].transpose(2, 1, 0))
        for bead in range(0, n_beads - 1, rows):
            squared = _square(x[0, bead + 1 :] - x[0, bead : bead + rows, None])
            for c in (1, 2):
                squared += _square(x[c, bead + 1 :] - x[c, bead : bead + rows, None])
            near = np.flatnonzero(squared < high**2)
            which, frame = np.divmod(near, x.shape[2])
            offset = offsets[bead : bead + rows, bead + 1 :].ravel()[which]
            number = (np.sqrt(squared.ravel()[near]) * (bins / high)).astype(np.int64)
            counts = offset >= 0
            found.append(((offset + np.minimum(number, bins - 1))[counts], start + frame[counts]))
    places, frames = zip(*found, strict=True) if found else ((), ())
    return np.concatenate([np.zeros(0, np.int64), *places]), np.concatenate([np.zeros(0, np.int64), *frames])


def _square(values: np.ndarray) -> np.ndarray:
    return np.square(values, out=values)
