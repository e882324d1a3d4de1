"""The prior alone in motion: Langevin dynamics of a small molecule, to compare its distributions with the data's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.units import ACCELERATION_PER_FORCE, thermal_energy
from cg_priors.energy import prior_energy
from cg_priors.force_frames import all_pairs_graph
from cg_priors.parameters import PriorParameters

FEMTOSECONDS_PER_PICOSECOND = 1000.0


def simulate_prior(
    prior: PriorParameters,
    start: BeadFrames,
    masses: np.ndarray,
    n_steps: int,
    save_every: int = 100,
    n_replicas: int = 8,
    timestep_fs: float = 4.0,
    friction_per_ps: float = 5.0,
    seed: int = 0,
) -> BeadFrames:
    """Return frames of Langevin dynamics (BAOAB, doi:10.1093/amrx/abs010) at the prior's temperature, in free space.

    Replicas start from evenly spaced frames of `start` with Maxwell velocities; each is a trajectory of the result. masses
    [n_beads] amu. Every pair of beads is looked at in each step, so this is for molecules of up to some hundred beads.
    """
    chosen = np.linspace(0, start.n_frames - 1, n_replicas).round().astype(int)
    graph = all_pairs_graph(start, np.asarray(start.positions[0]))
    graph = dataclasses.replace(graph, **_near_in_reach(prior, graph))
    energy = prior_energy(prior)
    arrays = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), prior.arrays)
    dt = timestep_fs / FEMTOSECONDS_PER_PICOSECOND
    mass = jnp.asarray(masses, jnp.float32)[:, None]
    push = 0.5 * dt * ACCELERATION_PER_FORCE / mass
    spread = jnp.sqrt(thermal_energy(prior.temperature_kelvin) * ACCELERATION_PER_FORCE / mass)
    keep = float(np.exp(-friction_per_ps * dt))
    noise = float(np.sqrt(1 - keep**2))

    def forces(x: jax.Array) -> jax.Array:
        return -jax.grad(lambda moved: energy(arrays, dataclasses.replace(graph, positions=moved)).sum())(x)

    def step(state: tuple, key: jax.Array) -> tuple[tuple, None]:
        x, v, f = state
        v = v + push * f
        x = x + 0.5 * dt * v
        v = keep * v + noise * spread * jax.random.normal(key, x.shape, x.dtype)
        x = x + 0.5 * dt * v
        f = jax.vmap(forces)(x)
        return (x, v + push * f, f), None

    @jax.jit
    def run(x: jax.Array, key: jax.Array) -> jax.Array:
        first, rest = jax.random.split(key)
        v = spread * jax.random.normal(first, x.shape, x.dtype)

        def save(state: tuple, some: jax.Array) -> tuple[tuple, jax.Array]:
            state, _ = jax.lax.scan(step, state, jax.random.split(some, save_every))
            return state, state[0]

        return jax.lax.scan(save, (x, v, jax.vmap(forces)(x)), jax.random.split(rest, n_steps // save_every))[1]

    saved = np.asarray(run(jnp.asarray(start.positions[chosen], jnp.float32), jax.random.key(seed)))
    n_saved, _, n_beads, _ = saved.shape
    return dataclasses.replace(
        start,
        positions=saved.transpose(1, 0, 2, 3).reshape(-1, n_beads, 3),
        forces=None,
        temperature=np.full(n_saved * n_replicas, prior.temperature_kelvin, np.float32),
        trajectory=np.repeat(np.arange(n_replicas, dtype=np.int32), n_saved),
    )


def _near_in_reach(prior: PriorParameters, graph: object) -> dict[str, np.ndarray]:
    """Return the edges of pairs that a non-bonded term of the prior can act on, all others dropped."""
    separation = np.abs(graph.residue_index[graph.senders] - graph.residue_index[graph.receivers])  # type: ignore[attr-defined]
    apart = graph.chain_index[graph.senders] != graph.chain_index[graph.receivers]  # type: ignore[attr-defined]
    kept = (apart | (separation > 1)) if prior.cutoff_angstrom else np.zeros(len(separation), bool)
    return {name: getattr(graph, name)[kept] for name in ("senders", "receivers", "edge_mask")}
