"""From frames to a prior: choose the temperature, histogram, fit every row of every term, estimate errors, check."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import cg_priors
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_priors.boltzmann import choose_order
from cg_priors.config import PriorConfig, RepulsionConfig
from cg_priors.fit_fourier import fit_fourier
from cg_priors.fit_harmonic import fit_harmonic
from cg_priors.fit_periodic import fit_periodic
from cg_priors.forms import FORMS
from cg_priors.histogram import Histogram, accumulate, pooled, sampled_range
from cg_priors.keys import POOLED
from cg_priors.parameters import TERM_NAMES, PriorParameters, Term

logger = logging.getLogger(__name__)

Row = dict[str, np.ndarray]
RowFit = Callable[[np.ndarray], Row]


def fit(frames: Sequence[BeadFrames], config: PriorConfig, species_names: Sequence[str]) -> PriorParameters:
    """Return the prior of frames of one or many domains.

    Raises `UserError` where frames have several temperatures and the configuration chooses none, or have none of its choice.
    """
    temperatures = chosen_temperatures(frames, config)
    blocks = [_fit_at(frames, config, tuple(species_names), temperature) for temperature in temperatures]
    first, *others = blocks
    return PriorParameters(first.species_names, first.temperature_kelvin, first.terms, first.arrays, first.provenance, tuple(others)).check(
        "fitted prior"
    )


def chosen_temperatures(frames: Sequence[BeadFrames], config: PriorConfig) -> tuple[float, ...]:
    """Return the temperatures to fit at, each present in the frames."""
    present = sorted({float(value) for item in frames for value in np.unique(item.temperature)})
    require(bool(present), "frames: expected at least one frame, received none: check the data set or the split")
    shown = ", ".join(f"{value:g}" for value in present)
    chosen = config.temperature_kelvin
    if chosen is None:
        if len(present) > 1:
            raise UserError(
                f"temperature_kelvin: the frames are of {shown} K; data of several temperatures are never pooled: "
                f"choose one (temperature_kelvin={present[0]:g}) or several (temperature_kelvin=[{shown}])"
            )
        return tuple(present)
    wanted = (chosen,) if isinstance(chosen, float) else chosen
    for value in wanted:
        require(
            any(abs(value - other) < 0.5 for other in present),
            f"temperature_kelvin: expected one of {shown} K, which the frames have, received {value:g}: choose another",
        )
    return tuple(wanted)


def _fit_at(frames: Sequence[BeadFrames], config: PriorConfig, species_names: tuple[str, ...], temperature: float) -> PriorParameters:
    selected = [item.select(np.abs(np.asarray(item.temperature) - temperature) < 0.5) for item in frames]
    selected = [item for item in selected if item.n_frames]
    wanted = [name for name in TERM_NAMES if getattr(config, name) is not None]
    histograms = accumulate(selected, wanted, len(species_names), species_names)
    terms: dict[str, Term] = {}
    arrays: dict[str, Row] = {}
    for name in wanted:
        if not histograms[name].counts.any():
            logger.warning("%s: the frames have no such tuples; the prior has no %s term", name, name)
            continue
        terms[name], arrays[name] = fit_term(name, getattr(config, name), histograms[name], temperature, config)
    provenance = {
        "cg_priors_version": cg_priors.__version__,
        "method": "boltzmann",
        "n_domains": len(selected),
        "n_frames": sum(item.n_frames for item in selected),
        "n_trajectories": sum(len(np.unique(item.trajectory)) for item in selected),
        "configuration": config.to_dict(),
    }
    return PriorParameters(species_names, temperature, terms, arrays, provenance)


def fit_term(name: str, options: Any, histogram: Histogram, temperature: float, config: PriorConfig) -> tuple[Term, Row]:
    """Return the term and its arrays from the histogram of its coordinate."""
    by_name = histogram.by_name()
    rows = {POOLED: pooled(by_name)}
    notes: dict[str, Any] = {}
    if options.keys == "residue":
        rows |= {key: counts for key, counts in sorted(by_name.items()) if counts.sum() >= options.minimum_count}
        fallen = sorted(set(by_name) - set(rows))
        notes = {"minimum_count": options.minimum_count, "pooled_below_minimum_count": fallen}
        if fallen:
            logger.info("%s: %d of %d keys have fewer than %d samples and use the pooled row", name, len(fallen), len(by_name),
                        options.minimum_count)  # fmt: skip
    row_fit, settings, more = _row_fit(name, options, histogram, rows[POOLED], temperature)
    fitted = [row_fit(counts.sum(0)) for counts in rows.values()]
    errors = _bootstrap(row_fit, list(rows.values()), config)
    ranges = [sampled_range(counts.sum(0), histogram.centres) for counts in rows.values()]
    statistics = {
        "low": np.array([low for low, _ in ranges]),
        "high": np.array([high for _, high in ranges]),
        "count": np.array([counts.sum() for counts in rows.values()]),
    }
    term = Term(options.form, options.weight, tuple(rows), settings, statistics, errors, notes | more)
    return term, _stack(fitted)


def _row_fit(name: str, options: Any, histogram: Histogram, counts: np.ndarray, temperature: float) -> tuple[RowFit, dict, dict]:
    """Return the fit of one row's [n_bins] counts, the form's settings, and notes; what is chosen is chosen on pooled counts."""
    centres = histogram.centres
    if isinstance(options, RepulsionConfig):
        settings = {"switch": options.switch_angstrom, "cutoff": options.cutoff_angstrom}
        return lambda some: _soft_sphere(some, centres, options), settings, {"sigma_quantile": options.quantile}
    if options.form == "harmonic":
        return lambda some: fit_harmonic(some, centres, temperature), {}, {"estimate": "maximum likelihood"}
    fit_form = {"fourier": fit_fourier, "periodic": fit_periodic}[options.form]
    order, notes = options.order, {"estimate": "maximum likelihood", "order_chosen_by": "configuration"}
    if order is None:
        order, more = choose_order(name, FORMS[options.form].formula, fit_form, counts, centres, temperature, options.largest_order)
        notes |= more
    return lambda some: fit_form(some, centres, temperature, order), {}, {**notes, "order": order}


def _soft_sphere(counts: np.ndarray, centres: np.ndarray, options: RepulsionConfig) -> Row:
    """Return eps as configured and sigma, the low quantile of the distances below the range of the histogram."""
    sigma = options.sigma
    if sigma is None:
        cumulative = np.cumsum(counts) / counts.sum()
        sigma = float(np.interp(options.quantile, cumulative, centres))
    return {"epsilon": np.asarray(options.epsilon), "sigma": np.asarray(sigma)}


def _bootstrap(row_fit: RowFit, rows: list[np.ndarray], config: PriorConfig) -> Row:
    """Return standard errors by resampling whole blocks of trajectories, shaped like the arrays."""
    if config.bootstrap_samples < 2:
        return {}
    random = np.random.default_rng(config.seed)
    n_blocks = len(rows[0])
    samples = []
    for _ in range(config.bootstrap_samples):
        times = np.bincount(random.integers(0, n_blocks, n_blocks), minlength=n_blocks)
        fitted = []
        for counts in rows:
            drawn = times @ counts
            fitted.append(row_fit(drawn if drawn.any() else counts.sum(0)))
        samples.append(_stack(fitted))
    return {key: _spread(key, np.stack([sample[key] for sample in samples])) for key in samples[0]}


def _spread(key: str, values: np.ndarray) -> np.ndarray:
    """Return the standard deviation over axis 0, on the circle for phases."""
    if key == "phases":
        mean = np.angle(np.exp(1j * values).mean(0))
        values = np.angle(np.exp(1j * (values - mean)))
    return values.std(0, ddof=1)


def _stack(rows: Sequence[Row]) -> Row:
    return {key: np.stack([row[key] for row in rows]).astype(np.float64) for key in rows[0]}
