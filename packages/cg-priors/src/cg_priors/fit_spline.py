"""Splines of any coordinate: kernel density of the samples, free energy, cubic B-spline with walls."""

import numpy as np

from cg_priors.linear import Confinement, LinearBasis, unconfined, walls

MARGIN_ANGSTROM = 0.5
"""How far the knots of a bond's spline go beyond the sampled range; outside them it is a parabola."""
LEAST_END_CURVATURE = {"bond": 20.0, "angle": 5.0}
"""Smallest second derivative at the ends, kcal/mol per squared unit: the parabola beyond must open upward."""


def spline_basis(term: str, low: float, high: float, intervals: int) -> LinearBasis:
    """Return uniform cubic B-splines with `intervals` intervals; low, high: the sampled range (ignored for dihedrals)."""
    periodic = term == "dihedral"
    if periodic:
        first, last = -np.pi, np.pi
    elif term == "angle":
        first, last = 0.0, np.pi
    else:
        first, last = low - MARGIN_ANGSTROM, high + MARGIN_ANGSTROM
    n = intervals if periodic else intervals + 3
    width = (last - first) / intervals

    def weights(x: np.ndarray, derivative: int) -> np.ndarray:
        position = (np.asarray(x) - first) / width
        left = np.floor(position).astype(int)
        left = left if periodic else np.clip(left, 0, intervals - 1)
        t = position - left
        if derivative == 0:
            pieces = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
        elif derivative == 1:
            pieces = [-((1 - t) ** 2) / 2, (3 * t**2 - 4 * t) / 2, (-3 * t**2 + 2 * t + 1) / 2, t**2 / 2]
        else:
            pieces = [1 - t, 3 * t - 2, 1 - 3 * t, t]
        rows = np.zeros((*t.shape, n))
        for offset, piece in enumerate(pieces):
            np.put_along_axis(rows, ((left + offset) % n)[..., None], (piece / width**derivative)[..., None], -1)
        return rows

    def demands(sampled_low: float, sampled_high: float) -> Confinement:
        if periodic:
            return unconfined(n)
        outer = walls(term, lambda x: weights(x, 1), sampled_low, sampled_high, first, last)
        ends = weights(np.array([first, last]), 2)
        least = np.append(outer.least, np.full(2, LEAST_END_CURVATURE[term]))
        return Confinement(np.vstack([outer.rows, ends]), least)

    return LinearBasis(
        values=lambda x: weights(x, 0),
        slopes=lambda x: weights(x, 1),
        arrays=lambda c: {"coefficients": c - c.min()},
        demands=demands,
        settings={"low": float(first), "high": float(last), "periodic": int(periodic)},
        roughness=_second_differences(n, periodic),
    )


def _second_differences(n: int, periodic: bool) -> np.ndarray:
    rows = np.eye(n) - 2 * np.roll(np.eye(n), 1, axis=1) + np.roll(np.eye(n), 2, axis=1)
    return rows if periodic else rows[: n - 2]
