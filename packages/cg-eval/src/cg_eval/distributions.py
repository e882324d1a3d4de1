"""Comparing one-dimensional distributions: divergence, distance, overlap, and free energies with their Jacobians.

Logarithms are natural, so a Jensen-Shannon divergence lies in [0, ln 2]. It is a distance of histograms: bins and range are
part of the result and belong beside every number. A Jacobian multiplies both densities of a comparison by the same factor and
cancels in all three comparisons; it matters for free energies only.
"""

from dataclasses import dataclass

import numpy as np

from cg_data.contracts import Array
from cg_data.errors import require
from cg_data.units import thermal_energy

LARGEST_DIVERGENCE = float(np.log(2.0))
"""Jensen-Shannon divergence of two distributions without overlap."""


@dataclass(frozen=True)
class Bins:
    """Equal bins over a range. Values outside fall into the end bins, so that nothing is lost."""

    low: float
    high: float
    number: int

    @property
    def edges(self) -> np.ndarray:
        """Return [number + 1] bin edges."""
        return np.linspace(self.low, self.high, self.number + 1)

    @property
    def centres(self) -> np.ndarray:
        """Return [number] bin centres."""
        edges = self.edges
        return 0.5 * (edges[1:] + edges[:-1])

    def place(self, values: Array) -> np.ndarray:
        """Return the bin, 0 to number - 1, of each finite value."""
        values = np.asarray(values, np.float64)
        require(bool(np.isfinite(values).all()), "histogram: values must be finite; drop the frames that are not")
        inside = np.floor((values - self.low) / (self.high - self.low) * self.number).astype(np.int64)
        return np.clip(inside, 0, self.number - 1)

    def counts(self, values: Array) -> np.ndarray:
        """Return [number] int64 counts of finite values."""
        return np.bincount(self.place(values).ravel(), minlength=self.number)

    def outside(self, values: Array) -> float:
        """Return the fraction of values outside the range."""
        values = np.asarray(values, np.float64)
        return float(((values < self.low) | (values > self.high)).mean()) if values.size else 0.0

    def __str__(self) -> str:
        return f"{self.number} bins in [{self.low:.4g}, {self.high:.4g}]"


def probabilities(counts: Array) -> np.ndarray:
    """Return counts divided by their total."""
    counts = np.asarray(counts, np.float64)
    total = counts.sum()
    require(bool(total > 0), "histogram: no values; expected at least one frame")
    return counts / total


def overlap(p: Array, q: Array) -> float:
    """Return sum over bins of min(p, q): 1 for equal distributions, 0 for disjoint ones."""
    return float(np.minimum(probabilities(p), probabilities(q)).sum())


def wasserstein(first: Array, second: Array, period: float | None = None) -> float:
    """Return the Wasserstein-1 distance of two samples, in their unit; around a circle where `period` is given.

    On a line it is the integral of |F - G|. On a circle it is the smallest integral of |F - G - c| over constants c, which is
    reached at the median (Rabin, Delon and Gousseau, J. Math. Imaging Vis. 41, 147 (2011)).
    """
    samples = [np.sort(np.asarray(values, np.float64).ravel()) for values in (first, second)]
    require(all(len(values) > 0 for values in samples), "Wasserstein distance: no values; expected at least one on each side")
    if period is not None:
        samples = [np.sort(np.mod(values, period)) for values in samples]
    points = np.sort(np.concatenate(samples))
    if period is not None:
        points = np.concatenate([[0.0], points, [period]])
    widths = np.diff(points)
    first_below, second_below = (np.searchsorted(values, points[:-1], side="right") / len(values) for values in samples)
    difference = first_below - second_below
    if period is not None:
        difference = difference - _weighted_median(difference, widths)
    return float(np.sum(np.abs(difference) * widths))


def wasserstein_of_counts(p: Array, q: Array, bins: Bins, periodic: bool = False) -> np.ndarray:
    """Return the Wasserstein-1 distances of histograms p [..., n_bins] and q [n_bins], to within the width of a bin, in its unit."""
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    difference = np.cumsum(p / p.sum(axis=-1, keepdims=True) - q / q.sum(), axis=-1)
    if periodic:
        difference = difference - np.median(difference, axis=-1, keepdims=True)
    return np.asarray(np.abs(difference).sum(axis=-1) * (bins.high - bins.low) / bins.number)


def free_energy(counts: Array, bins: Bins, temperature_kelvin: float, feature: str = "other") -> np.ndarray:
    """Return [n_bins] F(x) = -kB T ln(p(x) / J(x)) in kcal/mol, its minimum at 0, NaN in empty bins.

    J is the Jacobian of the feature: r^2 for "bond", sin(theta) for "angle", 1 for anything else (dihedrals, Rg, ...).
    """
    x = bins.centres
    jacobian = {"bond": x**2, "angle": np.sin(x)}.get(feature, np.ones_like(x))
    density = probabilities(counts) / jacobian
    energy = np.full(density.shape, np.nan)
    filled = density > 0
    energy[filled] = -thermal_energy(temperature_kelvin) * np.log(density[filled])
    return energy - np.nanmin(energy)


def free_energy_surface(x: Array, y: Array, x_bins: Bins, y_bins: Bins, temperature_kelvin: float) -> np.ndarray:
    """Return [x_bins, y_bins] F = -kB T ln p in kcal/mol of two collective variables, minimum 0, NaN in empty bins."""
    counts, _, _ = np.histogram2d(
        np.clip(np.asarray(x, np.float64), x_bins.low, x_bins.high),
        np.clip(np.asarray(y, np.float64), y_bins.low, y_bins.high),
        bins=(x_bins.edges, y_bins.edges),
    )
    flat = Bins(0.0, float(counts.size), int(counts.size))
    return free_energy(counts.ravel(), flat, temperature_kelvin).reshape(counts.shape)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, 0.5 * below[-1])])
