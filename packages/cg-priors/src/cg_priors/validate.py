"""Is a prior physical? Checked at fit, at load and at export; a violation is one line."""

import numpy as np

from cg_data.errors import UserError, require
from cg_priors.energy import TERM_KINDS
from cg_priors.forms import FORMS
from cg_priors.keys import POOLED, row_lookup
from cg_priors.parameters import BONDED, PriorParameters, Term

BOND_LENGTH_RANGE = (2.5, 4.5)
LARGEST_BARRIER = 30.0
POSITIVE = ("force_constant", "cis_force_constant", "quartic", "epsilon", "sigma", "widths")
LENGTHS = ("length", "cis_length")
LEAST_COEFFICIENTS = 4
"""Of a cubic spline that is not periodic: one interval."""
REFIT = "correct it, or fit with another form, another order or more frames"
"""Remedy of values that a fit may find."""
AXES = {"bond": (1.0, 7.0), "angle": (0.0, np.pi), "dihedral": (-np.pi, np.pi)}
DEFAULT_RANGES = {"bond": (3.6, 4.1), "angle": (1.5, 2.5), "dihedral": (-np.pi, np.pi)}
"""Sampled ranges assumed where a file states none."""


def check_prior(prior: PriorParameters, where: str) -> None:
    """Raise `UserError` naming the term, the key, the value and the accepted range of the first violation."""
    temperature = prior.temperature_kelvin
    require(
        np.isfinite(temperature) and 1 < temperature < 2000,
        f"{where}: temperature_kelvin: expected 1 to 2000 K, received {temperature}: give the temperature of the data",
    )
    require(len(prior.terms) > 0, f"{where}: terms: expected at least one, received none: fit again")
    require(set(prior.terms) == set(prior.arrays), f"{where}: terms and arrays must have the same names: fit again")
    require(len(set(prior.species_names)) == len(prior.species_names), f"{where}: species: expected distinct names: correct them")
    for name, term in prior.terms.items():
        place = f"{where}: {name}"
        require(name in TERM_KINDS, f"{place}: unknown term; expected one of {', '.join(TERM_KINDS)}: correct its name")
        require(term.form in FORMS, f"{place}: unknown form {term.form!r}; expected one of {', '.join(FORMS)}: correct its name")
        _accept(np.isfinite(term.weight) and term.weight >= 0, place, "weight", term.weight, "0 or more")
        _accept(tuple(term.rows[:1]) == (POOLED,), place, "rows", list(term.rows), "the pooled row '*' first, which unlisted residues use")
        try:
            row_lookup(name, term.rows, prior.species_names)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        _check_settings(term, place, non_bonded=name not in BONDED)
        _check_arrays(term, prior.arrays[name], place)
        _check_statistics(term, place)
        if name in BONDED:
            _check_potential(name, term, prior.arrays[name], place)


def _accept(holds: bool, place: str, key: str, value: object, accepted: str, remedy: str = "correct it or fit again") -> None:
    if not holds:
        shown = f"{value:g}" if isinstance(value, float | np.floating) else " ".join(str(value).split())
        raise UserError(f"{place}: {key} = {shown}: expected {accepted}: {remedy}")


def _check_settings(term: Term, place: str, non_bonded: bool) -> None:
    needed = FORMS[term.form].settings
    for key in needed:
        _accept(key in term.settings, place, f"settings.{key}", "missing", "a number")
        value = term.settings[key]
        _accept(isinstance(value, int | float) and bool(np.isfinite(value)), place, f"settings.{key}", value, "a finite number")
    if "cutoff" in needed:
        low, high = term.settings["switch"], term.settings["cutoff"]
        _accept(0 < low < high <= 30, place, "settings.switch, settings.cutoff", (low, high), "0 < switch < cutoff <= 30 angstrom")
    if term.form == "spline":
        _accept(term.settings["low"] < term.settings["high"], place, "settings.low", term.settings["low"], "less than settings.high")
    if non_bonded:
        _accept(term.form == "soft_sphere", place, "form", term.form, "soft_sphere")


