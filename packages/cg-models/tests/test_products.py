import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_models.products import product_nn, product_nt, product_tn

CASES = {"rki,rkj->rij": product_tn, "rik,rkj->rij": product_nn, "rik,rjk->rij": product_nt}
SIZES = {"r": 2, "i": 3, "j": 4, "k": 5}


@pytest.mark.parametrize("equation", CASES)
def test_products_and_their_second_derivatives_are_those_of_einsum(equation):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=[SIZES[axis] for axis in axes]) for axes in equation.split("->")[0].split(","))

    def second(product):
        def first(a, b):
            return jax.grad(lambda a, b: jnp.sin(product(a, b)).sum(), (0, 1))(a, b)

        return product(a, b), jax.grad(lambda a, b: sum((g**3).sum() for g in first(a, b)), (0, 1))(a, b)

    found, expected = second(CASES[equation]), second(lambda a, b: jnp.einsum(equation, a, b))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
