"""Angles: Fourier series by maximum likelihood with the sin(theta) Jacobian, confining outside the sampled range."""

import numpy as np

from cg_priors.boltzmann import Confinement, jacobian, maximum_likelihood, wall_points
from cg_priors.histogram import sampled_range

WALL_SPACING = np.pi / 360


def fourier_basis(x: np.ndarray, order: int) -> np.ndarray:
    """Return cos(n x) and sin(n x), n = 1..order, [n_points, 2 order]."""
    n = np.arange(1, order + 1)
    return np.concatenate([np.cos(x[:, None] * n), np.sin(x[:, None] * n)], 1)


def fourier_slopes(x: np.ndarray, order: int) -> np.ndarray:
    """Return the derivative of `fourier_basis`."""
    n = np.arange(1, order + 1)
    return np.concatenate([-n * np.sin(x[:, None] * n), n * np.cos(x[:, None] * n)], 1)


def angle_confinement(counts: np.ndarray, centres: np.ndarray, order: int) -> Confinement:
    """Return the demand that the series rises from the ends of the sampled range to 0 and pi."""
    points, direction, least = wall_points(*sampled_range(counts, centres), 0.0, np.pi, WALL_SPACING)
    return Confinement(direction[:, None] * fourier_slopes(points, order), least)


def fit_fourier(counts: np.ndarray, centres: np.ndarray, temperature_kelvin: float, order: int) -> dict[str, np.ndarray]:
    """Return a_n, b_n of U = sum_n a_n cos(n theta) + b_n sin(n theta), kcal/mol, [order] each.

    counts, centres [n_bins], radian.
    """
    confinement = angle_confinement(counts, centres, order)
    c = maximum_likelihood(fourier_basis(centres, order), counts, jacobian("angle", centres), temperature_kelvin, confinement)
    return {"cosine": c[:order], "sine": c[order:]}
