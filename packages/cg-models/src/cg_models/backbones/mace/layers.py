"""The pieces of MACE: messages, symmetric contraction, linear maps of irreps. Tensors are [n_beads, components, channels]."""

import functools
import itertools

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_models.edges import Edges
from cg_models.equivariant import Irreps, blocks, coupling, dimension, paths
from cg_models.layers import Parameter, weigh
from cg_models.products import product_tn

INDEPENDENT = 1e-6
"""A candidate of the symmetric basis counts if more than this fraction of it is not in the span of those before it."""
NEGLIGIBLE = 1e-12
"""A coefficient below this is a zero that was rounded; the others are of the order of one."""


def mix(parameter: Parameter, name: str, x: Array, irreps: Irreps, width: int) -> Array:
    """Return an equivariant linear map of the channels of each irrep, [n_beads, dim, c] -> [n_beads, dim, width]."""
    channels = x.shape[-1]
    weights = parameter(name, (len(irreps), channels, width)) * jnp.asarray(1 / np.sqrt(channels), x.dtype)
    return jnp.concatenate([weigh(x[:, block], weights[n]) for n, block in enumerate(blocks(irreps))], 1)


def mix_by_species(parameter: Parameter, name: str, x: Array, one_hot: Array, irreps: Irreps, width: int, fresh: float) -> Array:
    """Return a linear map of the channels with weights of each bead's species, [n_beads, dim, c] -> [n_beads, dim, width].

    one_hot [n_beads, n_species]; fresh: standard deviation of fresh weights. One product with the weights of all species, of channels
    that are zero but for the bead's own, is less work than a copy of its species' matrix for every bead.
    """
    channels, n_species = x.shape[-1], one_hot.shape[-1]
    weights = parameter(name, (n_species, len(irreps), channels, width), fresh) * jnp.asarray(1 / np.sqrt(channels), x.dtype)
    spread = (x[:, :, None, :] * one_hot[:, None, :, None]).reshape(*x.shape[:2], n_species * channels)
    mixed = [weigh(spread[:, block], weights[:, n].reshape(-1, width)) for n, block in enumerate(blocks(irreps))]
    return jnp.concatenate(mixed, 1)


def messages(
    parameter: Parameter,
    name: str,
    features: Array,
    hidden: Array,
    radial_weights: Array,
    directions: Array,
    edges: Edges,
    inputs: Irreps,
    harmonics: Irreps,
    width: int,
    weight_scale: float,
) -> Array:
    """Return sum_j R(r_ij) (h_j x Y(r_ij)), channels mixed, [n_beads, dim(harmonics), width].

    features [n_beads, dim(inputs), c]; R = hidden @ radial_weights, [..., h] and [h, n_paths * c]; directions
    [..., dim(harmonics)]. weight_scale: of the linear map's fresh weights.
    """
    lower, harmonic = blocks(inputs), blocks(harmonics)
    neighbours = [edges.of_senders(features[:, block]) for block in lower]
    found: dict[int, list[Array]] = {k: [] for k in range(len(harmonics))}
    allowed = paths(inputs, harmonics, harmonics)
    # The weights are split rather than their product, which is as large as everything else together.
    for (i, j, k), weights in zip(allowed, jnp.split(radial_weights, len(allowed), 1), strict=True):
        weighted = weigh(hidden, weights)[..., None, :] * neighbours[i]
        coefficients = jnp.asarray(coupling(inputs[i], harmonics[j], harmonics[k]), features.dtype)
        found[k].append(coupled_sum(weighted, directions[..., harmonic[j]], coefficients, edges))
    mixed = []
    for k, parts in found.items():
        x = jnp.concatenate(parts, -1)
        weights = parameter(f"{name}_{k}", (x.shape[-1], width), scale=weight_scale)
        mixed.append(weigh(x, weights * jnp.asarray(1 / np.sqrt(x.shape[-1]), x.dtype)))
    return jnp.concatenate(mixed, 1)


def coupled_sum(weighted: Array, directions: Array, coefficients: Array, edges: Edges) -> Array:
    """Return sum over neighbours of coupled products, [..., m, c], [..., n] and [m, n, o] -> [n_beads, o, c].

    Of edges in rows, directions are coupled first, which leaves one matrix product per row, over its edges and the components m.
    Of flat ones they are coupled last, once per bead.
    """
    m, n, o = coefficients.shape
    if edges.in_rows:
        coupled = weigh(directions, jnp.swapaxes(coefficients, 0, 1).reshape(n, m * o))
        n_rows, channels = weighted.shape[0], weighted.shape[-1]
        return edges.sum_rows(product_tn(coupled.reshape(n_rows, -1, o), weighted.reshape(n_rows, -1, channels)))
    summed = edges.sum(weighted[..., None] * directions[..., None, None, :])
    return jnp.einsum("bmcn,mno->boc", summed, coefficients)


