"""All terms at once, by linear least squares on forces: closed form, ridge, no weights needed.

Independent inversion counts correlations between neighbouring coordinates several times over, which is why its terms carry
weights below one. Matching forces with all terms together does not: every form here is linear in its coefficients c, forces are
F = -sum_m c_m dB_m/dx, and the normal equations are summed frame by frame.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cg_data.command_line import track
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_priors.boltzmann import COEFFICIENT_SCALE, minimise
from cg_priors.config import PriorConfig
from cg_priors.fit_term import RowFit, spread, stack_rows
from cg_priors.force_frames import ForceFrames, force_frames, term_features, term_tuples
from cg_priors.forms import soft_sphere_slope
from cg_priors.keys import row_lookup
from cg_priors.linear import Confinement, LinearBasis, Row
from cg_priors.parameters import BONDED, PriorParameters, Term

logger = logging.getLogger(__name__)

Normal = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""A^T A [..., m, m], A^T f [..., m], f^T f [...] and the number of force components [...], per block or summed."""
CHUNK_FRAMES = 32
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
SMALLEST_EPSILON = 0.01


@dataclass(frozen=True)
class Columns:
    """The coefficients of one term: `size` for each row, from `start`; a soft sphere has one, eps, and fixed sigmas [n_rows]."""

    name: str
    term: Term
    basis: LinearBasis | None
    sigma: np.ndarray | None
    lookup: np.ndarray
    start: int
    size: int

    @property
    def stop(self) -> int:
        """One past the last column."""
        return self.start + self.size * len(self.term.rows)


def fit_joint(frames: Sequence[BeadFrames], prior: PriorParameters, fits: Mapping[str, RowFit], config: PriorConfig) -> PriorParameters:
    """Return the prior whose coefficients all come from one ridge least-squares fit of forces; weights become 1.

    `prior` gives forms, rows, sampled ranges and sigmas; `fits` the linear bases. The ridge pulls toward zero in units of each
    column's mean square. Raises `UserError` for a form that is not linear.
    """
    columns = _columns(prior, fits)
    chosen = force_frames(frames, config.force_match.max_frames)
    n_blocks = 1 + max(int(item.block.max()) for item in chosen)
    normal = _normal_equations(chosen, columns, n_blocks)
    demands = _demands(columns)
    ridge = config.force_match.ridge
    if ridge is None:
        ridge = _choose_ridge(normal, demands)
    total = _sum(normal, np.ones(n_blocks, bool))
    c = _solve(total, ridge, demands)
    arrays = _arrays(columns, c)
    random = np.random.default_rng(config.seed)
    samples = []
    for _ in range(config.bootstrap_samples if n_blocks > 1 else 0):
        times = np.bincount(random.integers(0, n_blocks, n_blocks), minlength=n_blocks)
        gram, moment, power, number = (np.tensordot(times, part, 1) for part in normal)
        samples.append(_arrays(columns, _solve((gram, moment, power, number), ridge, demands)))
    terms = {
        name: dataclasses.replace(
            term,
            weight=1.0,
            errors=spread([sample[name] for sample in samples], term.errors) if len(samples) > 1 else {},
            notes={**term.notes, "estimate": "joint least squares on forces", "ridge": float(ridge)},
        )
        for name, term in prior.terms.items()
    }
    error = _mean_square(total, c)
    provenance = {**prior.provenance, "force_mse": error, "zero_force_mse": float(total[2] / total[3])}
    logger.info("joint fit: %d coefficients, ridge %g, mean square force error %.4g", len(c), ridge, error)
    return dataclasses.replace(prior, terms=terms, arrays=arrays, provenance=provenance)


def _columns(prior: PriorParameters, fits: Mapping[str, RowFit]) -> list[Columns]:
    columns, start = [], 0
    for name, term in prior.terms.items():
        basis, size, sigma = None, 1, None
        if name in BONDED:
            basis = fits[name].basis
            if basis is None:
                raise UserError(
                    f"method=joint: {name}: form {term.form!r} is not linear in its parameters; expected harmonic, fourier, quartic, "
                    "periodic or spline: choose one of them, or method=lbfgs"
                )
            size = basis.values(np.array([1.5])).shape[-1]
        else:
            sigma = np.asarray(prior.arrays[name]["sigma"])
        columns.append(Columns(name, term, basis, sigma, row_lookup(name, term.rows, prior.species_names), start, size))
        start = columns[-1].stop
    return columns


def _normal_equations(chosen: Sequence[ForceFrames], columns: Sequence[Columns], n_blocks: int) -> Normal:
    m = columns[-1].stop
    normal = (np.zeros((n_blocks, m, m)), np.zeros((n_blocks, m)), np.zeros(n_blocks), np.zeros(n_blocks))
    for item in track(chosen, "normal equations"):
        tuples = [term_tuples(column.name, column.lookup, item.graph) for column in columns]
        for start in range(0, len(item.positions), CHUNK_FRAMES):
            part = slice(start, start + CHUNK_FRAMES)
            designs = _designs(item.positions[part], columns, tuples, m)
            for design, forces, block, weight in zip(designs, item.forces[part], item.block[part], item.weight[part], strict=True):
                normal[0][block] += weight * design.T @ design
                normal[1][block] += weight * design.T @ forces.reshape(-1)
                normal[2][block] += weight * (forces**2).sum()
                normal[3][block] += weight * forces.size
    return normal


