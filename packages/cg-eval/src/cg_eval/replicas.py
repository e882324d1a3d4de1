"""Many replicas of one chain, side by side in one flat graph, and their edges as positions move.

Edges are rebuilt at every force evaluation from all pairs inside each replica: exact, with no skin, no box and no pair between
replicas. Its cost is quadratic in the beads of one replica and linear in replicas, small beside a network on the edges for
chains of up to about a thousand beads. Neighbours are counted every time, so an overflow of their budget is known.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from cg_data.contracts import Array, BeadGraph, Params
from cg_data.topology import bonded_tuples

EDGES_PER_CHUNK = 1536
"""Edges that a CPU works on at a time: beyond, the intermediate arrays of a network leave its second-level cache."""


TUPLE_FIELDS = ("bonds", "angles", "dihedrals", "bond_mask", "angle_mask", "dihedral_mask")


@dataclass(frozen=True)
class Replicas:
    """What stays fixed: `n_replicas` copies of a chain of `n_beads` beads.

    species, residue_index, chain_index [n_beads] int32; bonds, angles, dihedrals [n, 2|3|4] int32 of one copy.
    """

    n_replicas: int
    species: np.ndarray
    residue_index: np.ndarray
    chain_index: np.ndarray
    bonds: np.ndarray
    angles: np.ndarray
    dihedrals: np.ndarray

    @property
    def n_beads(self) -> int:
        """Beads of one replica."""
        return len(self.species)

    def graph(self, positions: Array, senders: Array, receivers: Array, edge_mask: Array) -> BeadGraph:
        """Return the flat graph of positions [n_replicas, n_beads, 3] and edges between flat bead indices, flat or in rows."""
        tuples = {name: self._repeat_tuples(getattr(self, name)) for name in ("bonds", "angles", "dihedrals")}
        return BeadGraph(
            positions=positions.reshape(-1, 3),
            species=np.tile(self.species, self.n_replicas),
            residue_index=np.tile(self.residue_index, self.n_replicas),
            chain_index=np.tile(self.chain_index, self.n_replicas),
            frame=np.repeat(np.arange(self.n_replicas, dtype=np.int32), self.n_beads),
            bead_mask=np.ones(self.n_replicas * self.n_beads, bool),
            senders=senders,
            receivers=receivers,
            edge_mask=edge_mask,
            bond_mask=np.ones(len(tuples["bonds"]), bool),
            angle_mask=np.ones(len(tuples["angles"]), bool),
            dihedral_mask=np.ones(len(tuples["dihedrals"]), bool),
            **tuples,
        )

    def _repeat_tuples(self, tuples: np.ndarray) -> np.ndarray:
        offsets = np.arange(self.n_replicas, dtype=np.int32) * self.n_beads
        return (tuples[None] + offsets[:, None, None]).reshape(-1, tuples.shape[1]).astype(np.int32)


def make_replicas(n_replicas: int, species: Array, residue_index: Array, chain_index: Array) -> Replicas:
    """Return `n_replicas` copies of the chain with species, residue_index and chain_index [n_beads] int32."""
    bonds, angles, dihedrals = (bonded_tuples(residue_index, chain_index, size) for size in (2, 3, 4))
    return Replicas(
        n_replicas=n_replicas,
        species=np.asarray(species, np.int32),
        residue_index=np.asarray(residue_index, np.int32),
        chain_index=np.asarray(chain_index, np.int32),
        bonds=bonds,
        angles=angles,
        dihedrals=dihedrals,
    )


def most_neighbours(positions: Array, cutoff_angstrom: float) -> Array:
    """Return the largest number of beads within the cutoff of any bead; positions [n_replicas, n_beads, 3] A."""
    return jnp.max(jnp.sum(_close(positions, cutoff_angstrom), axis=-1, dtype=jnp.int32))


def edges_within(positions: Array, cutoff_angstrom: float, n_neighbours: int) -> tuple[Array, Array, Array]:
    """Return (senders, receivers, edge_mask) in rows, one for each bead, each [n_replicas * n_beads, n_neighbours].

    positions [n_replicas, n_beads, 3] A; every ordered pair of a replica closer than the cutoff, row i holding the edges that
    bead i receives. Where `most_neighbours` is above `n_neighbours`, edges are missing: the caller must check, and discard
    what was computed from them.
    """
    n_replicas, n_beads, _ = positions.shape
    close = _close(positions, cutoff_angstrom).reshape(-1, n_beads)
    rows = jnp.arange(n_replicas * n_beads, dtype=jnp.int32)[:, None]
    slot = jnp.where(close, jnp.cumsum(close, axis=1) - 1, n_neighbours)
    own_replica = rows // n_beads * n_beads + jnp.arange(n_beads, dtype=jnp.int32)
    senders = jnp.zeros((len(rows), n_neighbours), jnp.int32).at[rows, slot].set(own_replica, mode="drop")
    edge_mask = jnp.arange(n_neighbours) < jnp.sum(close, axis=1, keepdims=True)
    return senders, jnp.broadcast_to(rows, senders.shape), edge_mask


def replica_forces(
    replicas: Replicas,
    energy_and_forces: Callable[[Params, BeadGraph], tuple[Array, Array]],
    cutoff_angstrom: float,
    n_neighbours: int,
    devices: Sequence[Any] | None = None,
) -> Callable[[Params, Array], tuple[Array, Array]]:
    """Return (params, positions [n_replicas, n_beads, 3]) -> (energies [n_replicas] kcal/mol, forces like positions).

    Replicas are evaluated in chunks: on a CPU a few at a time, whose edges stay in its caches, elsewhere all; and chunks are
    spread over `devices` (all of JAX's, by default), as many as divide them.
    """
    found = jax.local_devices() if devices is None else list(devices)
    n_devices = max(n for n in range(1, min(len(found), replicas.n_replicas) + 1) if replicas.n_replicas % n == 0)
    of_device = replicas.n_replicas // n_devices
    most = max(1, EDGES_PER_CHUNK // max(1, replicas.n_beads * n_neighbours)) if found[0].platform == "cpu" else of_device
    size = max(n for n in range(1, min(most, of_device) + 1) if of_device % n == 0)
    chunk = dataclasses.replace(replicas, n_replicas=size)

    def of_chunk(params: Params, positions: Array) -> tuple[Array, Array]:
        graph = chunk.graph(positions, *edges_within(positions, cutoff_angstrom, n_neighbours))
        # Tuples stay NumPy arrays: the prior is faster where it knows that they do not change.
        tuples = {name: getattr(graph, name) for name in TUPLE_FIELDS}
        energies, forces = energy_and_forces(params, dataclasses.replace(jax.tree.map(jnp.asarray, graph), **tuples))
        return energies.reshape(positions.shape[:2]).sum(axis=1), forces.reshape(positions.shape)

    def of_chunks(params: Params, positions: Array) -> tuple[Array, Array]:
        return jax.lax.map(lambda x: of_chunk(params, x), positions)

    mesh = Mesh(np.array(found[:n_devices]), ("replicas",))
    over = PartitionSpec("replicas")
    spread = jax.shard_map(of_chunks, mesh=mesh, in_specs=(PartitionSpec(), over), out_specs=over, check_vma=False)

    def evaluate(params: Params, positions: Array) -> tuple[Array, Array]:
        if size == replicas.n_replicas:
            return of_chunk(params, positions)
        energies, forces = (spread if n_devices > 1 else of_chunks)(params, positions.reshape(-1, size, *positions.shape[1:]))
        return energies.reshape(-1), forces.reshape(positions.shape)

    return evaluate


def _close(positions: Array, cutoff_angstrom: float) -> Array:
    difference = positions[:, :, None] - positions[:, None]
    squared = jnp.sum(difference * difference, axis=-1)
    return (squared < cutoff_angstrom**2) & ~jnp.eye(positions.shape[1], dtype=bool)
