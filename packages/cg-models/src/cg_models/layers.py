"""Layers that every backbone uses, as plain functions of arrays and of a source of parameters."""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array

SILU_GAIN = 1.6791767
"""1/sqrt of the mean of silu(x)^2 over a standard normal x: keeps the variance of activations at one."""


class Parameter(Protocol):
    """A source of parameters: haiku's when a model runs, a dictionary where a test reads them by name."""

    def __call__(self, name: str, shape: tuple[int, ...], scale: float = 1.0, constant: float | None = None) -> Array:
        """Return the parameter; it starts normal with standard deviation `scale`, or, if given, at `constant`."""
        ...


def linear(parameter: Parameter, name: str, x: Array, width: int) -> Array:
    """Return x W / sqrt(fan_in) without bias, [..., f] -> [..., width]; W starts standard normal."""
    fan_in = x.shape[-1]
    weights = parameter(name, (fan_in, width))
    return x @ (weights * jnp.asarray(1 / np.sqrt(fan_in), x.dtype))


def silu(x: Array) -> Array:
    """Return x sigmoid(x), scaled to unit variance for a standard normal x."""
    return jax.nn.silu(x) * jnp.asarray(SILU_GAIN, x.dtype)


def mlp(parameter: Parameter, name: str, x: Array, hidden: int, n_hidden_layers: int, width: int) -> Array:
    """Return a bias-free MLP with silu between its layers, so zero in gives zero out, [..., f] -> [..., width]."""
    for layer in range(n_hidden_layers):
        x = silu(linear(parameter, f"{name}_{layer}", x, hidden))
    return linear(parameter, f"{name}_{n_hidden_layers}", x, width)
