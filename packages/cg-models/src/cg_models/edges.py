"""Edges as networks see them: masked geometry, and sums and look-ups that work in both layouts."""

import dataclasses

import jax
import jax.numpy as jnp

from cg_data.contracts import Array, BeadGraph
from cg_models.graph import is_dense
from cg_models.radial import polynomial_envelope

IN_BOUNDS = "promise_in_bounds"
"""Indices of a graph are within it, padding included; JAX's default mode checks every one of them."""


@dataclasses.dataclass(frozen=True)
class Edges:
    """Geometry of the edges of a graph, [...] being [n_edges] or, in the dense layout, [n_beads, n_neighbours].

    directions [..., 3] unit vectors from sender to receiver; lengths [...] angstrom; envelope [...], exactly zero at and beyond
    the cutoff and for edges of padding, where direction and length are a harmless constant without gradient; senders and
    receivers [...] bead indices.
    """

    directions: Array
    lengths: Array
    envelope: Array
    senders: Array
    receivers: Array
    n_beads: int

    @property
    def is_dense(self) -> bool:
        """Whether row i holds the edges that bead i receives."""
        return self.senders.ndim == 2

    def rows(self, per_edge: Array) -> Array:
        """Return values of edges in rows of one receiver, [..., f...] -> [n_rows, width, f...]; a flat edge is a row."""
        return per_edge if self.is_dense else per_edge[:, None]

    def of_rows(self, per_bead: Array) -> Array:
        """Return the value at the receiver of each row, [c, n_beads, f...] -> [c, n_rows, f...]."""
        return per_bead if self.is_dense else per_bead.at[:, self.receivers].get(mode=IN_BOUNDS)

    def sum_rows(self, per_row: Array) -> Array:
        """Return the sums over the rows of each bead, [n_rows, f...] -> [n_beads, f...]."""
        return per_row if self.is_dense else jax.ops.segment_sum(per_row, self.receivers, self.n_beads, mode=IN_BOUNDS)

    def of_receivers(self, per_bead: Array) -> Array:
        """Return each edge's value at its receiver, [n_beads, f...] -> [..., f...] (broadcastable in the dense layout)."""
        return per_bead[:, None] if self.is_dense else per_bead.at[self.receivers].get(mode=IN_BOUNDS)

    def of_senders(self, per_bead: Array) -> Array:
        """Return each edge's value at its sender, [n_beads, f...] -> [..., f...]."""
        return per_bead.at[self.senders].get(mode=IN_BOUNDS)

    def sum(self, per_edge: Array) -> Array:
        """Return the sums over the edges that each bead receives, [..., f...] -> [n_beads, f...]."""
        if self.is_dense:
            return per_edge.sum(1)
        return jax.ops.segment_sum(per_edge, self.receivers, self.n_beads, mode=IN_BOUNDS)


def edges_of(graph: BeadGraph, cutoff: float, envelope_exponent: int, dtype: jnp.dtype) -> Edges:
    """Return the edges of a graph; vectors are formed in the dtype of the positions and only then cast to `dtype`."""
    senders, receivers = graph.senders, graph.receivers
    centres = graph.positions[:, None] if is_dense(graph) else graph.positions[receivers]
    vectors = centres - graph.positions[senders]
    if graph.shifts is not None:
        vectors = vectors + graph.shifts.astype(vectors.dtype)
    vectors = vectors.astype(dtype)
    squared = (vectors * vectors).sum(-1)
    used = graph.edge_mask & graph.bead_mask[senders] & graph.bead_mask[receivers]
    used = used & (squared > 0) & (squared < cutoff * cutoff)
    # The first half of where-where: nothing below ever sees the vector of an edge that does not count.
    vectors = jnp.where(used[..., None], vectors, jnp.asarray([0.5 * cutoff, 0, 0], dtype))
    lengths = jnp.sqrt((vectors * vectors).sum(-1))
    envelope = jnp.where(used, polynomial_envelope(lengths / cutoff, envelope_exponent), 0)
    return Edges(vectors / lengths[..., None], lengths, envelope, senders, receivers, graph.positions.shape[0])
