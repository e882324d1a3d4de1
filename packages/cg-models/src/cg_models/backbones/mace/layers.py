"""The pieces of MACE: messages, symmetric contraction, linear maps of irreps. Tensors are [n_beads, components, channels]."""

import functools
import itertools

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_models.edges import Edges
from cg_models.equivariant import Irreps, blocks, coupling, dimension, paths
from cg_models.layers import Parameter

INDEPENDENT = 1e-6
"""A candidate of the symmetric basis counts if more than this fraction of it is not in the span of those before it."""


def mix(parameter: Parameter, name: str, x: Array, irreps: Irreps, width: int) -> Array:
    """Return an equivariant linear map of the channels of each irrep, [n_beads, dim, c] -> [n_beads, dim, width]."""
    channels = x.shape[-1]
    weights = parameter(name, (len(irreps), channels, width)) * jnp.asarray(1 / np.sqrt(channels), x.dtype)
    return jnp.concatenate([x[:, block] @ weights[n] for n, block in enumerate(blocks(irreps))], 1)


def mix_by_species(parameter: Parameter, name: str, x: Array, species: Array, n_species: int, irreps: Irreps, width: int) -> Array:
    """Return a linear map of the channels with weights of each bead's species, [n_beads, dim, c] -> [n_beads, dim, width]."""
    channels = x.shape[-1]
    weights = parameter(name, (n_species, len(irreps), channels, width)) * jnp.asarray(1 / np.sqrt(channels), x.dtype)
    mixed = [jnp.einsum("bmc,bcd->bmd", x[:, block], weights[species, n]) for n, block in enumerate(blocks(irreps))]
    return jnp.concatenate(mixed, 1)


def messages(
    parameter: Parameter,
    name: str,
    features: Array,
    radial: Array,
    directions: Array,
    edges: Edges,
    inputs: Irreps,
    harmonics: Irreps,
    width: int,
    weight_scale: float,
) -> Array:
    """Return sum_j R(r_ij) (h_j x Y(r_ij)), channels mixed, [n_beads, dim(harmonics), width].

    features [n_beads, dim(inputs), c]; radial [..., n_paths, c]; directions [..., dim(harmonics)]. The sum over neighbours of
    (R h_j) Y comes first, as a matrix product per bead, and the coupling coefficients after it, once per bead. weight_scale: of
    the linear map's fresh weights.
    """
    neighbours = edges.of_senders(features)
    lower, harmonic = blocks(inputs), blocks(harmonics)
    found: dict[int, list[Array]] = {k: [] for k in range(len(harmonics))}
    for path, (i, j, k) in enumerate(paths(inputs, harmonics, harmonics)):
        weighted = radial[..., path, None, :] * neighbours[..., lower[i], :]
        summed = outer_sum(weighted, directions[..., harmonic[j]], edges)
        coefficients = jnp.asarray(coupling(inputs[i], harmonics[j], harmonics[k]), features.dtype)
        found[k].append(jnp.einsum("bmcn,mno->boc", summed, coefficients))
    mixed = []
    for k, parts in found.items():
        x = jnp.concatenate(parts, -1)
        weights = parameter(f"{name}_{k}", (x.shape[-1], width), scale=weight_scale)
        mixed.append(x @ (weights * jnp.asarray(1 / np.sqrt(x.shape[-1]), x.dtype)))
    return jnp.concatenate(mixed, 1)


def outer_sum(weighted: Array, directions: Array, edges: Edges) -> Array:
    """Return sum over neighbours of outer products, [..., m, c] and [..., n] -> [n_beads, m, c, n]."""
    if edges.is_dense:
        return jnp.einsum("bkmc,bkn->bmcn", weighted, directions)
    return edges.sum(weighted[..., None] * directions[..., None, None, :])


def symmetric_contraction(x: Array, weights: Array, irreps: Irreps, outputs: Irreps, correlation: int) -> Array:
    """Return all symmetric equivariant polynomials of x up to a degree, weighted, [n_beads, dim, c] -> [n_beads, dim(outputs), c].

    weights [n_beads, n_polynomials, c], in the order of `polynomial_basis`. Monomials lie in the leading axis, so that each is a
    product of contiguous arrays and the basis is one matrix product.
    """
    basis, widths = polynomial_basis(irreps, outputs, correlation)
    powers = monomials(jnp.moveaxis(x, 1, 0), correlation)
    values = jnp.tensordot(jnp.asarray(basis, x.dtype), powers, 1)
    results, row, number = [], 0, 0
    for irrep, count in zip(outputs, widths, strict=True):
        part = values[row : row + count * irrep.dim].reshape(count, irrep.dim, *values.shape[1:])
        results.append(jnp.einsum("kobc,bkc->boc", part, weights[:, number : number + count]))
        row, number = row + count * irrep.dim, number + count
    return jnp.concatenate(results, 1)


def monomials(x: Array, degree: int) -> Array:
    """Return all monomials of degrees 1 to `degree` of the rows of x, [n, ...] -> [n_monomials, ...], indices ascending."""
    levels, starts = [x], list(range(x.shape[0]))
    for _ in range(degree - 1):
        last = levels[-1]
        parts = [x[i] * last[start:] for i, start in enumerate(starts)]
        sizes = [last.shape[0] - start for start in starts]
        levels.append(jnp.concatenate(parts))
        starts = list(np.cumsum([0, *sizes[:-1]]))
    return jnp.concatenate(levels)


@functools.cache
def polynomial_basis(irreps: Irreps, outputs: Irreps, correlation: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return ([n_rows, n_monomials], number of polynomials into each output).

    Rows are (output irrep, polynomial, component). The polynomials of one output span all symmetric equivariant maps of degrees 1
    to `correlation`, lower degrees first, and have about unit variance for standard normal arguments.
    """
    n = dimension(irreps)
    columns = {
        index: column
        for column, index in enumerate(
            itertools.chain.from_iterable(itertools.combinations_with_replacement(range(n), degree) for degree in range(1, correlation + 1))
        )
    }
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
