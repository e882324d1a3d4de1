"""Functions of a distance: the cutoff envelope and the radial basis."""

import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array


def polynomial_envelope(x: Array, p: int) -> Array:
    """Return 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) for x = r/cutoff in [0, 1]; 0 beyond.

    Value, slope and curvature vanish at 1 (Gasteiger et al., doi:10.48550/arXiv.2003.03123, eq. 8). x [...] -> [...].
    """
    inside = jnp.minimum(x, 1)
    power = inside**p
    return 1 + power * (-(p + 1) * (p + 2) / 2 + inside * (p * (p + 2) - inside * (p * (p + 1) / 2)))


def bessel_basis(r: Array, n: int, cutoff: float) -> Array:
    """Return sqrt(2/cutoff) sin(k pi r/cutoff)/r for k = 1..n, [...] -> [..., n]; r in angstrom, positive.

    Orthonormal on the ball of radius `cutoff` (Gasteiger et al., doi:10.48550/arXiv.2003.03123, eq. 7).
    """
    frequencies = jnp.asarray(np.pi / cutoff * np.arange(1, n + 1), r.dtype)
    return jnp.asarray(np.sqrt(2 / cutoff), r.dtype) * jnp.sin(frequencies * r[..., None]) / r[..., None]


def basis_scale(cutoff: float) -> float:
    """Return cutoff^(3/2) / 4: times this, the Bessel basis has about unit variance where most neighbours are."""
    return cutoff**1.5 / 4


def scaled_bessel_basis(r: Array, n: int, cutoff: float) -> Array:
    """Return the Bessel basis times `basis_scale`, [...] -> [..., n]."""
    return bessel_basis(r, n, cutoff) * jnp.asarray(basis_scale(cutoff), r.dtype)
