"""Boltzmann inversion: p(x) proportional to J(x) exp(-U(x) / kB T), with the Jacobian J of the coordinate.

Potentials that are linear in their coefficients make p an exponential family, whose likelihood is convex: Newton's method
finds its one maximum. A potential must also push back where there are no data; that is an inequality on its slope there, and
enters as a one-sided penalty, which leaves a potential that confines by itself untouched. The alternative to the likelihood is
least squares to the free energy of a kernel density or of a histogram.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from cg_data.units import thermal_energy
from cg_priors.divergence import coarse
from cg_priors.histogram import sampled_range
from cg_priors.linear import Confinement, LinearBasis, Row, unconfined

Estimate = Literal["likelihood", "kde", "histogram"]
Objective = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]

PENALTY = 1e-3
"""Weight of the squared shortfalls of slope, (kcal/mol per unit)^-2, against the likelihood per sample."""
COEFFICIENT_SCALE = 50.0
"""Prior width of a coefficient, kcal/mol; weighs as much as one observation."""
SMALLEST_DECREASE = 1e-13
"""Decrease of the log-likelihood per sample at which Newton's method stops, relative to its size or to 1."""
ROUGHNESS = 1e-4
"""Weight of squared second differences of spline coefficients: decides only where data are silent."""


def jacobian(term: str, x: np.ndarray) -> np.ndarray:
    """Return r^2 for bonds, sin(theta) for angles, 1 for dihedrals: volume per unit of the coordinate."""
    if term == "bond":
        return x**2
    return np.sin(x) if term == "angle" else np.ones_like(x)


