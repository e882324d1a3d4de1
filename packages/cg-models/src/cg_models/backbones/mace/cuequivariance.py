"""MACE's two costly products by NVIDIA's cuequivariance, with the parameters and the numbers of `layers`.

The kernels get this package's own coupling coefficients and symmetric tensors, so a model trained with one implementation runs with
the other. They exist for CUDA alone ("uniform_1d": one thread block per batch entry, channels in parallel, look-ups by index and
sums over neighbours within the kernel); elsewhere the library's plain JAX version computes the same, slowly.
"""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_data.errors import require
from cg_models.backbones.mace.layers import NEGLIGIBLE, monomials, polynomial_basis, weigh
from cg_models.edges import Edges
from cg_models.equivariant import Irreps, blocks, coupling, dimension, paths
from cg_models.layers import Parameter


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
    """Return sum_j R(r_ij) (h_j x Y(r_ij)), channels mixed, [n_beads, dim(harmonics), width]; arguments as `layers.messages`."""
    n_beads, channels = features.shape[0], features.shape[-1]
    weights = weigh(hidden, radial_weights)
    operands = [
        weights.reshape(-1, weights.shape[-1]),
        features.reshape(n_beads, -1),
        directions.reshape(-1, directions.shape[-1]),
    ]
    senders, receivers = (jnp.reshape(ends, -1).astype(jnp.int32) for ends in (edges.senders, edges.receivers))
    polynomial = message_polynomial(inputs, harmonics, channels)
    summed = _evaluate("messages", polynomial, operands, n_beads, [None, senders, None, receivers])
    mixed, start = [], 0
    for k, irrep in enumerate(harmonics):
        fan_in = channels * sum(result == k for _, _, result in paths(inputs, harmonics, harmonics))
        x = summed[:, start : start + irrep.dim * fan_in].reshape(n_beads, irrep.dim, fan_in)
        start += irrep.dim * fan_in
        mixing = parameter(f"{name}_{k}", (fan_in, width), scale=weight_scale)
        mixed.append(weigh(x, mixing * jnp.asarray(1 / np.sqrt(fan_in), x.dtype)))
    return jnp.concatenate(mixed, 1)


def symmetric_contraction(x: Array, weights: Array, irreps: Irreps, outputs: Irreps, correlation: int) -> Array:
    """Return all symmetric equivariant polynomials of x up to a degree, weighted; arguments as `layers.symmetric_contraction`."""
    n_beads, channels = x.shape[0], x.shape[-1]
    polynomial = contraction_polynomial(irreps, outputs, correlation, channels)
    operands = [weights.reshape(n_beads, -1), x.reshape(n_beads, -1)]
    result = _evaluate("symmetric_contraction", polynomial, operands, n_beads, [None, None, None])
    return result.reshape(n_beads, dimension(outputs), channels)


@functools.cache
def message_polynomial(inputs: Irreps, harmonics: Irreps, channels: int) -> Any:
    """Return the polynomial (weights [n_paths, c], features [dim(inputs), c], harmonics [dim]) -> [sums, c] of one edge.

    Sums are ordered by output irrep, its component, path, so that those of one irrep and component are its paths side by side.
    """
    cue = _library()
    allowed = paths(inputs, harmonics, harmonics)
    product = cue.SegmentedTensorProduct.from_subscripts("u,u,,u")
    product.add_segments(0, [(channels,)] * len(allowed))
    product.add_segments(1, [(channels,)] * dimension(inputs))
    product.add_segments(2, [()] * dimension(harmonics))
    first, second = blocks(inputs), blocks(harmonics)
    for k, irrep in enumerate(harmonics):
        into = [path for path, (_, _, result) in enumerate(allowed) if result == k]
        for component in range(irrep.dim):
            for path in into:
                i, j, _ = allowed[path]
                segment = product.add_segment(3, (channels,))
                coefficients = coupling(inputs[i], harmonics[j], irrep)[..., component]
                for m, n in np.argwhere(np.abs(coefficients) > NEGLIGIBLE):
                    product.add_path(path, first[i].start + int(m), second[j].start + int(n), segment, c=coefficients[m, n])
    return cue.SegmentedPolynomial(product.operands[:3], product.operands[3:], [(cue.Operation((0, 1, 2, 3)), product)])


@functools.cache
def contraction_polynomial(irreps: Irreps, outputs: Irreps, correlation: int, channels: int) -> Any:
    """Return the polynomial (weights [n_polynomials, c], x [dim(irreps), c]) -> [dim(outputs), c] of one bead."""
    cue = _library()
    basis, widths = polynomial_basis(irreps, outputs, correlation)
    indices = monomials(dimension(irreps), correlation)
    operations = []
    for degree in range(1, correlation + 1):
        product = cue.SegmentedTensorProduct.from_subscripts(",".join("u" * (degree + 2)))
        product.add_segments(0, [(channels,)] * sum(widths))
        for operand in range(1, degree + 1):
            product.add_segments(operand, [(channels,)] * dimension(irreps))
        product.add_segments(degree + 1, [(channels,)] * dimension(outputs))
        row = number = output = 0
        for irrep, count in zip(outputs, widths, strict=True):
            for polynomial in range(count):
                for component in range(irrep.dim):
                    for place in np.flatnonzero(np.abs(basis[row]) > NEGLIGIBLE):
                        if len(indices[place]) == degree:
                            product.add_path(number + polynomial, *indices[place], output + component, c=basis[row, place])
                    row += 1
            number, output = number + count, output + irrep.dim
        operations.append((cue.Operation((0, *[1] * degree, 2)), product))
        ends = [product.operands[0], product.operands[1]], [product.operands[-1]]
    return cue.SegmentedPolynomial(*ends, operations)


def _evaluate(name: str, polynomial: Any, operands: list[Array], n_beads: int, indices: list[Array | None]) -> Array:
    import cuequivariance_jax

    output = jax.ShapeDtypeStruct((n_beads, polynomial.outputs[0].size), operands[0].dtype)
    method = "uniform_1d" if jax.default_backend() == "gpu" else "naive"
    return cuequivariance_jax.segmented_polynomial(polynomial, operands, [output], indices, method=method, name=name)[0]


def _library() -> Any:
    wanted = ["cuequivariance_jax", *(["cuequivariance_ops_jax"] if jax.default_backend() == "gpu" else [])]
    missing = [module for module in wanted if importlib.util.find_spec(module) is None]
    require(
        not missing,
        f"backbone mace, kernels: cuequivariance needs {' and '.join(missing)}, which this environment lacks: "
        'pip install "cg-models[cuequivariance]", on GPUs "cg-models[cuequivariance-cuda12]" or "[cuequivariance-cuda13]", '
        "or set kernels: own",
    )
    import cuequivariance

    return cuequivariance
