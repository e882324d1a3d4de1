"""Molecular dynamics of replicas: jax-md's BAOAB Langevin and velocity Verlet steps, many in one compiled block.

Positions in A, energies in kcal/mol, masses in amu. jax-md has no units; in these the unit of time is
sqrt(amu A^2 / (kcal/mol)) = 48.89 fs, and a time step in ps is multiplied by sqrt(418.4) on the way in.

A replica that leaves the physical range is put back to its last good step and held there; the others go on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array, BeadGraph, Params
from cg_data.units import ACCELERATION_PER_FORCE, BOLTZMANN_KCAL_PER_MOL_KELVIN
from cg_eval.replicas import Replicas, most_neighbours, replica_forces

TIME_PER_PS = float(np.sqrt(ACCELERATION_PER_FORCE))
"""Units of time of the integrator in one ps."""


@dataclass(frozen=True)
class Integration:
    """How steps are taken. friction None: no thermostat (velocity Verlet)."""

    time_step_ps: float
    friction_per_ps: float | None


class Motion(NamedTuple):
    """All that changes, as one pytree.

    positions, momenta, forces [n_replicas, n_beads, 3]; key: random key data; step: scalar int32; temperature [n_replicas] K;
    failure [n_replicas] int32, 0 while a replica is inside the physical range; stopped_step [n_replicas] int32, -1 likewise;
    most_neighbours: scalar int32, the most neighbours that any bead had in the last block.
    """

    positions: Array
    momenta: Array
    forces: Array
    key: Array
    step: Array
    temperature: Array
    failure: Array
    stopped_step: Array
    most_neighbours: Array


def maxwell_momenta(key: Array, masses: Array, temperature: Array, at_rest: bool) -> Array:
    """Return momenta [n_replicas, n_beads, 3] drawn at temperature [n_replicas] K for masses [n_beads] amu.

    at_rest: remove each replica's total momentum, as without a thermostat.
    """
    masses = jnp.asarray(masses)
    shape = (len(temperature), len(masses), 3)
    spread = jnp.sqrt(BOLTZMANN_KCAL_PER_MOL_KELVIN * temperature[:, None] * masses[None])
    momenta = spread[..., None] * jax.random.normal(key, shape, masses.dtype)
    if at_rest:
        velocity = momenta.sum(axis=1, keepdims=True) / masses.sum()
        momenta = momenta - masses[None, :, None] * velocity
    return momenta


def start_motion(positions: Array, masses: Array, temperature: Array, seed: int, at_rest: bool) -> Motion:
    """Return the motion at step 0: momenta drawn at `temperature` [n_replicas] K; forces are filled in by the first block."""
    positions = jnp.asarray(positions)
    masses = jnp.asarray(masses, positions.dtype)
    temperature = jnp.asarray(temperature, positions.dtype)
    key, draw = jax.random.split(jax.random.key(seed))
    n_replicas = positions.shape[0]
    return Motion(
        positions=positions,
        momenta=maxwell_momenta(draw, masses, temperature, at_rest),
        forces=jnp.zeros_like(positions),
        key=jax.random.key_data(key),
        step=jnp.zeros((), jnp.int32),
        temperature=temperature,
        failure=jnp.zeros(n_replicas, jnp.int32),
        stopped_step=jnp.full(n_replicas, -1, jnp.int32),
        most_neighbours=jnp.zeros((), jnp.int32),
    )


def make_block(
    replicas: Replicas,
    masses: Array,
    energy_and_forces: Callable[[Params, BeadGraph], tuple[Array, Array]],
    cutoff_angstrom: float,
    n_neighbours: int,
    check: Callable[[Array], Array],
    integration: Integration,
) -> Callable[[Params, Motion, int], tuple[Motion, Array]]:
    """Return a compiled (params, motion, n_steps) -> (motion after them, potential energy [n_replicas] before them, kcal/mol).

    masses [n_beads] amu; check as `stability.range_check` makes it. Where the returned motion's `most_neighbours` is above
    `n_neighbours`, edges were missing: discard the result, and repeat from the same motion with room for more; it then draws
    the same random numbers. n_steps is no constant of the compilation; 0 steps give the energy alone.
    """
    shape = (replicas.n_replicas, replicas.n_beads, 3)
    evaluate = replica_forces(replicas, energy_and_forces, cutoff_angstrom, n_neighbours)

    def block(params: Params, motion: Motion, n_steps: Array) -> tuple[Motion, Array]:
        dtype = motion.positions.dtype

        def force(positions: Array, **_: Any) -> Array:
            return evaluate(params, positions.reshape(shape))[1].reshape(-1, 3)

        take_step = _step_function(force, integration, replicas, jnp.asarray(masses, dtype))

        def one_step(_: Array, motion: Motion) -> Motion:
            moved = take_step(motion)
            code = check(moved.positions) | ~jnp.isfinite(moved.momenta).all(axis=(1, 2))
            code = jnp.where(motion.failure > 0, 0, code)
            failure = motion.failure | code
            going = (failure == 0)[:, None, None]
            step = motion.step + 1
            return moved._replace(
                positions=jnp.where(going, moved.positions, motion.positions),
                momenta=jnp.where(going, moved.momenta, motion.momenta),
                forces=jnp.where(going, moved.forces, motion.forces),
                step=step,
                failure=failure,
                stopped_step=jnp.where(code > 0, step, motion.stopped_step),
                most_neighbours=jnp.maximum(motion.most_neighbours, most_neighbours(moved.positions, cutoff_angstrom)),
            )

        potential, forces = evaluate(params, motion.positions)
        first = motion._replace(forces=forces, most_neighbours=most_neighbours(motion.positions, cutoff_angstrom))
        return jax.lax.fori_loop(0, n_steps, one_step, first), potential

    return jax.jit(block)


def _step_function(force: Callable[..., Array], integration: Integration, replicas: Replicas, masses: Array) -> Callable[[Motion], Motion]:
    """Return one integration step by jax-md, on a flat system whose beads carry their replica's temperature."""
    from jax_md import simulate, space

    _, shift = space.free()
    shape = (replicas.n_replicas, replicas.n_beads, 3)
    mass = jnp.tile(masses, replicas.n_replicas)[:, None]
    time_step = jnp.asarray(integration.time_step_ps * TIME_PER_PS, masses.dtype)

    def take_step(motion: Motion) -> Motion:
        flat = [values.reshape(-1, 3) for values in (motion.positions, motion.momenta, motion.forces)]
        if integration.friction_per_ps is None:
            _, step = simulate.nve(force, shift, time_step)
            state = step(simulate.NVEState(*flat, mass))
            key = motion.key
        else:
            thermal = jnp.repeat(BOLTZMANN_KCAL_PER_MOL_KELVIN * motion.temperature, replicas.n_beads)[:, None]
            friction = jnp.asarray(integration.friction_per_ps / TIME_PER_PS, masses.dtype)
            _, step = simulate.nvt_langevin(force, shift, time_step, thermal, friction)
            state = step(simulate.NVTLangevinState(*flat, mass, jax.random.wrap_key_data(motion.key)))
            key = jax.random.key_data(state.rng)
        moved = [values.reshape(shape) for values in (state.position, state.momentum, state.force)]
        return motion._replace(positions=moved[0], momenta=moved[1], forces=moved[2], key=key)

    return take_step


def kinetic_temperature(momenta: Array, masses: Array, at_rest: bool) -> np.ndarray:
    """Return [n_replicas] K: twice the kinetic energy over kB and the degrees of freedom (three fewer for a body at rest)."""
    p, m = np.asarray(momenta, np.float64), np.asarray(masses, np.float64)
    degrees = 3 * p.shape[1] - (3 if at_rest else 0)
    return (p**2 / m[None, :, None]).sum(axis=(1, 2)) / (BOLTZMANN_KCAL_PER_MOL_KELVIN * degrees)
