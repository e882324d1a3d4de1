"""One term from the histogram of its coordinate: rows, form, model order, standard errors."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cg_priors.boltzmann import choose_bandwidth, choose_order, linear_coefficients
from cg_priors.config import PriorConfig, RepulsionConfig
from cg_priors.fit_bending import fit_restricted, quartic_basis
from cg_priors.fit_fourier import fourier_basis
from cg_priors.fit_harmonic import fit_cis_trans, harmonic_basis
from cg_priors.fit_periodic import fit_gaussians, periodic_basis, thermal_setting
from cg_priors.fit_spline import spline_basis
from cg_priors.forms import FORMS
from cg_priors.histogram import Histogram, sampled_range
from cg_priors.keys import POOLED
from cg_priors.linear import LinearBasis, Row
from cg_priors.parameters import Term

logger = logging.getLogger(__name__)

BEFORE_PROLINE = "*-PRO"
EVEN_SAMPLES = 10.0
"""Samples spread evenly over all dihedrals beside the data: where there are no data the free energy is finite."""


@dataclass(frozen=True)
class RowFit:
    """How the rows of a term are fitted.

    fit       [n_bins] counts -> parameters
    basis     the form's linear basis, None where it has none
    settings  fixed numbers of the form
    notes     how it was chosen
    """

    fit: Callable[[np.ndarray], Row]
    basis: LinearBasis | None = None
    settings: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def fit_term(name: str, options: Any, histogram: Histogram, temperature: float, config: PriorConfig) -> tuple[Term, Row, RowFit]:
    """Return the term, its arrays [n_rows, ...] and the fit that made them."""
    rows, notes = choose_rows(name, options, histogram)
    row_fit = choose_fit(name, options, histogram.centres, rows[POOLED], temperature)
    ranges = [sampled_range(counts.sum(0), histogram.centres) for counts in rows.values()]
    statistics = {
        "low": np.array([low for low, _ in ranges]),
        "high": np.array([high for _, high in ranges]),
        "count": np.array([float(counts.sum()) for counts in rows.values()]),
    }
    if name == "dihedral":
        rows = {key: counts + EVEN_SAMPLES / counts.size for key, counts in rows.items()}
    arrays = stack_rows([row_fit.fit(counts.sum(0)) for counts in rows.values()])
    errors = bootstrap(row_fit.fit, list(rows.values()), config)
    return (
        Term(options.form, options.weight, tuple(rows), row_fit.settings, statistics, errors, {**notes, **row_fit.notes}),
        arrays,
        row_fit,
    )


def needs_keys(options: Any) -> bool:
    """Return whether the rows of a term are told apart by residues."""
    return bool(options.form == "cis_trans" or options.keys == "residue")


def choose_rows(name: str, options: Any, histogram: Histogram) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return row name -> [n_blocks, n_bins] counts, the pooled row first, and a note of the keys that fell back to it."""
    rows = {POOLED: histogram.counts.sum(1)}
    by_name = histogram.by_name() if needs_keys(options) else {}
    notes: dict[str, Any] = {}
    if options.form == "cis_trans":
        before_proline = [counts for key, counts in by_name.items() if key.endswith("-PRO")]
        others = [counts for key, counts in by_name.items() if not key.endswith("-PRO")]
        if before_proline and others:
            rows = {POOLED: np.sum(others, axis=0), BEFORE_PROLINE: np.sum(before_proline, axis=0)}
    if options.keys == "residue":
        rows |= {key: counts for key, counts in sorted(by_name.items()) if counts.sum() >= options.minimum_count}
        fallen = sorted(set(by_name) - set(rows))
        notes = {"minimum_count": options.minimum_count, "pooled_below_minimum_count": fallen}
        if fallen:
            shown = ", ".join(fallen[:5]) + (", ..." if len(fallen) > 5 else "")
            logger.info("%s: below %d samples, pooled row used: %s (%d keys)", name, options.minimum_count, shown, len(fallen))
    return rows, notes


def choose_fit(name: str, options: Any, centres: np.ndarray, blocks: np.ndarray, temperature: float) -> RowFit:
    """Return the fit of the configured form; order and bandwidth are chosen on the pooled [n_blocks, n_bins] counts."""
    if isinstance(options, RepulsionConfig):
        settings = {"switch": options.switch_angstrom, "cutoff": options.cutoff_angstrom}
        notes = {"sigma": "configured"} if options.sigma else {"sigma": f"{options.quantile:g} quantile of distances below 10 angstrom"}
        return RowFit(lambda counts: soft_sphere(counts, centres, options), None, settings, notes)
    if options.form == "cis_trans":
        notes = {"estimate": "likelihood", "cis": "shorter than 3.35 angstrom"}
        return RowFit(lambda counts: fit_cis_trans(counts, centres, temperature), None, thermal_setting(temperature), notes)
    if options.form == "restricted":
        return RowFit(lambda counts: fit_restricted(counts, centres, temperature), None, {}, {"estimate": "likelihood"})
    if options.form == "gaussians":
        return _gaussians(options, centres, blocks, temperature)
    return _linear(name, options, centres, blocks, temperature)


