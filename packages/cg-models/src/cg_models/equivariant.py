"""Irreps, spherical harmonics and coupling coefficients, from e3nn-jax, as constants that fold into compiled code."""

import functools

import e3nn_jax as e3nn
import numpy as np

from cg_data.contracts import Array

Irreps = tuple[e3nn.Irrep, ...]
"""One of each; multiplicities live in an axis of channels."""


def dimension(irreps: Irreps) -> int:
    """Return the number of components."""
    return sum(irrep.dim for irrep in irreps)


def blocks(irreps: Irreps) -> list[slice]:
    """Return where each irrep's components lie."""
    ends = np.cumsum([irrep.dim for irrep in irreps])
    return [slice(int(end - irrep.dim), int(end)) for irrep, end in zip(irreps, ends, strict=True)]


def harmonic_irreps(l_max: int, parity: bool) -> Irreps:
    """Return the irreps of the spherical harmonics; without parity all are called even, so every product is allowed."""
    return tuple(e3nn.Irrep(degree, (-1) ** degree if parity else 1) for degree in range(l_max + 1))


def spherical_harmonics(directions: Array, l_max: int) -> Array:
    """Return all Y_l, l = 0..l_max, of unit vectors, [..., 3] -> [..., (l_max + 1)^2]; components have mean square 1."""
    irreps = e3nn.Irreps([(1, (degree, (-1) ** degree)) for degree in range(l_max + 1)])
    return e3nn.spherical_harmonics(irreps, directions, normalize=False, normalization="component").array


@functools.cache
def coupling(first: e3nn.Irrep, second: e3nn.Irrep, result: e3nn.Irrep) -> np.ndarray:
    """Return C [first.dim, second.dim, result.dim]: sum_ij C_ijk a_i b_j has unit variance for a, b of unit variance."""
    coefficients = np.asarray(e3nn.clebsch_gordan(first.l, second.l, result.l), np.float64)
    return coefficients * np.sqrt(result.dim / (coefficients**2).sum())


def paths(first: Irreps, second: Irreps, results: Irreps) -> list[tuple[int, int, int]]:
    """Return the allowed (i, j, k) with results[k] in first[i] x second[j]."""
    return [(i, j, k) for i, a in enumerate(first) for j, b in enumerate(second) for k, c in enumerate(results) if c in a * b]


@functools.cache
def coupling_tensor(first: Irreps, second: Irreps, results: Irreps) -> np.ndarray:
    """Return [n_paths, dim(first), dim(second), dim(results)], normalised by the number of paths into each result."""
    found = paths(first, second, results)
    into = np.bincount([k for _, _, k in found], minlength=len(results))
    tensor = np.zeros((len(found), dimension(first), dimension(second), dimension(results)))
    a, b, c = blocks(first), blocks(second), blocks(results)
    for path, (i, j, k) in enumerate(found):
        tensor[path, a[i], b[j], c[k]] = coupling(first[i], second[j], results[k]) / np.sqrt(into[k])
    return tensor
