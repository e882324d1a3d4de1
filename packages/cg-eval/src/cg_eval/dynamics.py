"""Molecular dynamics of replicas with jax-md's kicks, drifts and thermostat, many steps in one compiled block.

A step is B A O A B (Leimkuhler and Matthews, doi:10.1093/amrx/abs010), without O for constant energy, which is then velocity
Verlet. It is put together here from jax-md's kicks and drifts, because `jax_md.simulate.nvt_langevin` throws the energy away that comes
with every force: the energy of a saved frame would cost a second network in the compiled program.

Positions in A, energies in kcal/mol, masses in amu. jax-md has no units; in these the unit of time is
sqrt(amu A^2 / (kcal/mol)) = 48.89 fs, and a time step in ps is multiplied by sqrt(418.4) on the way in.

Random numbers are a function of the seed, the step and the number of the replica: the same on any number of devices.

A replica that leaves the physical range is put back to its last good step and held there; the others go on.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cg_data.contracts import Array, BeadGraph, Params
from cg_data.units import ACCELERATION_PER_FORCE, BOLTZMANN_KCAL_PER_MOL_KELVIN
from cg_eval.random_numbers import step_noise
from cg_eval.replicas import Replicas, replica_forces
from cg_priors.fence import fence

TIME_PER_PS = float(np.sqrt(ACCELERATION_PER_FORCE))
"""Units of time of the integrator in one ps."""


@dataclass(frozen=True)
class Integration:
    """How steps are taken. friction None: no thermostat (velocity Verlet)."""

    time_step_ps: float
    friction_per_ps: float | None


class Motion(NamedTuple):
    """All that changes, as one pytree.

    positions, momenta, forces [n_replicas, n_beads, 3]; potential_energy [n_replicas] kcal/mol; key: data of the random key,
    constant; step: scalar int32; temperature [n_replicas] K; failure [n_replicas] int32, 0 while a replica is inside the physical
    range; stopped_step [n_replicas] int32, -1 likewise; most_neighbours: scalar int32, the most that any bead had in the last
    block, 0 where all pairs are edges.
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


OF_REPLICAS = ("positions", "momenta", "forces", "potential_energy", "temperature", "failure", "stopped_step")
"""The parts of a motion with a leading axis [n_replicas]."""


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
    key, draw = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
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
    n_neighbours: int | None,
    check: Callable[[Array], Array],
    integration: Integration,
    n_at_once: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Callable[[Params, Motion, int], Motion]:
    """Return a compiled (params, motion, n_steps) -> motion after them; at step 0 it first fills in forces and energy.

    masses [n_beads] amu; n_neighbours as in `replica_forces`; check as `stability.range_check` makes it. Where the returned motion's
    `most_neighbours` is above `n_neighbours`, edges were missing: discard the result, and repeat from the same motion with room
    for more; it then draws the same random numbers. n_steps is no constant of the compilation.

    Replicas are spread over `devices` (all of JAX's, by default), as many as divide them. Each device takes `n_at_once` of its
    replicas (by default all, at most as many as divide them) through all steps before the next ones.
    """
    found = jax.local_devices() if devices is None else list(devices)
    n_devices = _largest_divisor(replicas.n_replicas, len(found))
    of_device = replicas.n_replicas // n_devices
    size = _largest_divisor(of_device, n_at_once or of_device)
    chunk = dataclasses.replace(replicas, n_replicas=size)
    evaluate = replica_forces(chunk, energy_and_forces, cutoff_angstrom, n_neighbours)

    def of_chunk(params: Params, motion: Motion, number: Array, n_steps: Array) -> Motion:
        take_step = _step_function(lambda x: evaluate(params, x), integration, motion, masses, number)

        def one_step(index: Array, motion: Motion) -> Motion:
            # A step of no length changes nothing but the forces and the energy, which it makes those of the positions.
            first = index < 0
            moved = take_step(motion, first)
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
            )

        first = jnp.where(motion.step == 0, -1, 0)
        return jax.lax.fori_loop(first, n_steps, one_step, motion._replace(most_neighbours=jnp.zeros((), jnp.int32)))

    def of_own_replicas(params: Params, motion: Motion, numbers: Array, n_steps: Array) -> Motion:
        def through(chunked: tuple[dict[str, Array], Array]) -> Motion:
            return of_chunk(params, motion._replace(**chunked[0]), chunked[1], n_steps)

        own = {name: getattr(motion, name) for name in OF_REPLICAS}
        after = jax.lax.map(through, jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (own, numbers)))
        return Motion(
            **{name: getattr(after, name).reshape(getattr(motion, name).shape) for name in OF_REPLICAS},
            key=motion.key,
            step=after.step[0],
            most_neighbours=jax.lax.pmax(after.most_neighbours.max(), "replicas"),
        )

    mesh = Mesh(np.array(found[:n_devices]), ("replicas",))
    spread, same = PartitionSpec("replicas"), PartitionSpec()
    of_motion = Motion(**{name: spread if name in OF_REPLICAS else same for name in Motion._fields})
    in_specs = (same, of_motion, spread, same)
    block = jax.jit(jax.shard_map(of_own_replicas, mesh=mesh, in_specs=in_specs, out_specs=of_motion, check_vma=False))
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), in_specs)
    numbers = np.arange(replicas.n_replicas, dtype=np.uint32)

    def placed(params: Params, motion: Motion, n_steps: int) -> Motion:
        after: Motion = block(*jax.device_put((params, motion, numbers, np.int32(n_steps)), places))
        return after

    return placed


