"""Bonds: harmonic, by maximum likelihood with the r^2 Jacobian."""

import numpy as np

from cg_priors.boltzmann import jacobian, maximum_likelihood


def fit_harmonic(counts: np.ndarray, centres: np.ndarray, temperature_kelvin: float) -> dict[str, np.ndarray]:
    """Return k and r0 of p(r) ~ r^2 exp(-k (r - r0)^2 / 2 kB T), kcal/mol/angstrom^2 and angstrom.

    counts, centres [n_bins], angstrom.
    """
    middle = counts @ centres / counts.sum()
    d = centres - middle
    linear, quadratic = maximum_likelihood(np.stack([d, d**2], 1), counts, jacobian("bond", centres), temperature_kelvin)
    return {"force_constant": np.asarray(2 * quadratic), "length": np.asarray(middle - linear / (2 * quadratic))}