def _designs(positions: np.ndarray, columns: Sequence[Columns], tuples: Sequence[tuple[np.ndarray, np.ndarray]], m: int) -> np.ndarray:
    """Return -dB/dx of some frames, [n_frames, n_beads * 3, m]."""
    n_frames, n_beads, _ = positions.shape
    design = np.zeros((n_frames * n_beads, 3, m))
    for column, (indices, rows) in zip(columns, tuples, strict=True):
        beads, rows, x, gradient = term_features(column.name, column.term, positions, indices, rows)
        if not len(beads):
            continue
        slopes = column.basis.slopes(x) if column.basis is not None else _soft_sphere_slopes(column, x, rows)
        place = column.start + rows[:, None] * column.size + np.arange(column.size)
        for corner in range(beads.shape[1]):
            pushed = -gradient[:, corner, :, None] * slopes[:, None, :]
            np.add.at(design, (beads[:, corner, None, None], np.arange(3)[None, :, None], place[:, None, :]), pushed)
    return design.reshape(n_frames, n_beads * 3, m)


def _soft_sphere_slopes(column: Columns, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return soft_sphere_slope(x, np.asarray(column.sigma)[rows], column.term.settings)[:, None]


def _demands(columns: Sequence[Columns]) -> Confinement:
    """Return the confinement of every row of every term, on the coefficients of all of them."""
    m = columns[-1].stop
    rows, least = [], []
    for column in columns:
        for row in range(len(column.term.rows)):
            if column.basis is None:
                inner = Confinement(np.ones((1, 1)), np.array([SMALLEST_EPSILON]))
            else:
                low, high = (float(column.term.statistics[key][row]) for key in ("low", "high"))
                inner = column.basis.demands(low, high)
            wide = np.zeros((len(inner.least), m))
            first = column.start + row * column.size
            wide[:, first : first + column.size] = inner.rows
            rows.append(wide)
            least.append(inner.least)
    return Confinement(np.vstack(rows), np.concatenate(least))


def _solve(normal: Normal, ridge: float, demands: Confinement) -> np.ndarray:
    """Return the coefficients of summed normal equations; closed form where no demand is violated."""
    gram, moment, power, number = normal
    size = np.maximum(np.diag(gram), 1e-12 * np.diag(gram).max())
    # Coefficients that forces leave open stay small, by the same Gaussian as in the likelihood, with the forces' own noise.
    shrinkage = float(power) / float(number) / COEFFICIENT_SCALE**2
    hessian = (gram + np.diag(ridge * size + shrinkage)) / number
    target = moment / number
    start = np.linalg.solve(hessian + 1e-12 * np.diag(np.diag(hessian)), target)
    if not demands.shortfall(start).any():
        return start
    # The demands are one-sided penalties: Newton's method on a piecewise quadratic, in units of a typical squared force.
    scale = max(_mean_square(normal, start), 1e-6)
    return minimise(
        lambda c: (float(0.5 * c @ hessian @ c - target @ c) / scale, (hessian @ c - target) / scale, hessian / scale), start, demands
    )


def _mean_square(normal: Normal, c: np.ndarray) -> float:
    """Return the mean square force error per component of coefficients, (kcal/mol/angstrom)^2."""
    gram, moment, power, number = normal
    return float((c @ gram @ c - 2 * c @ moment + power) / number)


def _choose_ridge(normal: Normal, demands: Confinement, folds: int = 5) -> float:
    """Return the ridge with the smallest force error on blocks left out of the fit."""
    n_blocks = len(normal[2])
    errors = []
    for ridge in RIDGES:
        error = 0.0
        for fold in range(min(folds, n_blocks)):
            held = np.arange(n_blocks) % folds == fold
            fitted = _solve(_sum(normal, ~held if n_blocks > 1 else held), ridge, demands)
            part = _sum(normal, held)
            error += _mean_square(part, fitted) * float(part[3])
        errors.append(error)
    return RIDGES[int(np.argmin(errors))]


def _sum(normal: Normal, blocks: np.ndarray) -> Normal:
    gram, moment, power, number = (part[blocks].sum(0) for part in normal)
    return gram, moment, power, number


def _arrays(columns: Sequence[Columns], c: np.ndarray) -> dict[str, Row]:
    arrays = {}
    for column in columns:
        parts = c[column.start : column.stop].reshape(len(column.term.rows), column.size)
        if column.basis is None:
            arrays[column.name] = {"epsilon": np.maximum(parts[:, 0], SMALLEST_EPSILON / 2), "sigma": np.asarray(column.sigma)}
        else:
            arrays[column.name] = stack_rows([column.basis.arrays(part) for part in parts])
    return arrays
