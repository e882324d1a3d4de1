"""Energies of a prior on a graph: one entry per term, each four functions (tuples, feature, formula, fit).

The first three meet here; the fits are in `fit`. NumPy graphs and arrays give NumPy energies, JAX ones give JAX energies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array, BeadGraph
from cg_priors.forms import FORMS
from cg_priors.geometry import bend_angle, dihedral_angle, distance
from cg_priors.keys import KEY_COLUMNS, row_lookup
from cg_priors.parameters import PriorParameters, Term
from cg_priors.safe import masked, namespace, safe_norm

PriorArrays = Mapping[str, Mapping[str, Array]]

EXCLUDED_SEPARATIONS = (2, 5)
"""Sequence separations of the excluded volume, both included."""
ON_EDGES = ("repulsion", "excluded_volume")
"""Terms that act on edges of the graph."""
REPULSION_SEPARATION = 6
"""Smallest sequence separation of the repulsion; beads of different segments are infinitely far apart in sequence."""


@dataclass(frozen=True)
class TermKind:
    """What a term acts on.

    tuples   graph -> ([n, width] bead indices, [n] bool mask)
    feature  [n, width, 3] angstrom -> [n] angstrom or radian
    substitute  a harmless value of the feature for masked tuples
    """

    tuples: Callable[[BeadGraph], tuple[Array, Array]]
    feature: Callable[[Array], Array]
    substitute: float


def sequence_separation(residue_index: Array, chain_index: Array, first: Array, second: Array) -> Array:
    """Return |difference of residue indices| of pairs of beads, [n]; a very large number across segments."""
    xp = namespace(residue_index, chain_index, first, second)
    apart = xp.abs(residue_index[first] - residue_index[second])
    return xp.where(chain_index[first] == chain_index[second], apart, np.int32(np.iinfo(np.int32).max))


def _repulsion_pairs(graph: BeadGraph) -> tuple[Array, Array]:
    separation = sequence_separation(graph.residue_index, graph.chain_index, graph.senders, graph.receivers)
    return _edges(graph), graph.edge_mask & (separation >= REPULSION_SEPARATION)


def _excluded_pairs(graph: BeadGraph) -> tuple[Array, Array]:
    separation = sequence_separation(graph.residue_index, graph.chain_index, graph.senders, graph.receivers)
    low, high = EXCLUDED_SEPARATIONS
    return _edges(graph), graph.edge_mask & (separation >= low) & (separation <= high)


def _edges(graph: BeadGraph) -> Array:
    return namespace(graph.senders, graph.receivers).stack([graph.senders, graph.receivers], -1)


TERM_KINDS: Mapping[str, TermKind] = {
    "bond": TermKind(lambda graph: (graph.bonds, graph.bond_mask), distance, 3.8),
    "angle": TermKind(lambda graph: (graph.angles, graph.angle_mask), bend_angle, 1.7),
    "dihedral": TermKind(lambda graph: (graph.dihedrals, graph.dihedral_mask), dihedral_angle, 1.0),
    "repulsion": TermKind(_repulsion_pairs, distance, 6.0),
    "excluded_volume": TermKind(_excluded_pairs, distance, 6.0),
}


def prior_energy_terms(prior: PriorParameters) -> Callable[[PriorArrays, BeadGraph], dict[str, Array]]:
    """Return `(arrays, graph) -> {term: [n_beads] kcal/mol}`, weights applied; the prior's energy is the sum over terms.

    A bonded tuple's energy is shared equally among its beads; a directed edge gives half its pair's energy to its receiver.
    Edges must reach `prior.cutoff_angstrom`; longer ones cost time but change nothing. Geometry and energies have the dtype of
    the positions, the arrays are cast to it. Gradients are finite at coincident beads and collinear tuples, zero for padding.
    """
    tuple_energies = _tuple_energies(prior)

    def energies(arrays: PriorArrays, graph: BeadGraph) -> dict[str, Array]:
        n = graph.positions.shape[0]
        return {name: add_at(n, *_shares(name, *each)) for name, each in tuple_energies(arrays, graph).items()}

    return energies


def prior_energy(prior: PriorParameters) -> Callable[[PriorArrays, BeadGraph], Array]:
    """Return `(arrays, graph) -> [n_beads]` kcal/mol, the sum over terms of `prior_energy_terms`.

    Terms on edges are added edge by edge and then summed over beads once, which on CPU is most of their cost.
    """
    tuple_energies = _tuple_energies(prior)

    def energy(arrays: PriorArrays, graph: BeadGraph) -> Array:
        xp = namespace(graph, arrays)
        total = xp.zeros(graph.positions.shape[0], graph.positions.dtype)
        on_edges = []
        for name, (tuples, values) in tuple_energies(arrays, graph).items():
            if name in ON_EDGES:
                on_edges.append((tuples, values))
            else:
                total = total + add_at(len(total), *_shares(name, tuples, values))
        if on_edges:
            total = total + add_at(len(total), *_shares(ON_EDGES[0], on_edges[0][0], sum(values for _, values in on_edges)))
        return total

    return energy


def _tuple_energies(prior: PriorParameters) -> Callable[[PriorArrays, BeadGraph], dict[str, tuple[Array, Array]]]:
    """Return `(arrays, graph) -> {term: (tuples [n, width], energies [n])}`, weights applied, masked tuples 0."""
    lookups = {name: row_lookup(name, term.rows, prior.species_names) for name, term in prior.terms.items()}

    def energies(arrays: PriorArrays, graph: BeadGraph) -> dict[str, tuple[Array, Array]]:
        if namespace(graph, arrays) is jnp:
            graph, arrays = jax.tree.map(jnp.asarray, (graph, arrays))
        on_edges = edge_lengths(graph) if any(name in ON_EDGES for name in prior.terms) else None
        return {name: _term_energy(name, term, lookups[name], arrays[name], graph, on_edges) for name, term in prior.terms.items()}

    return energies


def edge_lengths(graph: BeadGraph) -> Array:
    """Return the lengths of a graph's edges, [n_edges] angstrom."""
    vectors = graph.positions[graph.receivers] - graph.positions[graph.senders]
    return safe_norm(vectors if graph.shifts is None else vectors + graph.shifts)


