"""Refinement of any prior on forces, by L-BFGS.

A frame's forces are linear in the slopes of the potentials: F = -G u, with u = dU/dx of every tuple and G = dx/dr, which no
parameter changes. So G is computed once, as a sparse matrix over all frames; a step costs the slopes and two products with it.
Coordinates in which the Gauss-Newton matrix of the start is the identity make L-BFGS converge in tens of steps.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array, BeadFrames
from cg_priors.config import PriorConfig
from cg_priors.fit_term import spread
from cg_priors.force_frames import ForceFrames, force_frames, term_features, term_tuples
from cg_priors.forms import FORMS
from cg_priors.keys import row_lookup
from cg_priors.linear import Row, least_slope
from cg_priors.parameters import BONDED, PriorParameters, Term
from cg_priors.validate import AXES

logger = logging.getLogger(__name__)

POSITIVE = ("force_constant", "cis_force_constant", "quartic", "epsilon", "sigma", "widths")
"""Parameters refined through their logarithm, so that they stay positive."""
FIXED = ("sigma",)
"""Parameters left as they are: eps and sigma of a soft sphere say the same thing."""
WALL_WEIGHT = 1.0
WALL_POINTS = 60
CHUNK_FRAMES = 64
FLATTEST = 1e-8
"""Directions whose curvature is below this share of the largest are left to L-BFGS, and have no standard error."""


@dataclass(frozen=True)
class Slopes:
    """All tuples of all frames, and how their slopes make forces.

    x, rows    term -> [n] coordinates and rows, in the order of G's columns
    push       sparse [n_components, n_tuples]: G, both sides scaled by the square root of the frames' weights
    forces     [n_components] scaled likewise; block [n_components]
    """

    x: Mapping[str, np.ndarray]
    rows: Mapping[str, np.ndarray]
    push: Any
    forces: np.ndarray
    block: np.ndarray


def fit_lbfgs(frames: Sequence[BeadFrames], prior: PriorParameters, config: PriorConfig) -> PriorParameters:
    """Return the prior refined to the least mean square force error; weights become 1, absorbed by the parameters.

    It starts from `prior` and stops after `config.force_match.iterations` steps at the latest. Potentials keep rising outside the
    sampled range through the same one-sided demand as in the other fits. Standard errors are of a block bootstrap, each resample
    one Newton step from the minimum.
    """
    from scipy.optimize import minimize

    start = fold_weights(prior)
    chosen = force_frames(frames, config.force_match.max_frames)
    slopes = forces_of_slopes(start, chosen)
    with jax.enable_x64(True):
        flat, unflatten, places = _flatten(start.arrays)
        objective, derivatives = _objective(start, slopes, unflatten)
        root = _root(derivatives(flat, places), len(flat))
        first = objective(flat)[0]

        def scaled(z: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = objective(flat + root @ z)
            return value, root.T @ gradient

        options = {"maxiter": config.force_match.iterations, "maxcor": 20}
        found = minimize(scaled, np.zeros(root.shape[1]), jac=True, method="L-BFGS-B", options=options)
        best = flat + root @ found.x
        samples = _resample(best, derivatives(best, places), slopes, objective.residual(best), config)
        arrays, *resampled = [
            jax.tree.map(lambda value: np.asarray(value, np.float64), unflatten(jnp.asarray(some))) for some in (best, *samples)
        ]
    logger.info("L-BFGS: objective %.5g to %.5g in %d steps", first, found.fun, found.nit)
    terms = {
        name: dataclasses.replace(
            term,
            errors=spread([sample[name] for sample in resampled], term.errors) if resampled else {},
            notes={**term.notes, "refined_by": "L-BFGS on forces", "steps": int(found.nit)},
        )
        for name, term in start.terms.items()
    }
    power = float(slopes.forces @ slopes.forces) / len(slopes.forces)
    provenance = {**start.provenance, "objective_before": float(first), "objective": float(found.fun), "zero_force_mse": power}
    return dataclasses.replace(start, terms=terms, arrays=arrays, provenance=provenance)


def fold_weights(prior: PriorParameters) -> PriorParameters:
    """Return the same energies with all weights 1: each weight is multiplied into the term's parameters."""
    terms: dict[str, Term] = {}
    arrays: dict[str, dict[str, Array]] = {}
    for name, term in prior.terms.items():
        form = FORMS[term.form]
        arrays[name] = {key: value * term.weight if key in form.energies else value for key, value in prior.arrays[name].items()}
        settings = {key: value * term.weight if key in form.energy_settings else value for key, value in term.settings.items()}
        errors = {key: value * term.weight if key in form.energies else value for key, value in term.errors.items()}
        terms[name] = dataclasses.replace(term, weight=1.0, settings=settings, errors=errors)
    return dataclasses.replace(prior, terms=terms, arrays=arrays)


