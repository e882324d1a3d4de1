"""Energies of a prior on a graph: one entry per term, each four functions (tuples, feature, formula, fit).

The first three meet here; the fits are in `fit`. NumPy graphs and arrays give NumPy energies, JAX ones give JAX energies.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np

from cg_data.contracts import Array, BeadGraph
from cg_priors.fence import fence
from cg_priors.forms import FORMS
from cg_priors.geometry import Vector, step_bend, step_dihedral, step_length
from cg_priors.keys import KEY_COLUMNS, row_lookup
from cg_priors.parameters import PriorParameters, Term
from cg_priors.safe import masked, namespace

PriorArrays = Mapping[str, Mapping[str, Array]]

EXCLUDED_SEPARATIONS = (2, 5)
"""Sequence separations of the excluded volume, both included."""
ON_EDGES = ("repulsion", "excluded_volume")
"""Terms that act on edges of the graph."""
REPULSION_SEPARATION = 6
"""Smallest sequence separation of the repulsion; beads of different segments are infinitely far apart in sequence."""


@dataclasses.dataclass(frozen=True)
class TermKind:
    """What a term acts on.

    tuples   graph -> ([n, width] bead indices, [n] bool mask)
    feature  steps from bead to bead, width - 1 vectors of [n] angstrom -> [n] angstrom or radian
    substitute  a harmless value of the feature for masked tuples
    """

    tuples: Callable[[BeadGraph], tuple[Array, Array]]
    feature: Callable[..., Array]
    substitute: float


def sequence_separation(residue_index: Array, chain_index: Array, first: Array, second: Array) -> Array:
    """Return |difference of residue indices| of pairs of beads, [n]; a very large number across segments."""
    xp = namespace(residue_index, chain_index, first, second)
    residue_index, chain_index = xp.asarray(residue_index), xp.asarray(chain_index)
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
    "bond": TermKind(lambda graph: (graph.bonds, graph.bond_mask), step_length, 3.8),
    "angle": TermKind(lambda graph: (graph.angles, graph.angle_mask), step_bend, 1.7),
    "dihedral": TermKind(lambda graph: (graph.dihedrals, graph.dihedral_mask), step_dihedral, 1.0),
    "repulsion": TermKind(_repulsion_pairs, step_length, 6.0),
    "excluded_volume": TermKind(_excluded_pairs, step_length, 6.0),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tuples:
    """Where a term acts: bead indices, one array [n] for each place in the tuple; what part of a tuple's energy each of these
    beads gets; and displacements [n, 3] angstrom to add to the step of a periodic edge, or None.
    """

    beads: tuple[Array, ...]
    shares: tuple[float, ...]
    shifts: Array | None = None


def prior_energy_terms(prior: PriorParameters) -> Callable[[PriorArrays, BeadGraph], dict[str, Array]]:
    """Return `(arrays, graph) -> {term: [n_beads] kcal/mol}`, weights applied; the prior's energy is the sum over terms.

    A bonded tuple's energy is shared equally among its beads; a directed edge gives half its pair's energy to its receiver.
    Edges must reach `prior.cutoff_angstrom`; longer ones cost time but change nothing. Geometry and energies have the dtype of
    the positions, the arrays are cast to it. Gradients are finite at coincident beads and collinear tuples, zero for padding.
    Tuples and edges that are NumPy arrays are sorted out once, when JAX traces: those that do not count are dropped, and the two
    edges of a pair become one.
    """
    tuple_energies = _tuple_energies(prior)

    def energies(arrays: PriorArrays, graph: BeadGraph) -> dict[str, Array]:
        zeros = namespace(graph, arrays).zeros(graph.positions.shape[0], graph.positions.dtype)
        return {name: _to_beads(zeros, tuples, values) for name, (tuples, values) in tuple_energies(arrays, graph).items()}

    return energies


def prior_energy(prior: PriorParameters) -> Callable[[PriorArrays, BeadGraph], Array]:
    """Return `(arrays, graph) -> [n_beads]` kcal/mol, the sum over terms of `prior_energy_terms`, summed over beads once."""
    tuple_energies = _tuple_energies(prior)

    def energy(arrays: PriorArrays, graph: BeadGraph) -> Array:
        total = namespace(graph, arrays).zeros(graph.positions.shape[0], graph.positions.dtype)
        by_tuples: dict[Tuples, Array] = {}
        for tuples, values in tuple_energies(arrays, graph).values():
            by_tuples[tuples] = by_tuples[tuples] + values if tuples in by_tuples else values
        for tuples, values in by_tuples.items():
            total = _to_beads(total, tuples, values)
        return total

    return energy


def _tuple_energies(prior: PriorParameters) -> Callable[[PriorArrays, BeadGraph], dict[str, tuple[Tuples, Array]]]:
    """Return `(arrays, graph) -> {term: (tuples, energies [n])}`, weights applied, masked tuples 0."""
    lookups = {name: row_lookup(name, term.rows, prior.species_names) for name, term in prior.terms.items()}

    def energies(arrays: PriorArrays, graph: BeadGraph) -> dict[str, tuple[Tuples, Array]]:
        xp = namespace(graph, arrays)
        positions = xp.asarray(graph.positions)
        components = (positions[:, 0], positions[:, 1], positions[:, 2])
        selected = _select(prior.terms, graph)
        features = {tuples: TERM_KINDS[name].feature(*_steps(components, tuples)) for name, (tuples, _) in selected.items()}
        parameters = {}
        for name, (tuples, _) in selected.items():
            rows = _rows_of(name, prior.terms[name], lookups[name], tuples, graph.species)
            parameters[name] = {key: xp.asarray(value).astype(positions.dtype)[rows] for key, value in arrays[name].items()}
        if any(mask is None for _, mask in selected.values()):
            # Not where all tuples are arguments: a function that is exported is the same for all platforms.
            values, parameters = fence((list(features.values()), parameters), xp.isfinite(positions[0, 0]))
            features = dict(zip(features, values, strict=True))
        found = _on_shared_edges(prior.terms, selected, features, parameters)
        for name, (tuples, mask) in selected.items():
            if name not in found:
                term = prior.terms[name]
                found[name] = _energy(name, term.form, term.weight, term.settings, features[tuples], parameters[name], mask)
        return {name: (tuples, found[name]) for name, (tuples, _) in selected.items()}

    return energies


def _select(terms: Mapping[str, Term], graph: BeadGraph) -> dict[str, tuple[Tuples, Array | None]]:
    """Return the tuples of each term and which of them count (None: all); terms on edges that JAX traces share their tuples."""
    edges = Tuples((graph.senders, graph.receivers), (0.0, 0.5), graph.shifts)
    selected: dict[str, tuple[Tuples, Array | None]] = {}
    for name in terms:
        beads, mask = TERM_KINDS[name].tuples(graph)
        if isinstance(beads, np.ndarray) and isinstance(mask, np.ndarray) and (name not in ON_EDGES or graph.shifts is None):
            counted = np.ascontiguousarray(beads[mask].T)
            selected[name] = (_pairs(*counted) if name in ON_EDGES else _shared_equally(counted)), None
        else:
            selected[name] = (edges if name in ON_EDGES else _shared_equally(beads.T)), mask
    return selected


def _shared_equally(beads: Array) -> Tuples:
    """Return the tuples of beads [width, n]."""
    return Tuples(tuple(beads), (1 / len(beads),) * len(beads))


def _pairs(senders: np.ndarray, receivers: np.ndarray) -> Tuples:
    """Return each pair once where every edge has its opposite, else the edges as they are."""
    n = int(max(senders.max(initial=0), receivers.max(initial=0))) + 1
    there, back = (np.sort(a.astype(np.int64) * n + b) for a, b in ((senders, receivers), (receivers, senders)))
    if not np.array_equal(there, back):
        return Tuples((senders, receivers), (0.0, 0.5))
    once = senders < receivers
    return _shared_equally(np.stack([senders[once], receivers[once]]))


def _steps(components: Vector, tuples: Tuples) -> list[Vector]:
    """Return the vectors from each bead of the tuples to the next, angstrom."""
    points = [tuple(component[beads] for component in components) for beads in tuples.beads]
    steps = [tuple(b - a for a, b in zip(here, there, strict=True)) for here, there in itertools.pairwise(points)]
    if tuples.shifts is not None:
        steps = [tuple(component + tuples.shifts[:, axis] for axis, component in enumerate(step)) for step in steps]
    return [(x, y, z) for x, y, z in steps]


def _on_shared_edges(
    terms: Mapping[str, Term],
    selected: Mapping[str, tuple[Tuples, Array | None]],
    features: Mapping[Tuples, Array],
    parameters: Mapping[str, Mapping[str, Array]],
) -> dict[str, Array]:
    """Return the energies of the terms on edges where both have the same edges and form, else nothing.

    No edge counts for both, so the formula is evaluated once, with the numbers of the edge's term: half the time.
    """
    if not all(name in terms for name in ON_EDGES):
        return {}
    (tuples, mask), (others, other_mask) = (selected[name] for name in ON_EDGES)
    first, second = (terms[name] for name in ON_EDGES)
    if tuples is not others or first.form != second.form or mask is None or other_mask is None:
        return {}
    xp = namespace(mask, features[tuples])
    dtype = features[tuples].dtype

    def chosen(a: Array, b: Array) -> Array:
        return xp.where(mask, xp.asarray(a, dtype), xp.asarray(b, dtype))

    p, other_p = (parameters[name] for name in ON_EDGES)
    settings = {key: chosen(first.settings[key], second.settings[key]) for key in FORMS[first.form].settings}
    weight, values = chosen(first.weight, second.weight), {key: chosen(p[key], other_p[key]) for key in p}
    energy = _energy(ON_EDGES[0], first.form, weight, settings, features[tuples], values, mask | other_mask)
    return {name: xp.where(some, energy, 0) for name, some in zip(ON_EDGES, (mask, other_mask), strict=True)}


def _energy(
    name: str, form: str, weight: Array, settings: Mapping[str, Array], x: Array, p: Mapping[str, Array], mask: Array | None
) -> Array:
    """Return the energies of tuples, [n] kcal/mol, weight applied."""
    formula = FORMS[form].formula
    if mask is None:
        return weight * formula(x, p, settings)
    return weight * masked(lambda inside: formula(inside, p, settings), mask, x, substitute=TERM_KINDS[name].substitute)


def _rows_of(name: str, term: Term, lookup: np.ndarray, tuples: Tuples, species: Array) -> Array:
    """Return the row of each tuple, [n]; [1] zeros where all tuples share the pooled row."""
    if len(term.rows) == 1:
        return np.zeros(1, np.int32)
    xp = namespace(*tuples.beads, species)
    return xp.asarray(lookup)[tuple(xp.asarray(species)[tuples.beads[column]] for column in KEY_COLUMNS[name])]


def _to_beads(total: Array, tuples: Tuples, energies: Array) -> Array:
    """Return `total` [n_beads] with every bead's share of the tuples' energies added."""
    xp = namespace(total, energies, *tuples.beads)
    for beads, share in zip(tuples.beads, tuples.shares, strict=True):
        if share and xp is np:
            total = total + np.bincount(beads, share * energies, len(total)).astype(total.dtype)
        elif share:
            total = xp.asarray(total).at[beads].add(share * energies)
    return total