def _term_energy(
    name: str, term: Term, lookup: np.ndarray, arrays: Mapping[str, Array], graph: BeadGraph, on_edges: Array | None
) -> tuple[Array, Array]:
    kind = TERM_KINDS[name]
    xp = namespace(graph, arrays)
    tuples, mask = kind.tuples(graph)
    # The terms on edges share one computation of lengths, and so one gradient with respect to the positions.
    x = on_edges if on_edges is not None and name in ON_EDGES else kind.feature(graph.positions[tuples])
    rows = _rows_of(name, term, lookup, tuples, graph.species)
    p = {key: xp.asarray(value).astype(x.dtype)[rows] for key, value in arrays.items()}
    formula = FORMS[term.form].formula
    return tuples, term.weight * masked(lambda inside: formula(inside, p, term.settings), mask, x, substitute=kind.substitute)


def _shares(name: str, tuples: Array, energy: Array) -> tuple[Array, Array]:
    """Return which bead gets how much of each tuple's energy, both flat."""
    if name in ON_EDGES:
        return tuples[:, 1], 0.5 * energy
    width = tuples.shape[1]
    shares = namespace(tuples, energy).broadcast_to((energy / width)[:, None], tuples.shape)
    return tuples.reshape(-1), shares.reshape(-1)


def _rows_of(name: str, term: Term, lookup: np.ndarray, tuples: Array, species: Array) -> Array:
    """Return the row of each tuple, [n]; [1] zeros where all tuples share the pooled row."""
    if len(term.rows) == 1:
        return np.zeros(1, np.int32)
    xp = namespace(tuples, species)
    return xp.asarray(lookup)[tuple(species[tuples[:, column]] for column in KEY_COLUMNS[name])]


def add_at(n: int, indices: Array, values: Array) -> Array:
    """Return the sums of `values` [m] by index, [n], in the dtype of the values."""
    xp = namespace(indices, values)
    sums = xp.zeros(n, values.dtype)
    if xp is np:
        np.add.at(sums, indices, values)
        return sums
    return sums.at[indices].add(values)