def forces_of_slopes(prior: PriorParameters, chosen: Sequence[ForceFrames]) -> Slopes:
    """Return the coordinates of all tuples of the chosen frames and the sparse matrix of their gradients."""
    from scipy import sparse

    n_components = sum(item.forces.size for item in chosen)
    x: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    parts = []
    for name, term in prior.terms.items():
        lookup = row_lookup(name, term.rows, prior.species_names)
        found: list[tuple[np.ndarray, ...]] = []
        first = 0
        for item in chosen:
            tuples, own = term_tuples(name, lookup, item.graph)
            n_beads = item.positions.shape[1]
            for start in range(0, len(item.positions), CHUNK_FRAMES):
                some = item.positions[start : start + CHUNK_FRAMES]
                beads, which, values, gradient = term_features(name, term, some, tuples, own)
                scale = np.repeat(np.sqrt(item.weight[start : start + CHUNK_FRAMES]), n_beads)[beads[:, 0]]
                found.append((beads + first, which, values, gradient * scale[:, None, None]))
                first += len(some) * n_beads
        beads, rows[name], x[name], gradient = (np.concatenate(some) for some in zip(*found, strict=True))
        component = 3 * beads[:, :, None] + np.arange(3)
        column = np.broadcast_to(np.arange(len(beads))[:, None, None], component.shape)
        entries = (gradient.reshape(-1), (component.reshape(-1), column.reshape(-1)))
        parts.append(sparse.csr_array(entries, shape=(n_components, len(beads))))
    forces = [(item.forces * np.sqrt(item.weight)[:, None, None]).reshape(-1) for item in chosen]
    block = [np.repeat(item.block, item.forces[0].size) for item in chosen]
    return Slopes(x, rows, sparse.hstack(parts, format="csr"), np.concatenate(forces), np.concatenate(block))


@dataclass(frozen=True)
class Place:
    """Where a parameter stands in the flat vector: from `start`, shape [n_rows, ...]."""

    name: str
    key: str
    start: int
    shape: tuple[int, ...]


def _flatten(arrays: Mapping[str, Mapping[str, Array]]) -> tuple[np.ndarray, Callable[[Array], dict[str, Row]], list[Place]]:
    """Return the free parameters as one vector, positive ones as logarithms, the way back, and where each stands."""
    places: list[Place] = []
    parts, first = [], 0
    for name, group in arrays.items():
        for key, value in group.items():
            if key not in FIXED:
                places.append(Place(name, key, first, np.shape(value)))
                parts.append(np.log(value).reshape(-1) if key in POSITIVE else np.asarray(value).reshape(-1))
                first += np.size(value)

    def unflatten(flat: Array) -> dict[str, Row]:
        filled: dict[str, dict[str, Any]] = {name: dict(group) for name, group in arrays.items()}
        for place in places:
            value = flat[place.start : place.start + int(np.prod(place.shape))].reshape(place.shape)
            filled[place.name][place.key] = jnp.exp(value) if place.key in POSITIVE else value
        return filled

    return np.concatenate(parts), unflatten, places


class _Objective:
    """Flat parameters -> (mean square force error over that of zero forces, plus walls; gradient)."""

    def __init__(self, prior: PriorParameters, slopes: Slopes, unflatten: Callable[[Array], dict[str, Row]]):
        self._slopes, self._power = slopes, float(slopes.forces @ slopes.forces)
        self._transposed = slopes.push.T.tocsr()
        self.u = jax.jit(lambda flat: slope_values(prior, slopes, unflatten(flat)))
        self._pull = jax.jit(lambda flat, g: jax.vjp(self.u, flat)[1](g)[0])
        self._walls = jax.jit(jax.value_and_grad(lambda flat: _wall_shortfall(prior, unflatten(flat))))

    def residual(self, flat: np.ndarray) -> np.ndarray:
        """Return the error of minus the forces, [n_components], in units of the root of all squared forces."""
        return (self._slopes.push @ np.asarray(self.u(flat)) + self._slopes.forces) / np.sqrt(self._power)

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        residual = self.residual(flat)
        value, gradient = self._walls(flat)
        pulled = self._pull(flat, 2 / np.sqrt(self._power) * (self._transposed @ residual))
        return float(residual @ residual) + float(value), np.asarray(pulled) + np.asarray(gradient)


