"""Layers that every backbone uses, as plain functions of arrays and of a source of parameters."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_models.edges import Edges
from cg_models.radial import scaled_bessel_basis

SILU_GAIN = 1.6791767
"""1/sqrt of the mean of silu(x)^2 over a standard normal x: keeps the variance of activations at one."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a network must know beside its own options: number of species, cutoff in angstrom, mean number of neighbours."""

    n_species: int
    cutoff_angstrom: float
    avg_num_neighbors: float


class Parameter(Protocol):
    """A source of parameters: haiku's when a model runs, a dictionary where a test reads them by name."""

    def __call__(self, name: str, shape: tuple[int, ...], scale: float = 1.0, constant: float | None = None) -> Array:
        """Return the parameter; it starts normal with standard deviation `scale`, or, if given, at `constant`."""
        ...


def weigh(x: Array, weights: Array) -> Array:
    """Return x @ weights, [..., f] and [f, g] -> [..., g], as a product of two matrices.

    With more axes, the gradient by the weights would contract several at once, for which XLA transposes whole arrays on CPU.
    """
    return (x.reshape(-1, x.shape[-1]) @ weights).reshape(*x.shape[:-1], weights.shape[-1])


def linear(parameter: Parameter, name: str, x: Array, width: int, fresh: float = 1.0) -> Array:
    """Return x W / sqrt(fan_in) without bias, [..., f] -> [..., width]; W starts normal, with standard deviation `fresh`."""
    fan_in = x.shape[-1]
    weights = parameter(name, (fan_in, width), fresh)
    return weigh(x, weights * jnp.asarray(1 / np.sqrt(fan_in), x.dtype))


def silu(x: Array) -> Array:
    """Return x sigmoid(x), scaled to unit variance for a standard normal x."""
    return jax.nn.silu(x) * jnp.asarray(SILU_GAIN, x.dtype)


def mlp(parameter: Parameter, name: str, x: Array, hidden: int, n_hidden_layers: int, width: int) -> Array:
    """Return a bias-free MLP with silu between its layers, so zero in gives zero out, [..., f] -> [..., width]."""
    for layer in range(n_hidden_layers):
        x = silu(linear(parameter, f"{name}_{layer}", x, hidden))
    return linear(parameter, f"{name}_{n_hidden_layers}", x, width)


def two_body(
    parameter: Parameter, edges: Edges, species: Array, setting: Setting, num_radial: int, hidden: int, n_hidden_layers: int
) -> Array:
    """Return features of edges from their length and their two species, [..., hidden]; without the envelope.

    Species enter the first layer through one-hot products, whose gradient needs no scatter.
    """
    one_hot = jax.nn.one_hot(species, setting.n_species, dtype=edges.lengths.dtype)
    receiver = edges.of_receivers(one_hot @ parameter("species_receiver", (setting.n_species, hidden)))
    sender = weigh(edges.of_senders(one_hot), parameter("species_sender", (setting.n_species, hidden)))
    radial = scaled_bessel_basis(edges.lengths, num_radial, setting.cutoff_angstrom)
    x = (receiver + sender + linear(parameter, "radial", radial, hidden)) * jnp.asarray(1 / np.sqrt(3), one_hot.dtype)
    return mlp(parameter, "two_body", silu(x), hidden, n_hidden_layers - 1, hidden)
