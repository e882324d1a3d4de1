"""Refinement of any prior on forces, by L-BFGS through the same energy that runs everywhere else."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array, BeadFrames
from cg_priors.config import PriorConfig
from cg_priors.energy import prior_energy
from cg_priors.force_frames import ForceFrames, force_frames
from cg_priors.forms import FORMS
from cg_priors.linear import least_slope
from cg_priors.parameters import BONDED, PriorParameters, Term
from cg_priors.validate import AXES

logger = logging.getLogger(__name__)

POSITIVE = ("force_constant", "cis_force_constant", "quartic", "epsilon", "sigma", "widths")
"""Parameters refined through their logarithm, so that they stay positive."""
FIXED = ("sigma",)
"""Parameters left as they are: eps and sigma of a soft sphere say the same thing."""
WALL_WEIGHT = 1.0
BATCH_FRAMES = 64


def fit_lbfgs(frames: Sequence[BeadFrames], prior: PriorParameters, config: PriorConfig) -> PriorParameters:
    """Return the prior refined to the least mean square force error; weights become 1, absorbed by the parameters.

    It starts from `prior` and stops after `config.force_match.iterations` steps. Potentials keep rising outside the sampled
    range through the same one-sided demand as in the other fits.
    """
    from scipy.optimize import minimize

    start = fold_weights(prior)
    chosen = force_frames(frames, config.force_match.max_frames)
    with jax.enable_x64(True):
        flat, unflatten = _flatten(start.arrays)
        objective = _objective(start, chosen, unflatten)
        scale = np.maximum(np.abs(flat), 0.1)
        first = objective(flat)[0]

        def scaled(z: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = objective(z * scale)
            return value, gradient * scale

        found = minimize(
            scaled, flat / scale, jac=True, method="L-BFGS-B", options={"maxiter": config.force_match.iterations, "maxcor": 20}
        )
        arrays = jax.tree.map(lambda value: np.asarray(value, np.float64), unflatten(jnp.asarray(found.x * scale)))
    logger.info("L-BFGS: objective %.5g to %.5g in %d steps", first, found.fun, found.nit)
    terms = {
        name: dataclasses.replace(term, errors={}, notes={**term.notes, "refined_by": "L-BFGS on forces", "steps": int(found.nit)})
        for name, term in start.terms.items()
    }
    return dataclasses.replace(
        start, terms=terms, arrays=arrays, provenance={**start.provenance, "objective_before": float(first), "objective": float(found.fun)}
    )


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


def _flatten(arrays: dict[str, dict[str, Array]]) -> tuple[np.ndarray, Callable[[Array], dict[str, dict[str, Array]]]]:
    """Return the free parameters as one vector, positive ones as logarithms, and the way back."""
    places, parts, first = [], [], 0
    for name, group in arrays.items():
        for key, value in group.items():
            if key not in FIXED:
                places.append((name, key, first, np.shape(value)))
                parts.append(np.log(value).reshape(-1) if key in POSITIVE else np.asarray(value).reshape(-1))
                first += np.size(value)

    def unflatten(flat: Array) -> dict[str, dict[str, Array]]:
        filled: dict[str, dict[str, Any]] = {name: dict(group) for name, group in arrays.items()}
        for name, key, start, shape in places:
            value = flat[start : start + int(np.prod(shape))].reshape(shape)
            filled[name][key] = jnp.exp(value) if key in POSITIVE else value
        return filled

    return np.concatenate(parts), unflatten


def _objective(
    prior: PriorParameters, chosen: Sequence[ForceFrames], unflatten: Callable[[Array], dict[str, dict[str, Array]]]
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Return flat parameters -> (mean square force error over its start scale plus walls, gradient)."""
    energy = prior_energy(prior)
    n_components = sum(item.forces.size for item in chosen)
    power = sum(float((item.forces**2).sum()) for item in chosen) / n_components

    def batch_error(flat: Array, graph: Any, positions: Array, forces: Array) -> Array:
        arrays = unflatten(flat)

        def frame_error(x: Array, reference: Array) -> Array:
            gradient = jax.grad(lambda moved: energy(arrays, dataclasses.replace(graph, positions=moved)).sum())(x)
            return ((gradient + reference) ** 2).sum()

        return jax.vmap(frame_error)(positions, forces).sum() / (n_components * power)

    error = jax.jit(jax.value_and_grad(batch_error))
    walls = jax.jit(jax.value_and_grad(lambda flat: _wall_shortfall(prior, unflatten(flat))))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = walls(flat)
        value, gradient = float(value), np.asarray(gradient, np.float64)
        for item in chosen:
            for start in range(0, len(item.positions), BATCH_FRAMES):
                part = slice(start, start + BATCH_FRAMES)
                more, slope = error(flat, item.graph, item.positions[part], item.forces[part])
                value, gradient = value + float(more), gradient + np.asarray(slope)
        return value, gradient

    return objective


def _wall_shortfall(prior: PriorParameters, arrays: dict[str, dict[str, Array]]) -> Array:
    """Return the penalty on outward slopes beyond the sampled ranges of bonds and angles."""
    total = jnp.zeros(())
    for name, term in prior.terms.items():
        if name not in BONDED or name == "dihedral" or "low" not in term.statistics:
            continue
        for row in range(len(term.rows)):
            low, high = float(term.statistics["low"][row]), float(term.statistics["high"][row])
            p = {key: value[row : row + 1] for key, value in arrays[name].items()}
            below, above = np.linspace(low, AXES[name][0], 60), np.linspace(high, AXES[name][1], 60)
            x = jnp.asarray(np.concatenate([below, above]))
            direction = np.repeat([-1.0, 1.0], 60)
            away = np.concatenate([low - below, above - high])
            least = least_slope(name, away)
            formula = FORMS[term.form].formula
            slope = jax.grad(lambda at, p=p, formula=formula, term=term: formula(at, p, term.settings).sum())(x)
            total = total + WALL_WEIGHT * (jnp.maximum(0, least - direction * slope) ** 2).mean()
    return total
