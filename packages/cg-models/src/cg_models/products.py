"""Batches of matrix products whose derivatives, of any order, are such products again.

The derivatives that JAX forms of `jnp.einsum` are the same sums, but with axes in another order, so that arrays as large as the
edges' are transposed in between; on CPU that costs more than the products. Reverse-mode derivatives only.
"""

import jax

from cg_data.contracts import Array
from cg_models.precision import FULL


@jax.custom_vjp
def product_tn(a: Array, b: Array) -> Array:
    """Return a^T b, [r, k, i] and [r, k, j] -> [r, i, j]."""
    return _product(a, b, 1, 1)


@jax.custom_vjp
def product_nn(a: Array, b: Array) -> Array:
    """Return a b, [r, i, k] and [r, k, j] -> [r, i, j]."""
    return _product(a, b, 2, 1)


@jax.custom_vjp
def product_nt(a: Array, b: Array) -> Array:
    """Return a b^T, [r, i, k] and [r, j, k] -> [r, i, j]."""
    return _product(a, b, 2, 2)


def _product(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((0,), (0,))), FULL)


product_tn.defvjp(lambda a, b: (product_tn(a, b), (a, b)), lambda saved, g: (product_nt(saved[1], g), product_nn(saved[0], g)))
product_nn.defvjp(lambda a, b: (product_nn(a, b), (a, b)), lambda saved, g: (product_nt(g, saved[1]), product_tn(saved[0], g)))
product_nt.defvjp(lambda a, b: (product_nt(a, b), (a, b)), lambda saved, g: (product_nn(g, saved[1]), product_tn(g, saved[0])))
