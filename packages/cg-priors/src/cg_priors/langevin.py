"""The prior alone in motion: Langevin dynamics of a small molecule, to compare its distributions with the data's."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import PER_FRAME, BeadFrames, BeadGraph
from cg_data.units import ACCELERATION_PER_FORCE, thermal_energy
from cg_priors.energy import PriorArrays, prior_energy, sequence_separation
from cg_priors.force_frames import all_pairs_graph
from cg_priors.parameters import PriorParameters

FEMTOSECONDS_PER_PICOSECOND = 1000.0
NEVER_MEET_ANGSTROM = 150.0
"""Pairs this far apart at the start are not looked at: molecules laid side by side in one run do not see each other."""


def simulation(
    prior: PriorParameters,
    start: BeadFrames,
    masses: np.ndarray,
    n_steps: int,
    save_every: int = 100,
    n_replicas: int = 8,
    timestep_fs: float = 4.0,
    friction_per_ps: float = 5.0,
) -> Callable[[PriorArrays, int], BeadFrames]:
    """Return `(arrays, seed) -> frames` of Langevin dynamics (BAOAB, doi:10.1093/amrx/abs010) at the prior's temperature, in free space.

    Replicas start from evenly spaced frames of `start` with Maxwell velocities; each is a trajectory of the result. masses
    [n_beads] amu. Every pair of beads is looked at in each step, so this is for molecules of up to some hundred beads. Compiled
    once for all parameters of one prior; its own are `prior.arrays`.
    """
    chosen = np.linspace(0, start.n_frames - 1, n_replicas).round().astype(int)
    graph = all_pairs_graph(start, np.asarray(start.positions[0]))
    graph = dataclasses.replace(graph, **_in_reach(prior, graph))
    energy = prior_energy(prior)
    dt = timestep_fs / FEMTOSECONDS_PER_PICOSECOND
    mass = jnp.asarray(masses, jnp.float32)[:, None]
    push = 0.5 * dt * ACCELERATION_PER_FORCE / mass
    spread = jnp.sqrt(thermal_energy(prior.temperature_kelvin) * ACCELERATION_PER_FORCE / mass)
    keep = float(np.exp(-friction_per_ps * dt))
    noise = float(np.sqrt(1 - keep**2))

    @jax.jit
    def run(arrays: PriorArrays, x: jax.Array, key: jax.Array) -> jax.Array:
        forces = jax.vmap(jax.grad(lambda moved: -energy(arrays, dataclasses.replace(graph, positions=moved)).sum()))

        def step(state: tuple, key: jax.Array) -> tuple[tuple, None]:
            x, v, f = state
            v = v + push * f
            x = x + 0.5 * dt * v
            v = keep * v + noise * spread * jax.random.normal(key, x.shape, x.dtype)
            x = x + 0.5 * dt * v
            f = forces(x)
            return (x, v + push * f, f), None

        def save(state: tuple, some: jax.Array) -> tuple[tuple, jax.Array]:
            state, _ = jax.lax.scan(step, state, jax.random.split(some, save_every))
            return state, state[0]

        first, rest = jax.random.split(key)
        v = spread * jax.random.normal(first, x.shape, x.dtype)
        return jax.lax.scan(save, (x, v, forces(x)), jax.random.split(rest, n_steps // save_every))[1]

    def frames(arrays: PriorArrays, seed: int) -> BeadFrames:
        single = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), dict(arrays))
        saved = np.asarray(run(single, jnp.asarray(start.positions[chosen], jnp.float32), jax.random.key(seed)))
        n_saved, _, n_beads, _ = saved.shape
        return dataclasses.replace(
            start.select(slice(0, 0)),
            positions=saved.transpose(1, 0, 2, 3).reshape(-1, n_beads, 3),
            temperature=np.full(n_saved * n_replicas, prior.temperature_kelvin, np.float32),
            trajectory=np.repeat(np.arange(n_replicas, dtype=np.int32), n_saved),
            **{name: None for name in PER_FRAME if name not in ("positions", "temperature", "trajectory")},
        )

    return frames


def _in_reach(prior: PriorParameters, graph: BeadGraph) -> dict[str, np.ndarray]:
    """Return the edges of pairs that a non-bonded term of the prior can act on."""
    senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
    separation = sequence_separation(np.asarray(graph.residue_index), np.asarray(graph.chain_index), senders, receivers)
    x = np.asarray(graph.positions)
    near = np.linalg.norm(x[senders] - x[receivers], axis=1) < NEVER_MEET_ANGSTROM
    kept = (separation > 1) & near & bool(prior.cutoff_angstrom)
    return {name: np.asarray(getattr(graph, name))[kept] for name in ("senders", "receivers", "edge_mask")}
