"""Boltzmann inversion: p(x) proportional to J(x) exp(-U(x) / kB T), with the Jacobian J of the coordinate.

Potentials that are linear in their coefficients make p an exponential family, whose likelihood is convex: Newton's method
finds its one maximum. A potential must also push back where there are no data; that is an inequality on its slope there, and
enters as a one-sided penalty, which leaves a potential that confines by itself untouched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cg_data.units import thermal_energy


def jacobian(term: str, x: np.ndarray) -> np.ndarray:
    """Return r^2 for bonds, sin(theta) for angles, 1 for dihedrals: volume per unit of the coordinate."""
    if term == "bond":
        return x**2
    return np.sin(x) if term == "angle" else np.ones_like(x)


@dataclass(frozen=True)
class Confinement:
    """Where and how steeply a potential must rise.

    slopes [n, m]: outward derivative of each basis function at points beyond the sampled range; least [n]: the smallest outward
    slope allowed there, kcal/mol per unit of the coordinate.
    """

    slopes: np.ndarray
    least: np.ndarray

    def shortfall(self, coefficients: np.ndarray) -> np.ndarray:
        """Return how much each slope falls short, 0 where it does not."""
        return np.maximum(0, self.least - self.slopes @ coefficients)


WALL_STIFFNESS = 60.0
"""Growth of the smallest outward slope with the distance from the sampled range, kcal/mol/radian^2."""
LARGEST_WALL_SLOPE = 25.0
"""Cap of the smallest outward slope, kcal/mol/radian."""


def wall_points(low: float, high: float, lowest: float, highest: float, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points outside [low, high] up to the ends of the axis, their outward direction (+-1) and least outward slope."""
    below = np.arange(low, lowest, -spacing)
    above = np.arange(high, highest, spacing)
    points = np.concatenate([below, above])
    direction = np.concatenate([-np.ones(len(below)), np.ones(len(above))])
    away = np.concatenate([low - below, above - high])
    return points, direction, np.minimum(WALL_STIFFNESS * away, LARGEST_WALL_SLOPE)


COEFFICIENT_SCALE = 20.0
"""Prior width of a coefficient, kcal/mol; one observation's worth of evidence at most."""


def maximum_likelihood(
    basis: np.ndarray, counts: np.ndarray, weights: np.ndarray, temperature_kelvin: float, confinement: Confinement | None = None
) -> np.ndarray:
    """Return the coefficients c of U = basis @ c that maximise the likelihood of binned samples, [m] kcal/mol.

    basis [n_bins, m]; counts [n_bins]; weights [n_bins]: the Jacobian at the bins. Where the data leave a coefficient open it is
    kept small by a Gaussian of width `COEFFICIENT_SCALE`: large terms of opposite sign would cost float32 its digits.
    """
    beta = 1 / thermal_energy(temperature_kelvin)
    total = counts.sum()
    shrinkage = 1 / (COEFFICIENT_SCALE**2 * total)
    observed = counts @ basis / total

    def objective(c: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        exponents = -beta * (basis @ c) + np.log(np.maximum(weights, 1e-300))
        shift = exponents.max()
        p = np.exp(exponents - shift)
        norm = p.sum()
        p /= norm
        mean = p @ basis
        value = beta * observed @ c + np.log(norm) + shift + 0.5 * shrinkage * c @ c
        spread = (basis * p[:, None]).T @ basis - np.outer(mean, mean)
        return value, beta * (observed - mean) + shrinkage * c, beta**2 * spread + shrinkage * np.eye(len(c))

    return minimise(objective, np.zeros(basis.shape[1]), confinement)


Objective = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]
PENALTY = 1.0
"""Weight of a squared shortfall of slope against the mean log-likelihood per sample, (kcal/mol/radian)^-2."""


def minimise(objective: Objective, start: np.ndarray, confinement: Confinement | None = None, iterations: int = 200) -> np.ndarray:
    """Return the minimum of a convex function with gradient and Hessian, plus the penalty of a confinement, by damped Newton."""

    def penalised(c: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, gradient, hessian = objective(c)
        if confinement is not None and len(confinement.least):
            short = confinement.shortfall(c)
            active = confinement.slopes[short > 0]
            scale = PENALTY / len(confinement.least)
            value = value + scale * short @ short
            gradient = gradient - 2 * scale * confinement.slopes.T @ short
            hessian = hessian + 2 * scale * active.T @ active
        return value, gradient, hessian

    c = start
    value, gradient, hessian = penalised(c)
    for _ in range(iterations):
        size = np.sqrt(np.maximum(np.diag(hessian), 1e-30))
        scaled = hessian / np.outer(size, size) + 1e-12 * np.eye(len(c))
        step = -np.linalg.lstsq(scaled, gradient / size, rcond=1e-14)[0] / size
        decrease = -gradient @ step
        if decrease < 1e-13:
            break
        length = 1.0
        while length > 1e-8:
            trial = penalised(c + length * step)
            if trial[0] <= value - 1e-4 * length * decrease:
                break
            length *= 0.5
        else:
            break
        c = c + length * step
        value, gradient, hessian = trial
    return c


def log_likelihood(energy: np.ndarray, counts: np.ndarray, weights: np.ndarray, temperature_kelvin: float) -> float:
    """Return the sum over samples of ln p(bin) under U [n_bins] kcal/mol."""
    exponents = -energy / thermal_energy(temperature_kelvin) + np.log(np.maximum(weights, 1e-300))
    exponents = exponents - exponents.max()
    return float(counts @ (exponents - np.log(np.exp(exponents).sum())))


def choose_order(
    term: str,
    formula: Callable[..., np.ndarray],
    fit_form: Callable[..., dict[str, np.ndarray]],
    blocks: np.ndarray,
    centres: np.ndarray,
    temperature_kelvin: float,
    largest_order: int,
    folds: int = 5,
) -> tuple[int, dict[str, Any]]:
    """Return the model order by cross-validated likelihood over blocks of trajectories, and a record of the choice.

    blocks [n_blocks, n_bins] counts. The smallest order is taken whose held-out log-likelihood per sample is within one
    standard error, over folds, of the best. The BIC of each order stands beside it.
    """
    weights = jacobian(term, centres)
    parts = [blocks[i::folds].sum(0) for i in range(folds) if blocks[i::folds].any()]
    total = blocks.sum(0)
    scores, bic = [], []
    for order in range(1, largest_order + 1):
        fitted = fit_form(total, centres, temperature_kelvin, order)
        best = log_likelihood(formula(centres, fitted, {}), total, weights, temperature_kelvin)
        bic.append(round(2 * order * float(np.log(total.sum())) - 2 * best, 1))
        score = []
        for part in parts:
            held = fit_form(total - part if len(parts) > 1 else total, centres, temperature_kelvin, order)
            score.append(log_likelihood(formula(centres, held, {}), part, weights, temperature_kelvin) / part.sum())
        scores.append(score)
    table = np.array(scores)
    best_order = int(table.mean(1).argmax())
    short = table[best_order] - table
    spread = short.std(1, ddof=1) / np.sqrt(len(parts)) if len(parts) > 1 else np.zeros(len(table))
    chosen = int(np.flatnonzero(short.mean(1) <= spread)[0]) + 1
    return chosen, {
        "order_chosen_by": "cross-validated likelihood",
        "cross_validated_log_likelihood": [round(float(value), 5) for value in table.mean(1)],
        "bic": bic,
    }
