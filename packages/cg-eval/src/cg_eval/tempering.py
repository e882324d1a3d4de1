"""Parallel tempering: replicas at several temperatures exchange them, so that each crosses barriers at the high ones."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from cg_data.units import BOLTZMANN_KCAL_PER_MOL_KELVIN

if TYPE_CHECKING:
    from cg_eval.dynamics import Motion


def ladder(temperatures_kelvin: tuple[float, ...], n_replicas: int) -> np.ndarray:
    """Return [n_replicas] K: the temperatures in turn; consecutive replicas form one ladder."""
    return np.resize(np.asarray(temperatures_kelvin, np.float64), n_replicas)


def exchange(motion: "Motion", n_temperatures: int, attempt: int, seed: int) -> tuple["Motion", int, int]:
    """Return (motion after an attempt to exchange temperatures, pairs tried, pairs exchanged).

    Inside each ladder of `n_temperatures` consecutive replicas, neighbours in temperature exchange with probability
    min(1, exp((beta_a - beta_b)(U_a - U_b))) (Sugita and Okamoto, doi:10.1016/S0009-2614(99)01123-9); momenta are scaled by
    sqrt(T_new / T_old). Even and odd pairs take turns with `attempt`. Replicas that have stopped take no part.
    """
    temperature = np.asarray(motion.temperature, np.float64).copy()
    energy, alive = np.asarray(motion.potential_energy, np.float64), np.asarray(motion.failure) == 0
    generator = np.random.default_rng((seed, attempt))
    tried = exchanged = 0
    for first in range(0, len(temperature), n_temperatures):
        order = first + np.argsort(temperature[first : first + n_temperatures], kind="stable")
        for a, b in zip(order[attempt % 2 :: 2], order[attempt % 2 + 1 :: 2], strict=False):
            draw = generator.random()
            if not (alive[a] and alive[b]):
                continue
            inverse = 1.0 / (BOLTZMANN_KCAL_PER_MOL_KELVIN * temperature[[a, b]])
            tried += 1
            if np.log(draw) < (inverse[0] - inverse[1]) * (energy[a] - energy[b]):
                temperature[[a, b]] = temperature[[b, a]]
                exchanged += 1
    scale = np.sqrt(temperature / np.asarray(motion.temperature, np.float64))
    dtype = motion.momenta.dtype
    return (
        motion._replace(temperature=jnp.asarray(temperature, dtype), momenta=motion.momenta * jnp.asarray(scale, dtype)[:, None, None]),
        tried,
        exchanged,
    )
