"""Forms that are linear in their coefficients: U(x) = sum_m c_m B_m(x). One description serves every fit of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Row = dict[str, np.ndarray]
"""Parameters of one row of a term: name -> array without the row axis."""


@dataclass(frozen=True, eq=False)
class LinearBasis:
    """Basis functions of one form.

    values, slopes  [n] -> [n, m]: the functions and their derivatives
    arrays          [m] coefficients -> the form's parameters
    demands         (low, high of the sampled range) -> `Confinement`: what keeps the potential confining
    settings        the form's fixed numbers
    roughness       [k, m] or None: rows whose squared product with the coefficients is kept small where data are silent
    """

    values: Callable[[np.ndarray], np.ndarray]
    slopes: Callable[[np.ndarray], np.ndarray]
    arrays: Callable[[np.ndarray], Row]
    demands: "Callable[[float, float], Confinement]"
    settings: Mapping[str, float] = field(default_factory=dict)
    roughness: np.ndarray | None = None


@dataclass(frozen=True)
class Confinement:
    """Inequalities `rows @ coefficients >= least`, mostly outward slopes beyond the sampled range; rows [n, m], least [n]."""

    rows: np.ndarray
    least: np.ndarray

    def shortfall(self, coefficients: np.ndarray) -> np.ndarray:
        """Return how much each inequality falls short, 0 where it holds, [n]."""
        return np.maximum(0, self.least - self.rows @ coefficients)


def unconfined(m: int) -> Confinement:
    """Return the empty confinement of a coordinate that has no outside."""
    return Confinement(np.zeros((0, m)), np.zeros(0))


LEAST_WALL_SLOPE = 1.0
WALL_GROWTH = {"bond": 200.0, "angle": 60.0}
LARGEST_WALL_SLOPE = {"bond": 60.0, "angle": 15.0}


def least_slope(term: str, away: np.ndarray) -> np.ndarray:
    """Return the smallest outward slope allowed at a distance from the sampled range, kcal/mol per unit.

    It grows as the square of the distance, so that it asks little where data are merely thin, and levels off.
    """
    return np.minimum(LEAST_WALL_SLOPE + WALL_GROWTH[term] * away**2, LARGEST_WALL_SLOPE[term])


def walls(term: str, slopes: Callable[[np.ndarray], np.ndarray], low: float, high: float, lowest: float, highest: float) -> Confinement:
    """Return the demand that a potential rises from the ends of [low, high] outward to `lowest` and `highest`."""
    spacing = (highest - lowest) / 360
    # Both ends belong to the grid: with the last point left out, slopes could turn between it and the end.
    below = np.linspace(low, lowest, 2 + int((low - lowest) / spacing)) if low > lowest else np.zeros(0)
    above = np.linspace(high, highest, 2 + int((highest - high) / spacing)) if high < highest else np.zeros(0)
    direction = np.concatenate([-np.ones(len(below)), np.ones(len(above))])
    away = np.concatenate([low - below, above - high])
    return Confinement(direction[:, None] * slopes(np.concatenate([below, above])), least_slope(term, away))
