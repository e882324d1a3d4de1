"""The two blocks of PaiNN. Scalars are [n_beads, f], vectors [n_beads, 3, f]."""

import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_models.edges import Edges
from cg_models.layers import Parameter, Setting, linear, silu

SMALLEST_NORM = 1e-8
"""Added to squared norms, so that their root is smooth at zero."""


def affine(parameter: Parameter, name: str, x: Array, width: int) -> Array:
    """Return x W / sqrt(fan_in) + b, [..., f] -> [..., width]; b starts at zero."""
    return linear(parameter, name, x, width) + parameter(f"{name}_bias", (width,), constant=0.0)


def message(
    parameter: Parameter, layer: int, scalars: Array, vectors: Array, radial: Array, edges: Edges, setting: Setting
) -> tuple[Array, Array]:
    """Return the residuals of scalars and vectors from the neighbours (eqs. 7 and 8).

    radial [..., n] is the basis without the envelope, which multiplies the filters.
    """
    width = scalars.shape[-1]
    context = affine(parameter, f"message_{layer}_1", silu(affine(parameter, f"message_{layer}_0", scalars, width)), 3 * width)
    filters = affine(parameter, f"filter_{layer}", radial, 3 * width) * edges.envelope[..., None]
    for_scalars, for_vectors, for_directions = jnp.split(edges.of_senders(context) * filters, 3, -1)
    passed = for_vectors[..., None, :] * edges.of_senders(vectors) + for_directions[..., None, :] * edges.directions[..., None]
    norm = jnp.asarray(1 / np.sqrt(setting.avg_num_neighbors), scalars.dtype)
    return edges.sum(for_scalars) * norm, edges.sum(passed) * norm


def update(parameter: Parameter, layer: int, scalars: Array, vectors: Array) -> tuple[Array, Array]:
    """Return the residuals of scalars and vectors within each bead (eqs. 9 and 10)."""
    width = scalars.shape[-1]
    first, second = linear(parameter, f"update_u_{layer}", vectors, width), linear(parameter, f"update_v_{layer}", vectors, width)
    norms = jnp.sqrt((second * second).sum(1) + jnp.asarray(SMALLEST_NORM, second.dtype))
    context = silu(affine(parameter, f"update_{layer}_0", jnp.concatenate([scalars, norms], -1), width))
    alone, along, gates = jnp.split(affine(parameter, f"update_{layer}_1", context, 3 * width), 3, -1)
    return alone + along * (first * second).sum(1), gates[:, None, :] * first