def linear_coefficients(
    term: str,
    basis: LinearBasis,
    counts: np.ndarray,
    centres: np.ndarray,
    temperature_kelvin: float,
    estimate: Estimate = "likelihood",
    bandwidth: float = 0.0,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Return the coefficients of a linear form, [m] kcal/mol, from the [n_bins] counts of its coordinate (`centres`, angstrom or radian).

    start [m]: coefficients for similar counts, from which the likelihood's maximum takes fewer steps; the maximum is the same.
    """
    low, high = sampled_range(counts, centres)
    confinement = basis.demands(low, high)
    if estimate == "likelihood":
        return maximum_likelihood(basis.values(centres), counts, jacobian(term, centres), temperature_kelvin, confinement, start)
    if estimate == "kde":
        x, density = centres, smoothed_density(term, counts, centres, bandwidth)
    else:
        density, x = coarse(term, counts, centres)
        density = density / jacobian(term, x)
    inside = (x >= low) & (x <= high) & (density > 0)
    energy = -thermal_energy(temperature_kelvin) * np.log(density[inside])
    return least_squares(basis, x[inside], energy - energy.min(), confinement)


def least_squares(basis: LinearBasis, x: np.ndarray, energy: np.ndarray, confinement: Confinement) -> np.ndarray:
    """Return the coefficients that fit `energy` [n] at `x` up to a constant, [m] kcal/mol."""
    design = basis.values(x)
    middle, offset = design.mean(0), energy.mean()
    design, energy = design - middle, energy - offset
    m = design.shape[1]
    smooth = np.zeros((m, m)) if basis.roughness is None else ROUGHNESS * basis.roughness.T @ basis.roughness
    hessian = design.T @ design / len(x) + smooth + 1e-9 * np.eye(m)
    target = design.T @ energy / len(x)
    return minimise(lambda c: (float(0.5 * c @ hessian @ c - target @ c), hessian @ c - target, hessian), np.zeros(m), confinement)


def smoothed_density(term: str, counts: np.ndarray, centres: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return the kernel density of samples divided by the Jacobian, [n_bins]; bandwidth of the Gaussian in units of x."""
    from scipy.ndimage import gaussian_filter1d

    width = centres[1] - centres[0]
    mode = "wrap" if term == "dihedral" else "constant"
    weighted = counts / np.maximum(jacobian(term, centres), 1e-12)
    return gaussian_filter1d(weighted, bandwidth / width, mode=mode, truncate=6.0)


def choose_bandwidth(term: str, blocks: np.ndarray, centres: np.ndarray, folds: int = 5) -> float:
    """Return the bandwidth with the best cross-validated likelihood over blocks; blocks [n_blocks, n_bins] counts."""
    width = centres[1] - centres[0]
    widths = width * np.geomspace(1.5, len(centres) / 20, 14)
    parts = [blocks[i::folds].sum(0) for i in range(folds) if blocks[i::folds].any()]
    total = blocks.sum(0)
    if len(parts) < 2:
        return float(widths[len(widths) // 2])
    scores = []
    for bandwidth in widths:
        score = 0.0
        for part in parts:
            density = smoothed_density(term, total - part, centres, bandwidth) * jacobian(term, centres)
            density = np.maximum(density / density.sum(), 1e-12)
            score += float(part @ np.log(density))
        scores.append(score)
    return float(widths[int(np.argmax(scores))])


def maximum_likelihood(
    basis: np.ndarray,
    counts: np.ndarray,
    weights: np.ndarray,
    temperature_kelvin: float,
    confinement: Confinement | None = None,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Return the coefficients c of U = basis @ c that maximise the likelihood of binned samples, [m] kcal/mol.

    basis [n_bins, m]; counts [n_bins]; weights [n_bins]: the Jacobian at the bins; start [m]: where to begin, by default 0.
    Where the data leave a coefficient open it is kept small by a Gaussian of width `COEFFICIENT_SCALE`: large terms of opposite sign
    would cost float32 its digits.
    """
    beta = 1 / thermal_energy(temperature_kelvin)
    total = counts.sum()
    shrinkage = 1 / (COEFFICIENT_SCALE**2 * total)
    observed = counts @ basis / total
    log_weights = np.log(np.maximum(weights, 1e-300))

    def objective(c: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        exponents = -beta * (basis @ c) + log_weights
        shift = exponents.max()
        p = np.exp(exponents - shift)
        norm = p.sum()
        p /= norm
        mean = p @ basis
        value = beta * observed @ c + np.log(norm) + shift + 0.5 * shrinkage * c @ c
        spread = (basis * p[:, None]).T @ basis - np.outer(mean, mean)
        return value, beta * (observed - mean) + shrinkage * c, beta**2 * spread + shrinkage * np.eye(len(c))

    return minimise(objective, np.zeros(basis.shape[1]) if start is None else start, confinement)


def minimise(objective: Objective, start: np.ndarray, confinement: Confinement | None = None, iterations: int = 200) -> np.ndarray:
    """Return the minimum of a convex function with gradient and Hessian, plus the penalty of a confinement, by damped Newton.

    Each step goes to the exact minimum of the quadratic model plus the penalty, so the demands that bind are found at once.
    """
    bounds = unconfined(len(start)) if confinement is None else confinement
    c = start
    value, gradient, hessian = objective(c)
    penalty = PENALTY * float(np.sum(bounds.shortfall(c) ** 2))
    for _ in range(iterations):
        step = _model_minimum(gradient, hessian, Confinement(bounds.rows, bounds.least - bounds.rows @ c))
        after = PENALTY * float(np.sum(bounds.shortfall(c + step) ** 2))
        decrease = penalty - after - float(gradient @ step + 0.5 * step @ hessian @ step)
        if decrease < SMALLEST_DECREASE * max(1.0, abs(value)):
            break
        length = 1.0
        while length > 1e-8:
            trial = objective(c + length * step)
            trial_penalty = PENALTY * float(np.sum(bounds.shortfall(c + length * step) ** 2))
            if trial[0] + trial_penalty <= value + penalty - 1e-4 * length * decrease:
                break
            length *= 0.5
        else:
            break
        c = c + length * step
        (value, gradient, hessian), penalty = trial, trial_penalty
    return c


def _model_minimum(gradient: np.ndarray, hessian: np.ndarray, bounds: Confinement) -> np.ndarray:
    """Return d that minimises 1/2 d H d + g d + PENALTY |max(0, least - rows d)|^2.

    The dual of this problem is a least squares problem with non-negative unknowns, one per demand; it is solved for the demands
    that have been seen violated, until no other is.
    """
    from scipy.optimize import nnls

    size = np.sqrt(np.maximum(np.diag(hessian), 1e-30))
    values, vectors = np.linalg.eigh(hessian / np.outer(size, size))
    root = vectors / np.sqrt(np.maximum(values, 1e-14 * values[-1])) / size[:, None]
    free = root.T @ gradient
    step = -root @ free
    seen = np.zeros(len(bounds.least), bool)
    while (new := (bounds.shortfall(step) > 1e-9) & ~seen).any():
        seen |= new
        rows, least = bounds.rows[seen], bounds.least[seen]
        soft = np.sqrt(2 * PENALTY)
        system = np.vstack([root.T @ rows.T, np.eye(len(least)) / soft])
        force, _ = nnls(system, np.concatenate([free, least * soft]))
        step = root @ (root.T @ rows.T @ force - free)
    return step


def log_likelihood(energy: np.ndarray, counts: np.ndarray, weights: np.ndarray, temperature_kelvin: float) -> float:
    """Return the sum over samples of ln p(bin) under U [n_bins] kcal/mol."""
    exponents = -energy / thermal_energy(temperature_kelvin) + np.log(np.maximum(weights, 1e-300))
    exponents = exponents - exponents.max()
    return float(counts @ (exponents - np.log(np.exp(exponents).sum())))


def choose_order(
    term: str,
    formula: Callable[[np.ndarray, Row], np.ndarray],
    fit_order: Callable[[np.ndarray, int], Row],
    parameters_per_order: int,
    blocks: np.ndarray,
    centres: np.ndarray,
    temperature_kelvin: float,
    largest_order: int,
    by: Literal["cross_validation", "bic"],
    folds: int = 5,
) -> tuple[int, dict[str, Any]]:
    """Return the model order and a record of the choice.

    By cross-validation over blocks of trajectories the smallest order is taken whose held-out log-likelihood per sample is
    within one standard error, over folds, of the best; by the BIC the one with the smallest BIC, which treats correlated frames
    as independent and so takes higher orders. blocks [n_blocks, n_bins] counts; `fit_order(counts, order)`.
    """
    weights = jacobian(term, centres)
    parts = [blocks[i::folds].sum(0) for i in range(folds) if blocks[i::folds].any()]
    total = blocks.sum(0)
    scores, bic = [], []
    for order in range(1, largest_order + 1):
        best = log_likelihood(formula(centres, fit_order(total, order)), total, weights, temperature_kelvin)
        bic.append(round(parameters_per_order * order * float(np.log(total.sum())) - 2 * best, 1))
        score = []
        for part in parts:
            held = fit_order(total - part if len(parts) > 1 else total, order)
            score.append(log_likelihood(formula(centres, held), part, weights, temperature_kelvin) / part.sum())
        scores.append(score)
    table = np.array(scores)
    short = table[int(table.mean(1).argmax())] - table
    spread = short.std(1, ddof=1) / np.sqrt(len(parts)) if len(parts) > 1 else np.zeros(len(table))
    by_validation = int(np.flatnonzero(short.mean(1) <= spread)[0]) + 1
    return by_validation if by == "cross_validation" else int(np.argmin(bic)) + 1, {
        "order_chosen_by": by,
        "cross_validated_log_likelihood": [round(float(value), 5) for value in table.mean(1)],
        "bic": bic,
    }
