"""Edges as networks see them: masked geometry, and sums and look-ups that work in both layouts."""

import dataclasses

import jax
import jax.numpy as jnp

from cg_data.contracts import Array, BeadGraph
from cg_models.graph import has_rows
from cg_models.radial import polynomial_envelope

COINCIDENT = 1e-6
"""Beads nearer than this, angstrom, count as one point: they have no direction, and derivatives by it would overflow float32."""
IN_BOUNDS = "promise_in_bounds"
"""Indices of a graph are within it, padding included; JAX's default mode checks every one of them."""


@dataclasses.dataclass(frozen=True)
class Edges:
    """Geometry of the edges of a graph, [...] being [n_edges] or, where they are in rows, [n_rows, width].

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
    def in_rows(self) -> bool:
        """Whether edges are in rows, each of one receiver."""
        return self.senders.ndim == 2

    @property
    def row_receivers(self) -> Array:
        """The receiver of each row, [n_rows]; a flat edge is a row."""
        return self.receivers[:, 0] if self.in_rows else self.receivers

    def rows(self, per_edge: Array) -> Array:
        """Return values of edges in rows of one receiver, [..., f...] -> [n_rows, width, f...]; a flat edge is a row."""
        return per_edge if self.in_rows else per_edge[:, None]

    def of_rows(self, per_bead: Array, axis: int = 0) -> Array:
        """Return the value at the receiver of each row, [..., n_beads, f...] -> [..., n_rows, f...] with beads along `axis`."""
        return per_bead.at[(slice(None),) * axis + (self.row_receivers,)].get(mode=IN_BOUNDS)

    def sum_rows(self, per_row: Array) -> Array:
        """Return the sums over the rows of each bead, [n_rows, f...] -> [n_beads, f...]."""
        return jax.ops.segment_sum(per_row, self.row_receivers, self.n_beads, mode=IN_BOUNDS)

    def of_receivers(self, per_bead: Array) -> Array:
        """Return each edge's value at its receiver, [n_beads, f...] -> [..., f...] (of width 1 where edges are in rows)."""
        return self.of_rows(per_bead)[:, None] if self.in_rows else self.of_rows(per_bead)

    def of_senders(self, per_bead: Array) -> Array:
        """Return each edge's value at its sender, [n_beads, f...] -> [..., f...]."""
        return per_bead.at[self.senders].get(mode=IN_BOUNDS)

    def sum(self, per_edge: Array) -> Array:
        """Return the sums over the edges that each bead receives, [..., f...] -> [n_beads, f...]."""
        return self.sum_rows(per_edge.sum(1) if self.in_rows else per_edge)


def edges_of(graph: BeadGraph, cutoff: float, envelope_exponent: int, dtype: jnp.dtype) -> Edges:
    """Return the edges of a graph; vectors are formed in the dtype of the positions and only then cast to `dtype`."""
    senders, receivers = graph.senders, graph.receivers
    centres = graph.positions[receivers[:, :1] if has_rows(graph) else receivers]
    vectors = centres - graph.positions[senders]
    if graph.shifts is not None:
        vectors = vectors + graph.shifts.astype(vectors.dtype)
    vectors = vectors.astype(dtype)
    squared = (vectors * vectors).sum(-1)
    used = graph.edge_mask & graph.bead_mask[senders] & graph.bead_mask[receivers]
    used = used & (squared > COINCIDENT**2) & (squared < cutoff * cutoff)
    # The first half of where-where: nothing below ever sees the vector of an edge that does not count.
    vectors = jnp.where(used[..., None], vectors, jnp.asarray([0.5 * cutoff, 0, 0], dtype))
    lengths = jnp.sqrt((vectors * vectors).sum(-1))
    envelope = jnp.where(used, polynomial_envelope(lengths / cutoff, envelope_exponent), 0)
    return Edges(vectors / lengths[..., None], lengths, envelope, senders, receivers, graph.positions.shape[0])
