"""One page per prior: what the data say, what the fit says, and the potential that does it; heat maps by residue."""

from pathlib import Path
from typing import Any

import numpy as np

from cg_data.atomic import atomic_file
from cg_data.errors import UserError
from cg_data.units import thermal_energy
from cg_priors.boltzmann import jacobian
from cg_priors.divergence import boltzmann_probabilities, coarse, js_divergence
from cg_priors.forms import FORMS
from cg_priors.histogram import RANGES, Histogram
from cg_priors.keys import KEY_COLUMNS
from cg_priors.parameters import BONDED, PriorParameters

DATA, FIT, RANGE = "#7a7a7a", "#c0392b", "#dfe8f3"
LABELS = {
    "bond": "CA-CA distance (Å)",
    "angle": "CA-CA-CA angle (degrees)",
    "dihedral": "CA dihedral (degrees)",
    "repulsion": "distance, 6 or more residues apart (Å)",
    "excluded_volume": "distance, 2 to 5 residues apart (Å)",
}
LARGEST_ENERGY = 12.0


def plot_prior(path: Path | str, prior: PriorParameters, histograms: dict[str, Histogram] | None = None) -> list[Path]:
    """Write a page of plots for each temperature block's pooled rows, and one of heat maps where there are residue rows.

    histograms: of the data that `prior` was fitted on, or others to compare with; without them potentials alone are drawn. The
    format is that of the suffix. Returns the files written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib, which is not installed: pip install 'cg-priors[plots]'") from None
    path = Path(path)
    if path.suffix.lstrip(".") not in ("png", "pdf", "svg"):
        raise UserError(f"{path}: expected a name ending in .png, .pdf or .svg: rename the plot")
    names = list(prior.terms)
    figure = Figure(figsize=(10, 2.6 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        _draw_term(row[0], row[1], prior, name, None if histograms is None else histograms.get(name))
    method = prior.provenance.get("method", "imported")
    figure.suptitle(f"Prior at {prior.temperature_kelvin:g} K ({method}; {prior.provenance.get('n_frames', '?')} frames)", fontsize=12)
    written = [path]
    _save(figure, path)
    keyed = [name for name in names if len(prior.terms[name].rows) > 2]
    if keyed:
        written.append(path.with_stem(path.stem + "-residues"))
        _save(_heat_maps(prior, keyed, Figure), written[-1])
    return written


def _draw_term(left: Any, right: Any, prior: PriorParameters, name: str, histogram: Histogram | None) -> None:
    term = prior.terms[name]
    low, high, bins = RANGES[name]
    x = low + (np.arange(bins) + 0.5) * (high - low) / bins
    p = {key: np.asarray(value, np.float64)[:1] for key, value in prior.arrays[name].items()}
    energy = FORMS[term.form].formula(x, p, term.settings)
    unit = np.degrees(1) if name in ("angle", "dihedral") else 1.0
    counts = None if histogram is None else histogram.counts.sum((0, 1)).astype(float)
    sampled = (float(term.statistics["low"][0]), float(term.statistics["high"][0])) if "low" in term.statistics else (low, high)
    if name in BONDED:
        _draw_density(left, name, x * unit, counts, energy, prior.temperature_kelvin, jacobian(name, x))
        if name == "bond":
            left.set_xlim(sampled[0] - 0.3, sampled[1] + 0.3)
            right.set_xlim(sampled[0] - 0.3, sampled[1] + 0.3)
        energy = energy - energy[(x >= sampled[0]) & (x <= sampled[1])].min()
        right.axvspan(sampled[0] * unit, sampled[1] * unit, facecolor=RANGE, edgecolor=DATA, lw=0.6, zorder=0, label="sampled range")
        if counts is not None and counts.sum():
            small, centres = coarse(name, counts, x)
            free = -thermal_energy(prior.temperature_kelvin) * np.log(np.where(small > 0, small / jacobian(name, centres), np.nan))
            right.plot(centres * unit, free - np.nanmin(free), ".", color=DATA, ms=4, label="$-k_BT\\,\\ln(p/J)$ of the data")
        right.set_ylim(-0.5, LARGEST_ENERGY)
    else:
        if counts is not None:
            small, centres = coarse(name, counts, x)
            left.stairs(small / small.sum() / (centres[1] - centres[0]), _edges(centres), fill=True, color=DATA, alpha=0.5, label="data")
        for axis in (left, right):
            axis.axvline(float(p["sigma"][0]), color="black", ls=":", lw=1, label=f"sigma = {float(p['sigma'][0]):.2f} Å")
            axis.set_xlim(3, 10)
        right.set_ylim(-0.1, 5)
    right.plot(x * unit, energy, color=FIT, label=f"{term.form}" + (f", weight {term.weight:g}" if term.weight != 1 else ""))
    left.set_ylabel("probability density")
    right.set_ylabel("energy (kcal/mol)")
    for axis in (left, right):
        axis.set_xlabel(LABELS[name])
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    left.set_title(name.replace("_", " "), loc="left", fontsize=10)


def _draw_density(
    axis: Any, name: str, x: np.ndarray, counts: np.ndarray | None, energy: np.ndarray, temperature: float, weights: np.ndarray
) -> None:
    fitted = boltzmann_probabilities(energy, weights, temperature)
    if counts is not None and counts.sum():
        small, centres = coarse(name, counts, x)
        axis.stairs(small / small.sum() / (centres[1] - centres[0]), _edges(centres), fill=True, color=DATA, alpha=0.5, label="data")
        axis.set_title(f"JS divergence of data and fit {js_divergence(small, coarse(name, fitted, x)[0]):.4f}", loc="right", fontsize=9)
    axis.plot(x, fitted / fitted.sum() / (x[1] - x[0]), color=FIT, label="Boltzmann density of the fit")


def _edges(centres: np.ndarray) -> np.ndarray:
    half = 0.5 * (centres[1] - centres[0])
    return np.append(centres - half, centres[-1] + half)


def _heat_maps(prior: PriorParameters, names: list[str], figure_class: Any) -> Any:
    """Return a figure with, for each keyed term, maps over the residue rows of what characterises a row; blank: the pooled row."""
    widths = [6.5 if len(KEY_COLUMNS[name]) == 2 else 2.5 for name in names]
    n_maps = max(len(_characteristics(prior, name, 0)) for name in names)
    figure = figure_class(figsize=(sum(widths), 6 * n_maps), layout="constrained")
    axes = figure.subplots(n_maps, len(names), squeeze=False, gridspec_kw={"width_ratios": widths})
    for name, column in zip(names, axes.T, strict=True):
        rows = {row: _characteristics(prior, name, index) for index, row in enumerate(prior.terms[name].rows) if "*" not in row}
        for axis in column:
            axis.set_visible(False)
        for axis, what in zip(column, _characteristics(prior, name, 0), strict=False):
            axis.set_visible(True)
            _draw_map(figure, axis, prior, name, what, {row: values[what] for row, values in rows.items()})
    return figure


def _draw_map(figure: Any, axis: Any, prior: PriorParameters, name: str, what: str, values: dict[str, float]) -> None:
    species = list(prior.species_names)
    wide = len(KEY_COLUMNS[name]) == 2
    table = np.full((len(species), len(species) if wide else 1), np.nan)
    for row, value in values.items():
        parts = row.split("-")
        table[species.index(parts[0]), species.index(parts[1]) if wide else 0] = value
    shown = axis.imshow(table, cmap="viridis", aspect="auto")
    axis.set_yticks(range(len(species)), species, fontsize=7)
    axis.set_xticks(range(len(species)) if wide else [], species if wide else [], fontsize=7, rotation=90)
    figure.colorbar(shown, ax=axis, label=f"{what} ({'degrees' if name in ('angle', 'dihedral') else 'Å'})")
    axis.set_ylabel("first residue" if wide else "central residue")
    axis.set_xlabel("second residue" if wide else "")
    axis.set_title(f"{name.replace('_', ' ')}, {len(values)} rows\n(blank: pooled)", fontsize=10)


def _characteristics(prior: PriorParameters, name: str, index: int) -> dict[str, float]:
    """Return sigma of a pair's row; where a bonded row's energy is lowest, and how far its Boltzmann density spreads."""
    if "sigma" in prior.arrays[name]:
        return {"sigma": float(prior.arrays[name]["sigma"][index])}
    low, high, _ = RANGES[name]
    x = np.linspace(low, high, 1000)
    term = prior.terms[name]
    p = {key: np.asarray(value, np.float64)[index : index + 1] for key, value in prior.arrays[name].items()}
    energy = FORMS[term.form].formula(x, p, term.settings)
    density = boltzmann_probabilities(energy, jacobian(name, x), prior.temperature_kelvin)
    if name == "dihedral":
        spread = np.sqrt(-2 * np.log(np.abs((density * np.exp(1j * x)).sum())))
    else:
        spread = np.sqrt((density * (x - (density * x).sum()) ** 2).sum())
    unit = 1.0 if name == "bond" else np.degrees(1)
    return {"lowest-energy value": float(x[int(energy.argmin())] * unit), "standard deviation": float(spread * unit)}


def _save(figure: Any, path: Path) -> None:
    with atomic_file(path) as aside:
        figure.savefig(aside, format=path.suffix.lstrip("."), dpi=130)