def _check_statistics(term: Term, place: str) -> None:
    for key, values in term.statistics.items():
        values = np.asarray(values)
        _accept(
            values.shape == (len(term.rows),),
            place,
            f"statistics.{key} shape",
            values.shape,
            f"one number for each of {len(term.rows)} rows",
        )
        _accept(bool(np.isfinite(values).all()), place, f"statistics.{key}", values, "finite numbers")
    limits = [key for key in ("low", "high") if key in term.statistics]
    _accept(len(limits) != 1, place, "statistics", ", ".join(term.statistics), "both low and high, or neither")
    if limits:
        for row, low, high in zip(term.rows, term.statistics["low"], term.statistics["high"], strict=True):
            _accept(low <= high, f"{place}: row {row}", "statistics.low", float(low), f"at most statistics.high, {high:g}")


def _check_arrays(term: Term, arrays: dict, place: str) -> None:
    form = FORMS[term.form]
    for key in form.parameters:
        _accept(key in arrays, place, key, "missing", "an array")
        values = np.asarray(arrays[key])
        dimensions = 2 if key in form.vectors else 1
        _accept(values.ndim == dimensions and len(values) == len(term.rows), place, f"{key} shape", values.shape, f"{len(term.rows)} rows")
        for row, value in zip(term.rows, values, strict=True):
            at = f"{place}: row {row}"
            _accept(bool(np.isfinite(value).all()), at, key, value, "finite numbers", REFIT)
            if key in POSITIVE:
                _accept(bool((value > 0).all()), at, key, value, "above 0", REFIT)
            if key in LENGTHS:
                low, high = BOND_LENGTH_RANGE
                _accept(bool((value >= low).all() and (value <= high).all()), at, key, value, f"{low} to {high} angstrom", REFIT)

    lengths = {key: np.shape(arrays[key])[1] for key in form.vectors}
    least = LEAST_COEFFICIENTS if term.form == "spline" and not term.settings["periodic"] else 1
    # One coefficient would silently be broadcast over the others' length.
    _accept(
        len(set(lengths.values())) < 2 and all(length >= least for length in lengths.values()),
        place,
        f"lengths of {', '.join(lengths)}",
        tuple(lengths.values()),
        f"equal lengths of at least {least}" if len(lengths) > 1 else f"at least {least}",
    )


def _check_potential(name: str, term: Term, arrays: dict, place: str) -> None:
    """Check barriers inside the sampled range and confinement outside it, on a fine grid."""
    axis_low, axis_high = AXES[name]
    formula = FORMS[term.form].formula
    for index, row in enumerate(term.rows):
        low, high = DEFAULT_RANGES[name]
        if "low" in term.statistics:
            low, high = float(term.statistics["low"][index]), float(term.statistics["high"][index])
        p = {key: np.asarray(value, np.float64)[index : index + 1] for key, value in arrays.items()}
        inside = np.linspace(low, high, 500)
        energy = formula(inside, p, term.settings)
        barrier = float(energy.max() - energy.min())
        _accept(bool(np.isfinite(energy).all()) and barrier < LARGEST_BARRIER, f"{place}: row {row}", "barrier in the sampled range",
                barrier, f"below {LARGEST_BARRIER:g} kcal/mol", REFIT)  # fmt: skip
        if name == "dihedral":
            continue
        for side, start, end in (("below", low, axis_low), ("above", high, axis_high)):
            outside = np.linspace(start, end, 200)
            climb = np.diff(formula(outside, p, term.settings))
            at = np.degrees(outside) if name == "angle" else outside
            falls = climb < -1e-6
            worst = float(at[int(np.argmax(falls))])
            unit = "degrees" if name == "angle" else "angstrom"
            _accept(
                not falls.any(),
                f"{place}: row {row}",
                f"confinement {side} the sampled range",
                f"falls outward from {worst:.4g} {unit}",
                "an energy that rises outward",
                REFIT,
            )
