"""Angles: a Fourier series that confines outside the sampled range."""

import numpy as np

from cg_priors.linear import LinearBasis, walls


def series(x: np.ndarray, order: int) -> np.ndarray:
    """Return cos(n x) and sin(n x), n = 1..order, [n_points] -> [n_points, 2 order]."""
    n = np.arange(1, order + 1)
    return np.concatenate([np.cos(x[..., None] * n), np.sin(x[..., None] * n)], -1)


def series_slopes(x: np.ndarray, order: int) -> np.ndarray:
    """Return the derivative of `series`."""
    n = np.arange(1, order + 1)
    return np.concatenate([-n * np.sin(x[..., None] * n), n * np.cos(x[..., None] * n)], -1)


def fourier_basis(order: int) -> LinearBasis:
    """Return sum_n a_n cos(n theta) + b_n sin(n theta) for n = 1..order, rising toward 0 and pi outside the sampled range.

    Without that demand a series fitted where data are would oscillate at will where they are not.
    """

    def slopes(x: np.ndarray) -> np.ndarray:
        return series_slopes(x, order)

    return LinearBasis(
        values=lambda x: series(x, order),
        slopes=slopes,
        arrays=lambda c: {"cosine": c[:order], "sine": c[order:]},
        demands=lambda low, high: walls("angle", slopes, low, high, 0.0, np.pi),
    )