def symmetric_contraction(x: Array, weights: Array, irreps: Irreps, outputs: Irreps, correlation: int) -> Array:
    """Return all symmetric equivariant polynomials of x up to a degree, weighted, [n_beads, dim, c] -> [n_beads, dim(outputs), c].

    weights [n_beads, n_polynomials, c], in the order of `polynomial_basis`. Few coefficients are not zero, so they are written
    out, term by term, as products of whole arrays [n_beads, c]: the compiler fuses those, with their derivatives, where monomials
    in one array would go through memory.
    """
    basis, widths = polynomial_basis(irreps, outputs, correlation)
    indices = monomials(x.shape[1], correlation)
    factors = [x[:, component] for component in range(x.shape[1])]
    products = {(i, j): factors[i] * factors[j] for i in range(len(factors)) for j in range(i, len(factors))}
    results, row, number = [], 0, 0
    for irrep, count in zip(outputs, widths, strict=True):
        for component in range(irrep.dim):
            total = jnp.zeros_like(factors[0])
            for polynomial in range(count):
                coefficients = basis[row + polynomial * irrep.dim + component]
                value = polynomial_value(coefficients, indices, factors, products)
                total = total + weights[:, number + polynomial] * value
            results.append(total)
        row, number = row + count * irrep.dim, number + count
    return jnp.stack(results, 1)


def polynomial_value(
    coefficients: np.ndarray, indices: list[tuple[int, ...]], factors: list[Array], products: dict[tuple[int, int], Array]
) -> Array:
    """Return sum_m coefficients[m] prod(factors[i] for i in indices[m]), the first factor of several terms taken out of them."""
    by_first: dict[int, Array | float] = {}
    for place in np.flatnonzero(np.abs(coefficients) > NEGLIGIBLE):
        first, *rest = indices[place]
        term = float(coefficients[place])
        if rest:
            term = term * (products[rest[0], rest[1]] if len(rest) == 2 else factors[rest[0]])
        by_first[first] = by_first[first] + term if first in by_first else term
    return sum((factors[first] * inner for first, inner in by_first.items()), jnp.zeros_like(factors[0]))


def monomials(n: int, degree: int) -> list[tuple[int, ...]]:
    """Return the indices, ascending, of all monomials of degrees 1 to `degree` in n variables, lower degrees first."""
    degrees = range(1, degree + 1)
    return list(itertools.chain.from_iterable(itertools.combinations_with_replacement(range(n), d) for d in degrees))


@functools.cache
def polynomial_basis(irreps: Irreps, outputs: Irreps, correlation: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return ([n_rows, n_monomials], number of polynomials into each output).

    Rows are (output irrep, polynomial, component). The polynomials of one output span all symmetric equivariant maps of degrees 1
    to `correlation`, lower degrees first, and have about unit variance for standard normal arguments.
    """
    n = dimension(irreps)
    columns = {index: column for column, index in enumerate(monomials(n, correlation))}
    rows, widths = [], []
    for output in outputs:
        count = 0
        for degree in range(1, correlation + 1):
            for tensor in symmetric_tensors(irreps, degree).get(output, ()):
                count += 1
                row = np.zeros((output.dim, len(columns)))
                for index in np.ndindex(*tensor.shape[:-1]):
                    row[:, columns[tuple(sorted(index))]] += tensor[index]
                rows.append(row)
        widths.append(count)
    return np.concatenate(rows), tuple(widths)


@functools.cache
def symmetric_tensors(irreps: Irreps, degree: int) -> dict[e3nn.Irrep, tuple[np.ndarray, ...]]:
    """Return, for each irrep, independent symmetric equivariant tensors [dim] * degree + [irrep.dim].

    Candidates are products of those one degree lower with each input irrep, in a fixed order, so the basis, and with it the
    meaning of stored weights, is always the same.
    """
    n = dimension(irreps)
    candidates: dict[e3nn.Irrep, list[np.ndarray]] = {}
    if degree == 1:
        for irrep, block in zip(irreps, blocks(irreps), strict=True):
            candidates.setdefault(irrep, []).append(np.eye(n)[:, block])
    else:
        for lower, tensors in symmetric_tensors(irreps, degree - 1).items():
            for irrep, block in zip(irreps, blocks(irreps), strict=True):
                for result in lower * irrep:
                    for tensor in tensors:
                        product = np.zeros((*tensor.shape[:-1], n, result.dim))
                        product[..., block, :] = np.tensordot(tensor, coupling(lower, irrep, result), 1)
                        candidates.setdefault(result, []).append(_symmetrised(product))
    return {irrep: _independent(tensors, degree) for irrep, tensors in candidates.items()}


def _symmetrised(tensor: np.ndarray) -> np.ndarray:
    axes = range(tensor.ndim - 1)
    permuted = [tensor.transpose(*order, tensor.ndim - 1) for order in itertools.permutations(axes)]
    return np.sum(permuted, 0) / len(permuted)


def _independent(tensors: list[np.ndarray], degree: int) -> tuple[np.ndarray, ...]:
    """Return the tensors made orthogonal by Gram-Schmidt, those in the span of earlier ones left out, scaled to unit variance."""
    chosen: list[np.ndarray] = []
    for tensor in tensors:
        size = np.linalg.norm(tensor)
        if size < INDEPENDENT:
            continue
        rest = tensor / size
        for _ in range(2):
            for other in chosen:
                rest = rest - other * (other * rest).sum()
        if np.linalg.norm(rest) > INDEPENDENT:
            chosen.append(rest / np.linalg.norm(rest))
    factorial = float(np.prod(range(1, degree + 1)))
    return tuple(tensor * np.sqrt(tensor.shape[-1] / factorial) for tensor in chosen)
