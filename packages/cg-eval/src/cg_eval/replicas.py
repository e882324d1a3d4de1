"""Many replicas of one chain, side by side in one flat graph, and their edges as positions move.

Edges are found at every force evaluation from all pairs inside each replica: exact, with no skin, no box and no pair between
replicas. Its cost is quadratic in the beads of one replica and linear in replicas, small beside a network on the edges for
chains of up to about a thousand beads. Neighbours are counted every time, so an overflow of their budget is known. It is not
small beside a prior: there all pairs of a short chain are edges, which is exact as well and needs no search.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array, BeadGraph, Params
from cg_data.topology import bonded_tuples

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


def squared_distances(positions: Array) -> Array:
    """Return [n_replicas, n_beads, n_beads] A^2; positions [n_replicas, n_beads, 3] A."""
    # One component after the other: beads, not components, then fill the vector registers of a CPU.
    differences = (positions[:, :, None, axis] - positions[:, None, :, axis] for axis in range(3))
    return sum(difference * difference for difference in differences)


def most_neighbours(positions: Array, cutoff_angstrom: float) -> Array:
    """Return the largest number of beads within the cutoff of any bead; positions [n_replicas, n_beads, 3] A."""
    return jnp.max(jnp.sum(_close(positions, cutoff_angstrom), axis=-1, dtype=jnp.int32))


def all_pairs(n_replicas: int, n_beads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (senders, receivers, edge_mask) in rows, one for each bead, each [n_replicas * n_beads, n_beads - 1]: every ordered pair."""
    rows = np.arange(n_replicas * n_beads, dtype=np.int32)[:, None]
    others = np.arange(n_beads - 1, dtype=np.int32)
    own = rows % n_beads
    senders = (rows - own + others + (others >= own)).astype(np.int32)
    return senders, np.repeat(rows, n_beads - 1, axis=1), np.ones(senders.shape, bool)


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
    n_neighbours: int | None,
) -> Callable[[Params, Array], tuple[Array, Array, Array]]:
    """Return (params, positions [n_replicas, n_beads, 3]) -> (energies [n_replicas] kcal/mol, forces like positions, most).

    most: the most neighbours of a bead; above `n_neighbours`, edges were missing. n_neighbours None: all pairs are edges, for
    energies that vanish beyond the cutoff by themselves, and most is 0.
    """

    def evaluate(params: Params, positions: Array) -> tuple[Array, Array, Array]:
        # Tuples, and edges that do not change, stay NumPy arrays: the prior is faster where it knows that.
        if n_neighbours is None:
            graph, most = replicas.graph(positions, *all_pairs(replicas.n_replicas, replicas.n_beads)), jnp.zeros((), jnp.int32)
        else:
            graph = replicas.graph(positions, *edges_within(positions, cutoff_angstrom, n_neighbours))
            tuples = {name: getattr(graph, name) for name in TUPLE_FIELDS}
            graph = dataclasses.replace(jax.tree.map(jnp.asarray, graph), **tuples)
            most = most_neighbours(positions, cutoff_angstrom)
        energies, forces = energy_and_forces(params, graph)
        return energies.reshape(positions.shape[:2]).sum(axis=1), forces.reshape(positions.shape), most

    return evaluate


def _close(positions: Array, cutoff_angstrom: float) -> Array:
    return (squared_distances(positions) < cutoff_angstrom**2) & ~np.eye(positions.shape[1], dtype=bool)
