"""How far two distributions of one coordinate are apart."""

import numpy as np

from cg_data.contracts import Array
from cg_data.errors import require
from cg_data.units import thermal_energy

COARSE_BINS = {"bond": 200, "angle": 90, "dihedral": 90, "repulsion": 80, "excluded_volume": 80}
"""Bins over the whole range of each coordinate (`histogram.RANGES`) in which divergences are taken: 0.02 angstrom for bonds, 2
degrees for angles, 4 for dihedrals, 0.125 angstrom for pairs."""


def coarse(term: str, counts: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return counts summed to the term's `COARSE_BINS`, and their centres; [n_bins] -> [n_coarse]."""
    bins = COARSE_BINS[term]
    return counts.reshape(bins, -1).sum(1), x.reshape(bins, -1).mean(1)


def js_divergence(p: Array, q: Array) -> float:
    """Return the Jensen-Shannon divergence 1/2 KL(p|m) + 1/2 KL(q|m), m = (p + q)/2, natural logarithm, in [0, ln 2].

    p, q: counts or probabilities over the same bins, of any shape; each is normalised here. Raises `UserError` for an empty one.
    """
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    require(bool(p.sum() > 0 and q.sum() > 0), "histogram: no values; expected at least one frame")
    p, q = p / p.sum(), q / q.sum()
    middle = 0.5 * (p + q)

    def relative(part: np.ndarray) -> float:
        # Half of the smallest number is zero.
        some = (part > 0) & (middle > 0)
        return float((part[some] * np.log(part[some] / middle[some])).sum())

    return max(0.0, 0.5 * relative(p) + 0.5 * relative(q))


def boltzmann_probabilities(energy: np.ndarray, weights: np.ndarray, temperature_kelvin: float) -> np.ndarray:
    """Return the probability of each bin under an energy, kcal/mol, and a Jacobian; sums to 1."""
    exponents = -energy / thermal_energy(temperature_kelvin) + np.log(np.maximum(weights, 1e-300))
    p = np.exp(exponents - exponents.max())
    return p / p.sum()