def _objective(
    prior: PriorParameters, slopes: Slopes, unflatten: Callable[[Array], dict[str, Row]]
) -> tuple[_Objective, Callable[[np.ndarray, list[Place]], Any]]:
    """Return the objective, and (flat, places) -> d residual/d flat, sparse [n_components, n_parameters]."""
    from scipy import sparse

    objective = _Objective(prior, slopes, unflatten)
    along = jax.jit(lambda flat, direction: jax.jvp(objective.u, (flat,), (direction,))[1])
    scale = np.sqrt(float(slopes.forces @ slopes.forces))

    def derivatives(flat: np.ndarray, places: list[Place]) -> Any:
        first = dict(zip(slopes.x, np.cumsum([0, *map(len, slopes.x.values())]), strict=False))
        values, tuples, columns = [], [], []
        for place in places:
            n_rows, size = place.shape[0], int(np.prod(place.shape[1:]))
            rows = slopes.rows[place.name]
            own = slice(first[place.name], first[place.name] + len(rows))
            for part in range(size):
                # A tuple has one row: one derivative serves all rows of a parameter.
                direction = np.zeros(len(flat))
                direction[place.start + size * np.arange(n_rows) + part] = 1
                values.append(np.asarray(along(flat, direction))[own])
                tuples.append(np.arange(own.start, own.stop))
                columns.append(place.start + size * rows + part)
        entries = (np.concatenate(values) / scale, (np.concatenate(tuples), np.concatenate(columns)))
        by_parameter = sparse.csr_array(entries, shape=(slopes.push.shape[1], len(flat)))
        by_parameter.eliminate_zeros()
        return slopes.push @ by_parameter

    return objective, derivatives


def _root(derivative: Any, n: int) -> np.ndarray:
    """Return R [n, n] with R^T H R about 1, H the Gauss-Newton matrix; directions without curvature keep a small scale."""
    hessian = 2 * (derivative.T @ derivative).toarray()
    size = np.sqrt(np.maximum(np.diag(hessian), FLATTEST * np.diag(hessian).max()))
    values, vectors = np.linalg.eigh(hessian / np.outer(size, size))
    root: np.ndarray = vectors / np.sqrt(np.maximum(values, 1e-4 * values[-1])) / size[:, None]
    return root


def _resample(best: np.ndarray, derivative: Any, slopes: Slopes, residual: np.ndarray, config: PriorConfig) -> list[np.ndarray]:
    """Return the minimum's parameters for resampled blocks of trajectories, each by one Newton step; [] below two resamples."""
    n_blocks = 1 + int(slopes.block.max())
    if config.bootstrap_samples < 2 or n_blocks < 2:
        return []
    gradients = np.stack([derivative[slopes.block == b].T @ residual[slopes.block == b] for b in range(n_blocks)])
    hessian = (derivative.T @ derivative).toarray()
    size = np.sqrt(np.maximum(np.diag(hessian), FLATTEST * np.diag(hessian).max()))
    values, vectors = np.linalg.eigh(hessian / np.outer(size, size))
    steep = values > FLATTEST * values[-1]
    inverse = (vectors[:, steep] / values[steep]) @ vectors[:, steep].T / np.outer(size, size)
    random = np.random.default_rng(config.seed)
    samples = []
    for _ in range(config.bootstrap_samples):
        times = np.bincount(random.integers(0, n_blocks, n_blocks), minlength=n_blocks)
        # At the minimum the gradients of all blocks cancel, but for walls.
        samples.append(best - inverse @ ((times - 1) @ gradients))
    return samples


def slope_values(prior: PriorParameters, slopes: Slopes, arrays: Mapping[str, Row]) -> Array:
    """Return dU/dx of every tuple, [n_tuples] kcal/mol per unit, in the order of G's columns, weights included."""
    parts = [term.weight * _slope(term, arrays[name], slopes.x[name], slopes.rows[name]) for name, term in prior.terms.items()]
    return jnp.concatenate(parts)


def _slope(term: Term, arrays: Row, x: np.ndarray, rows: np.ndarray) -> Array:
    p = {key: jnp.asarray(value)[rows if len(term.rows) > 1 else np.zeros(1, int)] for key, value in arrays.items()}
    return jax.grad(lambda at: FORMS[term.form].formula(at, p, term.settings).sum())(jnp.asarray(x, jnp.float64))


def _wall_shortfall(prior: PriorParameters, arrays: Mapping[str, Row]) -> Array:
    """Return the penalty on outward slopes beyond the sampled ranges of bonds and angles."""
    total = jnp.zeros(())
    for name, term in prior.terms.items():
        if name not in BONDED or name == "dihedral" or "low" not in term.statistics:
            continue
        low, high = (np.asarray(term.statistics[key], np.float64)[:, None] for key in ("low", "high"))
        share = np.linspace(0, 1, WALL_POINTS)
        x = np.concatenate([low + share * (AXES[name][0] - low), high + share * (AXES[name][1] - high)], 1)
        direction = np.repeat([-1.0, 1.0], WALL_POINTS)
        least = least_slope(name, np.maximum(low - x, x - high))
        rows = np.repeat(np.arange(len(term.rows)), x.shape[1])
        slope = _slope(term, arrays[name], x.reshape(-1), rows).reshape(x.shape)
        total = total + WALL_WEIGHT * (jnp.maximum(0, least - direction * slope) ** 2).mean(1).sum()
    return total
