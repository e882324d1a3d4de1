"""The pieces of Allegro that know about tensors: which irreps each layer carries, and their products."""

import dataclasses

import e3nn_jax as e3nn
import jax.numpy as jnp

from cg_data.contracts import Array
from cg_models.edges import Edges
from cg_models.equivariant import Irreps, blocks, coupling_tensor, harmonic_irreps

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

    weights [..., l_max + 1, c]; harmonics [..., (l_max + 1)^2].
    """
    weights = weights * jnp.asarray(scale, weights.dtype)
    parts = []
    for degree in range(l_max + 1):
        block = harmonics[..., degree**2 : (degree + 1) ** 2]
        if edges.is_dense:
            parts.append(jnp.einsum("bkc,bkm->bcm", weights[..., degree, :], block))
        else:
            parts.append(edges.sum(weights[..., degree, :, None] * block[..., None, :]))
    return jnp.concatenate(parts, -1)


def product(features: Array, environments: Array, path_weights: Array, layer: Layer, harmonics: Irreps, edges: Edges) -> Array:
    """Return the weighted tensor product of edge features with the environment of their receiver.

    features [..., c, dim(inputs)], environments [n_beads, c, dim(harmonics)], path_weights [n_paths, c]. Returns
    [..., c, dim(outputs)]. The environment is contracted with the coupling coefficients once per bead, which leaves one small
    matrix per bead and channel for all of its edges.
    """
    coefficients = jnp.asarray(coupling_tensor(layer.inputs, harmonics, layer.outputs), features.dtype)
    per_channel = jnp.einsum("pc,pijk->cjik", path_weights, coefficients)
    matrices = jnp.einsum("bcj,cjik->bcik", environments, per_channel)
    if edges.is_dense:
        return jnp.einsum("bnci,bcik->bnck", features, matrices)
    return jnp.einsum("eci,ecik->eck", features, matrices[edges.receivers])


def mix_channels(features: Array, weights: Array, irreps: Irreps) -> Array:
    """Return features with the channels of each irrep mixed, [..., c, dim] and [n_irreps, c, c] -> [..., c, dim]."""
    mixed = [jnp.einsum("...cm,cd->...dm", features[..., block], weights[n]) for n, block in enumerate(blocks(irreps))]
    return jnp.concatenate(mixed, -1)


def n_paths(layer: Layer, harmonics: Irreps) -> int:
    """Return how many products of one input and one harmonic reach an output."""
    return coupling_tensor(layer.inputs, harmonics, layer.outputs).shape[0]
