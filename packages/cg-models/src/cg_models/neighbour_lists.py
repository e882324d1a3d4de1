"""Energies on jax-md's neighbour lists: `energy(positions, neighbor)`, as jax-md's simulations and minimisers call it.

jax-md itself is not imported; its lists are told by their attributes, in any of its three formats.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array, BeadGraph, EnergyFn, Params
from cg_data.topology import bonded_tuples


class NeighbourList(Protocol):
    """What is read of a `jax_md.partition.NeighborList`.

    idx: [n_beads, capacity] senders of each receiver (Dense), or [2, capacity] receivers and senders (Sparse; OrderedSparse holds
    each pair once); a free slot holds n_beads. error.code: zero unless a buffer overflowed or the box is too small for its cells.
    """

    @property
    def idx(self) -> Array: ...  # noqa: D102
    @property
    def format(self) -> Any: ...  # noqa: D102
    @property
    def error(self) -> Any: ...  # noqa: D102


class NeighbourEnergy(Protocol):
    """`(positions [n_beads, 3] angstrom, neighbour list) -> energy`, a scalar in kcal/mol; jit-able and differentiable."""

    def __call__(self, positions: Array, neighbor: NeighbourList | None = None, params: Params | None = None, **kwargs: Any) -> Array:
        """Return the total energy."""
        ...


Displacement = Callable[..., Array]
"""jax-md's `displacement(first [3], second [3], **kwargs) -> first - second`, the nearest image in a periodic box."""


def neighbour_energy(
    energy_fn: EnergyFn, params: Params, species: Array, residue_index: Array, chain_index: Array, displacement: Displacement | None = None
) -> NeighbourEnergy:
    """Return `energy(positions, neighbor, params)` in kcal/mol of beads whose identities are fixed.

    energy_fn: per-bead energies; params: used where the call gives none; species, residue_index, chain_index [n_beads] int32;
    displacement: jax-md's, for a periodic box (positions real, not fractional, and not wrapped, so that bonds stay whole); free
    space without. It and jax-md's lists know of the nearest image alone: faces of the box must be at least twice the model's cutoff
    apart (`cg_data.topology.periodic_edges` has no such limit). Further keyword arguments of a call, as jax-md's integrators pass
    them, go to `displacement`.

    The list must reach the model's cutoff and may hold more. Without a list all pairs count, which is meant for small systems.
    A list that overflowed gives NaN, in energy and forces, rather than miss a pair.
    """
    n = len(species)
    identities = {
        name: np.asarray(values, np.int32)
        for name, values in (("species", species), ("residue_index", residue_index), ("chain_index", chain_index))
    }
    tuples: dict[str, np.ndarray] = {}
    for size, (name, mask) in {2: ("bonds", "bond_mask"), 3: ("angles", "angle_mask"), 4: ("dihedrals", "dihedral_mask")}.items():
        tuples[name] = bonded_tuples(residue_index, chain_index, size)
        tuples[mask] = np.ones(len(tuples[name]), bool)

    def energy(positions: Array, neighbor: NeighbourList | None = None, params: Params | None = None, **kwargs: Any) -> Array:
        positions = jnp.asarray(positions)
        senders, receivers, used = _edges(n, neighbor)
        shifts = None
        if displacement is not None:
            first, second = positions[receivers], positions[senders]
            nearest = lambda a, b: displacement(a, b, **kwargs)  # noqa: E731 - kwargs are not mapped over
            for _ in range(senders.ndim):
                nearest = jax.vmap(nearest)
            # Not a constant for the gradient: with a box among kwargs its derivative is the stress.
            shifts = nearest(first, second) - (first - second)
        graph = BeadGraph(
            positions=positions,
            frame=np.zeros(n, np.int32),
            bead_mask=np.ones(n, bool),
            senders=senders,
            receivers=receivers,
            edge_mask=used,
            shifts=shifts,
            **identities,
            **tuples,
        )
        total = energy_fn(default if params is None else params, jax.tree.map(jnp.asarray, graph)).sum()
        # A factor, because a chosen NaN would leave the forces at zero.
        return total if neighbor is None else total * jnp.where(neighbor.error.code == 0, 1, jnp.nan).astype(total.dtype)

    default = params
    return energy


def _edges(n: int, neighbor: NeighbourList | None) -> tuple[Array, Array, Array]:
    """Return senders, receivers and mask, dense [n, capacity] or flat [capacity]."""
    if neighbor is None:
        everyone = np.broadcast_to(np.arange(n, dtype=np.int32), (n, n))
        return everyone, everyone.T, everyone != everyone.T
    idx = neighbor.idx
    if neighbor.format.name == "Dense":
        # Nobody near anybody: jax-md's table then has no column, and a row needs a slot to say whose it is.
        senders = idx if idx.shape[1] else jnp.full((n, 1), n, idx.dtype)
        receivers = jnp.broadcast_to(jnp.arange(n, dtype=idx.dtype)[:, None], senders.shape)
        used = (senders < n) & (senders != receivers)
        # Receivers stay as they are: those of a row are equal, whichever of its slots are free or hold the bead itself.
        return jnp.where(used, senders, 0), receivers, used
    receivers, senders = idx
    if neighbor.format.name == "OrderedSparse":
        receivers, senders = jnp.concatenate([receivers, senders]), jnp.concatenate([senders, receivers])
    used = (senders < n) & (receivers < n) & (senders != receivers)
    return jnp.where(used, senders, 0), jnp.where(used, receivers, 0), used
