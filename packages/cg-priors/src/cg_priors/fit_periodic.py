"""Dihedrals: a cosine series, or periodic Gaussians."""

import numpy as np

from cg_data.units import thermal_energy
from cg_priors.fit_fourier import series, series_slopes
from cg_priors.linear import LinearBasis, Row, unconfined


def periodic_basis(order: int) -> LinearBasis:
    """Return sum_n k_n (1 + cos(n phi - gamma_n)), k_n >= 0, as its cosine and sine parts (the constant does not matter)."""
    return LinearBasis(
        values=lambda x: series(x, order),
        slopes=lambda x: series_slopes(x, order),
        arrays=lambda c: {"force_constants": np.hypot(c[:order], c[order:]), "phases": np.arctan2(c[order:], c[:order])},
        demands=lambda low, high: unconfined(2 * order),
    )


SMALLEST_WIDTH = 0.1
LARGEST_CONCENTRATION = 1 / SMALLEST_WIDTH**2


def fit_gaussians(counts: np.ndarray, centres: np.ndarray, temperature_kelvin: float, order: int, iterations: int = 200) -> Row:
    """Return `order` periodic Gaussians by expectation-maximisation: a mixture of von Mises densities.

    counts, centres [n_bins], radian. A broad component stands among the starts, so that no dihedral has zero weight. The
    components are ordered by centre. Source: Banerjee et al., JMLR 6 (2005) 1345, in two dimensions.
    """
    from scipy.special import i0e, i1e

    peaks = _peaks(counts, centres, max(1, order - 1))
    mean = np.resize(peaks, order)
    mean[len(peaks) :] += np.pi * np.arange(1, order - len(peaks) + 1) / order
    concentration = np.full(order, 10.0)
    concentration[-1] = 0.5 if order > 1 else 1.0
    share = np.full(order, 1 / order)
    total = counts.sum()
    unit = np.exp(1j * centres)
    for _ in range(iterations):
        log_density = np.log(share) + concentration * (np.cos(centres[:, None] - mean) - 1) - np.log(2 * np.pi * i0e(concentration))
        responsibility = np.exp(log_density - log_density.max(1, keepdims=True))
        responsibility *= (counts / responsibility.sum(1))[:, None]
        mass = np.maximum(responsibility.sum(0), 1e-9 * total)
        resultant = unit @ responsibility / mass
        change = np.abs(mass / total - share).max()
        share, mean = mass / total, np.angle(resultant)
        concentration = _concentration(np.abs(resultant), concentration, i0e, i1e)
        if change < 1e-6:
            break
    order_by = np.argsort(mean)
    weight = share / (2 * np.pi * i0e(concentration))
    return {
        "log_weights": np.log(weight / weight.max())[order_by],
        "centres": mean[order_by],
        "widths": (1 / np.sqrt(concentration))[order_by],
    }


def _concentration(length: np.ndarray, start: np.ndarray, i0e, i1e) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Solve I1(k)/I0(k) = length by Newton's method, within the widths allowed."""
    length = np.clip(length, 1e-3, 1 - 1e-6)
    k = length * (2 - length**2) / (1 - length**2)
    for _ in range(5):
        ratio = i1e(k) / i0e(k)
        k = np.maximum(k - (ratio - length) / (1 - ratio**2 - ratio / np.maximum(k, 1e-6)), 1e-3)
    return np.clip(k, 0.05, LARGEST_CONCENTRATION)


def _peaks(counts: np.ndarray, centres: np.ndarray, most: int) -> np.ndarray:
    """Return the centres of the highest peaks of a smoothed circular histogram, at most `most`, at least one."""
    from scipy.ndimage import gaussian_filter1d

    smooth = gaussian_filter1d(counts.astype(float), len(counts) / 40, mode="wrap")
    peak = (smooth > np.roll(smooth, 1)) & (smooth >= np.roll(smooth, -1))
    found = np.flatnonzero(peak)
    if not len(found):
        found = np.array([int(smooth.argmax())])
    return centres[found[np.argsort(-smooth[found])][:most]]


def thermal_setting(temperature_kelvin: float) -> dict[str, float]:
    """Return the setting of forms that are logarithms of populations."""
    return {"thermal_energy": thermal_energy(temperature_kelvin)}
