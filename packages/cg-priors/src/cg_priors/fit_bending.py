"""Angles with few parameters: a quartic well, and restricted bending."""

import numpy as np

from cg_data.units import thermal_energy
from cg_priors.boltzmann import jacobian, log_likelihood
from cg_priors.forms import restricted
from cg_priors.linear import Confinement, LinearBasis, Row, walls

MIDDLE = 1.9
"""Radian; where the powers are centred during the fit."""
SPREAD = 0.5
"""Radian; the unit of the powers during the fit, which makes the coefficients alike in size."""
LEAST_QUARTIC = 0.1


def quartic_basis() -> LinearBasis:
    """Return a polynomial of degree four, written about its minimum as k2 d^2 + k3 d^3 + k4 d^4, k4 > 0."""
    powers = np.arange(1, 5)

    def slopes(x: np.ndarray) -> np.ndarray:
        return powers * ((x[..., None] - MIDDLE) / SPREAD) ** (powers - 1) / SPREAD

    def demands(low: float, high: float) -> Confinement:
        outer = walls("angle", slopes, low, high, 0.0, np.pi)
        return Confinement(np.vstack([outer.rows, [[0, 0, 0, 1.0]]]), np.append(outer.least, LEAST_QUARTIC))

    def arrays(c: np.ndarray) -> Row:
        polynomial = np.polynomial.Polynomial(np.append(0.0, c))
        roots = polynomial.deriv().roots()
        real = roots[np.abs(roots.imag) < 1e-9].real
        lowest = float(real[np.argmin(polynomial(real))])
        about = [polynomial.deriv(n)(lowest) / factorial / SPREAD**n for n, factorial in ((2, 2.0), (3, 6.0), (4, 24.0))]
        return {
            "angle": np.asarray(MIDDLE + SPREAD * lowest),
            **dict(zip(("quadratic", "cubic", "quartic"), map(np.asarray, about), strict=True)),
        }

    return LinearBasis(
        values=lambda x: ((x[..., None] - MIDDLE) / SPREAD) ** powers,
        slopes=slopes,
        arrays=arrays,
        demands=demands,
    )


def fit_restricted(counts: np.ndarray, centres: np.ndarray, temperature_kelvin: float) -> Row:
    """Return k and theta0 of 1/2 k (cos theta - cos theta0)^2 / sin^2 theta by maximum likelihood.

    counts, centres [n_bins], radian.
    """
    from scipy.optimize import minimize

    mean = float(counts @ centres / counts.sum())
    variance = float(counts @ (centres - mean) ** 2 / counts.sum())
    weights = jacobian("angle", centres)

    def loss(logarithm_and_angle: np.ndarray) -> float:
        p = {"force_constant": np.exp(logarithm_and_angle[0]), "angle": logarithm_and_angle[1]}
        return -log_likelihood(restricted(centres, p, {}), counts, weights, temperature_kelvin) / counts.sum()

    start = np.array([np.log(thermal_energy(temperature_kelvin) / variance), mean])
    best = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-13, "maxiter": 2000}).x
    return {"force_constant": np.asarray(np.exp(best[0])), "angle": np.asarray(best[1])}
