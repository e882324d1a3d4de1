"""The random numbers of the dynamics."""

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np

from cg_eval.random_numbers import step_noise, threefry

KEY = np.array([3, 7], np.uint32)


def noise(step, replicas, size=105, dtype=jnp.float32):
    return np.asarray(step_noise(jnp.asarray(KEY), jnp.int32(step), jnp.asarray(replicas, jnp.uint32), size, dtype))


def test_threefry_is_that_of_jax():
    first, second = np.random.default_rng(0).integers(0, 2**32, (2, 1000), dtype=np.uint32)
    expected = jax.extend.random.threefry_2x32(jnp.asarray(KEY), jnp.concatenate([first, second]))
    assert (jnp.concatenate(threefry(jnp.asarray(KEY), jnp.asarray(first), jnp.asarray(second))) == expected).all()


def test_noise_of_a_replica_depends_on_its_step_and_number_alone():
    together = noise(5, np.arange(8))
    assert (noise(5, [3]) == together[3]).all()
    for other in (noise(6, [3])[0], together[4]):
        assert np.abs(np.corrcoef(other, together[3])[0, 1]) < 5 / np.sqrt(105)


def test_noise_is_standard_normal_within_five_standard_errors():
    for dtype in (jnp.float32, jnp.float64):
        found = noise(0, np.arange(2000), dtype=dtype)
        assert found.dtype == dtype
        assert np.isfinite(found).all()
        # Moments 1 to 4 of a standard normal, and the variances of z, z^2, z^3, z^4.
        for power, (mean, variance) in enumerate(((0, 1), (1, 2), (0, 15), (3, 96)), start=1):
            assert abs((found.astype(np.float64) ** power).mean() - mean) < 5 * np.sqrt(variance / found.size)


def test_noise_of_successive_steps_is_not_correlated():
    steps = np.stack([noise(step, np.arange(50)).ravel() for step in range(50)])
    products = (steps[1:] * steps[:-1]).mean()
    assert abs(products) < 5 / np.sqrt(steps[1:].size)


def test_no_bits_give_an_infinite_number(monkeypatch):
    for bits in (0, 2**32 - 1):
        monkeypatch.setattr("cg_eval.random_numbers.threefry", lambda key, a, b, bits=bits: (jnp.full(a.shape, bits, jnp.uint32),) * 2)
        assert np.isfinite(noise(0, [0])).all()