def _largest_divisor(n: int, most: int) -> int:
    return max(divisor for divisor in range(1, min(n, max(1, most)) + 1) if n % divisor == 0)


def _step_function(
    evaluate: Callable[[Array], tuple[Array, Array, Array]], integration: Integration, start: Motion, masses: Array, number: Array
) -> Callable[[Motion, Array], Motion]:
    """Return (motion, first) -> motion after one step, or, where `first`, after a step of no length, by jax-md's parts.

    start: a motion of the same temperatures; number [n_replicas] uint32 of the replicas among all.
    """
    from jax_md import simulate, space

    _, shift = space.free()
    dtype = start.positions.dtype
    shape = start.positions.shape
    # Flat in beads and components: three components by themselves do not fill the vector registers of a CPU.
    mass = jnp.repeat(jnp.asarray(masses, dtype), 3)
    whole = integration.time_step_ps * TIME_PER_PS
    kept = float(np.exp(-(integration.friction_per_ps or 0.0) * integration.time_step_ps))
    spread = jnp.sqrt(BOLTZMANN_KCAL_PER_MOL_KELVIN * (1 - kept**2) * start.temperature[:, None] * mass)

    def take_step(motion: Motion, first: Array) -> Motion:
        half = jnp.where(first, 0, jnp.asarray(whole / 2, dtype))
        flat = (values.reshape(shape[0], -1) for values in (motion.positions, motion.momenta, motion.forces))
        state = simulate.NVTLangevinState(*flat, mass, motion.key)
        state = simulate.position_step(simulate.momentum_step(state, half), shift, half)
        if integration.friction_per_ps is not None:
            noise = step_noise(motion.key, motion.step, number, len(mass), dtype)
            state = state.set(momentum=jnp.where(first, state.momentum, kept * state.momentum + spread * noise))
        state = simulate.position_step(state, shift, half)
        # Without it a CPU moves the beads again in every loop that reads a position, once for each pair that a bead is in.
        position, momentum = fence((state.position, state.momentum), motion.step >= 0)
        state = state.set(position=position, momentum=momentum)
        positions = position.reshape(shape)
        potential_energy, forces, most = evaluate(positions)
        state = simulate.momentum_step(state.set(force=forces.reshape(shape[0], -1)), half)
        return motion._replace(
            positions=positions,
            momenta=state.momentum.reshape(shape),
            forces=forces,
            potential_energy=potential_energy,
            most_neighbours=jnp.maximum(motion.most_neighbours, most),
        )

    return take_step


def kinetic_temperature(momenta: Array, masses: Array, at_rest: bool) -> np.ndarray:
    """Return [n_replicas] K: twice the kinetic energy over kB and the degrees of freedom (three fewer for a body at rest)."""
    p, m = np.asarray(momenta, np.float64), np.asarray(masses, np.float64)
    degrees = 3 * p.shape[1] - (3 if at_rest else 0)
    return (p**2 / m[None, :, None]).sum(axis=(1, 2)) / (BOLTZMANN_KCAL_PER_MOL_KELVIN * degrees)
