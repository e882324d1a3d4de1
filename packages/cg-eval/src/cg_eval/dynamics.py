"""Molecular dynamics of replicas with jax-md's kicks, drifts and thermostat, many steps in one compiled block.

A step is B A O A B (Leimkuhler and Matthews, doi:10.1093/amrx/abs010), without O for constant energy, which is then velocity
Verlet. It is put together here from jax-md's parts, because `jax_md.simulate.nvt_langevin` throws the energy away that comes
with every force: the energy of a saved frame would cost a second network in the compiled program.

Positions in A, energies in kcal/mol, masses in amu. jax-md has no units; in these the unit of time is
sqrt(amu A^2 / (kcal/mol)) = 48.89 fs, and a time step in ps is multiplied by sqrt(418.4) on the way in.

A replica that leaves the physical range is put back to its last good step and held there; the others go on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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

    positions, momenta, forces [n_replicas, n_beads, 3]; potential_energy [n_replicas] kcal/mol; key: random key data; step:
    scalar int32; temperature [n_replicas] K; failure [n_replicas] int32, 0 while a replica is inside the physical range;
    stopped_step [n_replicas] int32, -1 likewise; most_neighbours: scalar int32, the most that any bead had in the last block.
    """

    positions: Array
    momenta: Array
    forces: Array
    potential_energy: Array
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
    """Return the motion at step 0: momenta drawn at `temperature` [n_replicas] K; forces and energy come with the first block."""
    positions = jnp.asarray(positions)
    masses = jnp.asarray(masses, positions.dtype)
    temperature = jnp.asarray(temperature, positions.dtype)
    key, draw = jax.random.split(jax.random.key(seed))
    n_replicas = positions.shape[0]
    return Motion(
        positions=positions,
        momenta=maxwell_momenta(draw, masses, temperature, at_rest),
        forces=jnp.zeros_like(positions),
        potential_energy=jnp.zeros_like(temperature),
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
) -> Callable[[Params, Motion, int], Motion]:
    """Return a compiled (params, motion, n_steps) -> motion after them; at step 0 it first fills in forces and energy.

    masses [n_beads] amu; check as `stability.range_check` makes it. Where the returned motion's `most_neighbours` is above
    `n_neighbours`, edges were missing: discard the result, and repeat from the same motion with room for more; it then draws
    the same random numbers. n_steps is no constant of the compilation.
    """
    evaluate = replica_forces(replicas, energy_and_forces, cutoff_angstrom, n_neighbours)

    def block(params: Params, motion: Motion, n_steps: Array) -> Motion:
        take_step = _step_function(lambda x: evaluate(params, x), integration, replicas, jnp.asarray(masses, motion.positions.dtype))

        def one_step(index: Array, motion: Motion) -> Motion:
            # A step of no length changes nothing but the forces and the energy, which it makes those of the positions.
            first = index < 0
            moved = take_step(motion, jnp.where(first, 0.0, 1.0).astype(motion.positions.dtype))
            code = check(moved.positions) | ~jnp.isfinite(moved.momenta).all(axis=(1, 2))
            code = jnp.where(motion.failure > 0, 0, code)
            failure = motion.failure | code
            going = failure == 0
            step = motion.step + jnp.where(first, 0, 1)

            def keep(new: Array, old: Array) -> Array:
                return jnp.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            return moved._replace(
                positions=keep(moved.positions, motion.positions),
                momenta=keep(moved.momenta, motion.momenta),
                forces=keep(moved.forces, motion.forces),
                potential_energy=keep(moved.potential_energy, motion.potential_energy),
                step=step,
                failure=failure,
                stopped_step=jnp.where(code > 0, step, motion.stopped_step),
                most_neighbours=jnp.maximum(motion.most_neighbours, most_neighbours(moved.positions, cutoff_angstrom)),
            )

        first = jnp.where(motion.step == 0, -1, 0)
        return jax.lax.fori_loop(first, n_steps, one_step, motion._replace(most_neighbours=jnp.zeros((), jnp.int32)))

    return jax.jit(block)


def _step_function(
    evaluate: Callable[[Array], tuple[Array, Array]], integration: Integration, replicas: Replicas, masses: Array
) -> Callable[[Motion, Array], Motion]:
    """Return (motion, length) -> motion after one step of `length` (0 or 1) time steps, by jax-md's parts.

    Replicas are one flat system whose beads carry their replica's temperature.
    """
    from jax_md import simulate, space

    _, shift = space.free()
    shape = (replicas.n_replicas, replicas.n_beads, 3)
    mass = jnp.tile(masses, replicas.n_replicas)[:, None]

    def take_step(motion: Motion, length: Array) -> Motion:
        time_step = length * jnp.asarray(integration.time_step_ps * TIME_PER_PS, masses.dtype)
        flat = [values.reshape(-1, 3) for values in (motion.positions, motion.momenta, motion.forces)]
        state = simulate.NVTLangevinState(*flat, mass, jax.random.wrap_key_data(motion.key))
        state = simulate.momentum_step(state, time_step / 2)
        state = simulate.position_step(state, shift, time_step / 2)
        if integration.friction_per_ps is not None:
            thermal = jnp.repeat(BOLTZMANN_KCAL_PER_MOL_KELVIN * motion.temperature, replicas.n_beads)[:, None]
            friction = jnp.asarray(integration.friction_per_ps / TIME_PER_PS, masses.dtype)
            state = simulate.stochastic_step(state, time_step, thermal, friction)
        state = simulate.position_step(state, shift, time_step / 2)
        potential_energy, forces = evaluate(state.position.reshape(shape))
        state = simulate.momentum_step(state.set(force=forces.reshape(-1, 3)), time_step / 2)
        return motion._replace(
            positions=state.position.reshape(shape),
            momenta=state.momentum.reshape(shape),
            forces=forces,
            potential_energy=potential_energy,
            key=jax.random.key_data(state.rng),
        )

    return take_step


def kinetic_temperature(momenta: Array, masses: Array, at_rest: bool) -> np.ndarray:
    """Return [n_replicas] K: twice the kinetic energy over kB and the degrees of freedom (three fewer for a body at rest)."""
    p, m = np.asarray(momenta, np.float64), np.asarray(masses, np.float64)
    degrees = 3 * p.shape[1] - (3 if at_rest else 0)
    return (p**2 / m[None, :, None]).sum(axis=(1, 2)) / (BOLTZMANN_KCAL_PER_MOL_KELVIN * degrees)
