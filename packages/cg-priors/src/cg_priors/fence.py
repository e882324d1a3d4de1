"""The one place that tells a compiler where not to fuse."""

from typing import TypeVar

import jax
import jax.numpy as jnp

from cg_data.contracts import Array
from cg_priors.safe import namespace

Values = TypeVar("Values")


def fence(values: Values, alive: Array) -> Values:
    """Return a pytree of floating arrays as it is, each computed once; their cotangents as well.

    On CPU XLA puts cheap operations into every loop that reads their result, gathers included, and repeats them there, in loops
    too mixed to fill vector registers: three to five times the cost of a prior's forces. It never fuses across a conditional.
    alive: a scalar bool that is True but not known to be when compiling; where it is False the values become NaN. Other platforms
    and NumPy arrays: nothing is done.
    """
    if namespace(values, alive) is not jnp:
        return values

    result: Values = jax.lax.platform_dependent(alive, values, cpu=_through_a_conditional, default=_as_it_is)
    return result


def _through_a_conditional(alive: Array, values: Values) -> Values:
    result: Values = jax.lax.cond(alive, _same, _nan, values)
    return result


def _as_it_is(alive: Array, values: Values) -> Values:
    return values


def _same(values: Values) -> Values:
    return values


def _nan(values: Values) -> Values:
    result: Values = jax.tree.map(lambda array: array * jnp.nan, values)
    return result