def _gaussians(options: Any, centres: np.ndarray, blocks: np.ndarray, temperature: float) -> RowFit:
    settings = thermal_setting(temperature)
    order, notes = options.order, {"order_chosen_by": "configuration"}
    if order is None:
        formula = FORMS["gaussians"].formula
        order, notes = choose_order(
            "dihedral", lambda x, p: formula(x, p, settings), lambda counts, n: fit_gaussians(counts, centres, temperature, n), 3,
            blocks, centres, temperature, options.largest_order, options.order_by,
        )  # fmt: skip
    notes = {"estimate": "likelihood", "order": order, **notes}
    return RowFit(lambda counts: fit_gaussians(counts, centres, temperature, order), None, settings, notes)


def _linear(name: str, options: Any, centres: np.ndarray, blocks: np.ndarray, temperature: float) -> RowFit:
    notes: dict[str, Any] = {"estimate": options.estimate}
    bandwidth = 0.0
    if options.form == "spline" or options.estimate == "kde":
        bandwidth = choose_bandwidth(name, blocks, centres)
        notes |= {"estimate": "kde", "bandwidth": bandwidth, "bandwidth_chosen_by": "cross-validated likelihood"}
    estimate = notes["estimate"]

    def coefficients(basis: LinearBasis, counts: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        return linear_coefficients(name, basis, counts, centres, temperature, estimate, bandwidth, start)

    @functools.cache
    def from_all(basis: LinearBasis) -> np.ndarray:
        return coefficients(basis, blocks.sum(0))

    def fit_from_all(basis: LinearBasis, counts: np.ndarray) -> Row:
        return basis.arrays(coefficients(basis, counts, from_all(basis)))

    if options.form in ("fourier", "periodic"):
        make = functools.cache(fourier_basis if options.form == "fourier" else periodic_basis)
        order, chosen_by = options.order, {"order_chosen_by": "configuration"}
        if order is None:
            formula = FORMS[options.form].formula
            order, chosen_by = choose_order(
                name, lambda x, p: formula(x, p, {}),
                lambda counts, n: fit_from_all(make(n), counts), 2,
                blocks, centres, temperature, options.largest_order, options.order_by,
            )  # fmt: skip
        basis = make(order)
        notes |= {"order": order, **chosen_by}
    elif options.form == "spline":
        basis = spline_basis(name, *sampled_range(blocks.sum(0), centres), options.intervals)
    else:
        basis = {"harmonic": harmonic_basis, "quartic": quartic_basis}[options.form]()
    return RowFit(functools.partial(fit_from_all, basis), basis, basis.settings, notes)


def soft_sphere(counts: np.ndarray, centres: np.ndarray, options: RepulsionConfig) -> Row:
    """Return eps as configured, and sigma: as configured or the low quantile of the counted distances."""
    sigma = options.sigma
    if sigma is None:
        sigma = float(np.interp(options.quantile, np.cumsum(counts) / counts.sum(), centres))
    return {"epsilon": np.asarray(options.epsilon), "sigma": np.asarray(sigma)}


def bootstrap(row_fit: Callable[[np.ndarray], Row], rows: Sequence[np.ndarray], config: PriorConfig) -> Row:
    """Return standard errors by resampling whole blocks of trajectories, shaped like the arrays; {} below two resamples or blocks."""
    if config.bootstrap_samples < 2 or rows[0].any(1).sum() < 2:
        return {}
    random = np.random.default_rng(config.seed)
    n_blocks = len(rows[0])
    samples = []
    for _ in range(config.bootstrap_samples):
        times = np.bincount(random.integers(0, n_blocks, n_blocks), minlength=n_blocks)
        drawn = [times @ counts for counts in rows]
        samples.append(stack_rows([row_fit(some if some.any() else counts.sum(0)) for some, counts in zip(drawn, rows, strict=True)]))
    return spread(samples)


def spread(samples: Sequence[Row], before: Mapping[str, np.ndarray] | None = None) -> Row:
    """Return the standard deviation over resamples of each parameter, on the circle for `phases` and `centres`.

    before: errors of an earlier fit, which stay those of parameters that no resample moved. Without one these have none: they
    were configured, not fitted.
    """
    errors: Row = {}
    for key in samples[0]:
        values = np.stack([sample[key] for sample in samples])
        if not np.ptp(values, axis=0).any():
            errors |= {key: before[key]} if before and key in before else {}
            continue
        if key in ("phases", "centres"):
            values = np.angle(np.exp(1j * (values - np.angle(np.exp(1j * values).mean(0)))))
        errors[key] = values.std(0, ddof=1)
    return errors


def stack_rows(rows: Sequence[Row]) -> Row:
    """Return parameters with a leading row axis, float64."""
    return {key: np.stack([np.asarray(row[key]) for row in rows]).astype(np.float64) for key in rows[0]}
