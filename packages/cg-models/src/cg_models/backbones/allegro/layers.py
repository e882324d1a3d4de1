"""The pieces of Allegro that know about tensors: which irreps each layer carries, and their products.

Tensors are [channels, n_rows, components, width]: so all products are matrix products of arrays as they lie in memory.
"""

import dataclasses

import e3nn_jax as e3nn
import jax.numpy as jnp

from cg_data.contracts import Array
from cg_models.edges import Edges
from cg_models.equivariant import Irreps, blocks, coupling_tensor, harmonic_irreps
from cg_models.products import product_nn, product_tn

SCALAR = e3nn.Irrep(0, 1)


@dataclasses.dataclass(frozen=True)
class Layer:
    """Irreps of one tensor-product layer: features in, features out; the scalar comes first among those out."""

    inputs: Irreps
    outputs: Irreps


def plan_layers(l_max: int, n_layers: int, parity: bool) -> list[Layer]:
    """Return the irreps that each layer carries: all up to l_max that can still reach a scalar of the last layer."""
    harmonics = harmonic_irreps(l_max, parity)
    reachable = [harmonics]
    for _ in range(n_layers - 1):
        products = {c for a in reachable[-1] for b in harmonics for c in a * b if c.l <= l_max}
        reachable.append(tuple(sorted(products, key=lambda irrep: (irrep.l, -irrep.p))))
    outputs: Irreps = (SCALAR,)
    layers: list[Layer] = []
    for candidates in reversed(reachable):
        inputs = tuple(a for a in candidates if any(c in a * b for b in harmonics for c in outputs))
        layers.append(Layer(inputs, outputs))
        outputs = inputs
    return layers[::-1]


def environment(weights: Array, harmonics: Array, edges: Edges, l_max: int, scale: float) -> Array:
    """Return each bead's embedded environment, scale * sum_k w_k Y(r_k), [n_beads, c, (l_max + 1)^2].

    weights [n_rows, width, (l_max + 1) * c]; harmonics [n_rows, width, (l_max + 1)^2].
    """
    weights = weights * jnp.asarray(scale, weights.dtype)
    degrees = [harmonics[..., degree**2 : (degree + 1) ** 2] for degree in range(l_max + 1)]
    parts = [product_tn(w, block) for w, block in zip(jnp.split(weights, l_max + 1, -1), degrees, strict=True)]
    return edges.sum_rows(jnp.concatenate(parts, -1))


def tensor(weights: Array, harmonics: Array, l_max: int) -> Array:
    """Return w_cl Y_lm with channels first and edges of a row last, [c, n_rows, (l_max + 1)^2, width].

    weights [n_rows, width, (l_max + 1) * c]; harmonics [n_rows, width, (l_max + 1)^2].
    """
    components = jnp.swapaxes(harmonics, 1, 2)
    per_degree = [jnp.transpose(part, (2, 0, 1))[:, :, None] for part in jnp.split(weights, l_max + 1, -1)]
    return jnp.concatenate([part * components[:, n**2 : (n + 1) ** 2] for n, part in enumerate(per_degree)], 2)


def product(features: Array, environments: Array, path_weights: Array, layer: Layer, harmonics: Irreps, edges: Edges) -> Array:
    """Return the weighted tensor product of edge features with the environment of their receiver.

    features [c, n_rows, dim(inputs), width], environments [n_beads, c, dim(harmonics)], path_weights [n_paths, c]. Returns
    [c, n_rows, dim(outputs), width]. The environment is contracted with the coupling coefficients once per bead, which leaves one
    small matrix per bead and channel for all of its edges.
    """
    coefficients = jnp.asarray(coupling_tensor(layer.inputs, harmonics, layer.outputs), features.dtype)
    per_channel = jnp.einsum("pc,pijk->cjki", path_weights, coefficients)
    channels, surrounding, n_out, n_in = per_channel.shape
    matrices = product_nn(jnp.moveaxis(environments, 1, 0), per_channel.reshape(channels, surrounding, n_out * n_in))
    matrices = edges.of_rows(matrices, axis=1)
    n_rows, width = features.shape[1], features.shape[3]
    result = product_nn(matrices.reshape(-1, n_out, n_in), features.reshape(-1, n_in, width))
    return result.reshape(channels, n_rows, n_out, width)


def mix_channels(features: Array, weights: Array, irreps: Irreps) -> Array:
    """Return features with the channels of each irrep mixed, [c, n_rows, dim, width] and [n_irreps, c, c] -> [c, n_rows, dim, width]."""
    channels, n_rows, _, width = features.shape
    mixed = []
    for n, block in enumerate(blocks(irreps)):
        part = weights[n].T @ features[:, :, block].reshape(channels, -1)
        mixed.append(part.reshape(channels, n_rows, block.stop - block.start, width))
    return jnp.concatenate(mixed, 2)


def n_paths(layer: Layer, harmonics: Irreps) -> int:
    """Return how many products of one input and one harmonic reach an output."""
    return coupling_tensor(layer.inputs, harmonics, layer.outputs).shape[0]
