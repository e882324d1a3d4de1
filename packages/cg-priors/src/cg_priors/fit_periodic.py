"""Dihedrals: a cosine series by maximum likelihood."""

import numpy as np

from cg_priors.boltzmann import maximum_likelihood
from cg_priors.fit_fourier import fourier_basis


def fit_periodic(counts: np.ndarray, centres: np.ndarray, temperature_kelvin: float, order: int) -> dict[str, np.ndarray]:
    """Return k_n >= 0 and gamma_n of U = sum_n k_n (1 + cos(n phi - gamma_n)), kcal/mol and radian, [order] each.

    counts, centres [n_bins], radian.
    """
    c = maximum_likelihood(fourier_basis(centres, order), counts, np.ones(len(centres)), temperature_kelvin)
    return {"force_constants": np.hypot(c[:order], c[order:]), "phases": np.arctan2(c[order:], c[:order])}
