"""The one idiom against NaN gradients: `where` around the argument and around the result.

A function that is singular where a mask is False must not see that argument at all: `where(mask, f(x), 0)` has the right
value, but its gradient multiplies zero by infinity. All functions here take NumPy or JAX arrays and return the same kind.
"""

from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array


def namespace(*values: Array) -> ModuleType:
    """Return `jax.numpy` where any of the values (pytrees allowed) is a JAX array or tracer, else `numpy`."""
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(values)) else np


def masked(function: Callable[..., Array], mask: Array, *arguments: Array, substitute: float = 1.0, otherwise: float = 0.0) -> Array:
    """Return `function(*arguments)` where `mask` holds and `otherwise` elsewhere, with finite gradients everywhere.

    mask [...] bool; each argument [..., more]: the mask is broadcast over trailing axes. Where it is False the function is
    called on `substitute`, at which it must be finite, and its gradient is zero.
    """
    xp = namespace(mask, *arguments)
    inside = [xp.where(_over_trailing(mask, argument), argument, substitute) for argument in arguments]
    values = function(*inside)
    return xp.where(_over_trailing(mask, values), values, otherwise)


def safe_root(squared: Array) -> Array:
    """Return square roots, [...]; 0 with gradient 0 where the argument is not positive."""
    return masked(namespace(squared).sqrt, squared > 0, squared)


def safe_arctan2(y: Array, x: Array, smallest: float = 1e-12) -> Array:
    """Return arctan2(y, x); 0 with gradient 0 where y^2 + x^2 does not exceed `smallest`."""
    xp = namespace(y, x)
    return masked(xp.arctan2, y * y + x * x > smallest, y, x)


def _over_trailing(mask: Array, values: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
