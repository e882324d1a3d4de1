"""One page per prior: what the data say, what the fit says, and the potential that does it; heat maps by residue."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.atomic import atomic_file
from cg_data.errors import UserError, require
from cg_data.units import thermal_energy
from cg_priors.boltzmann import jacobian
from cg_priors.divergence import boltzmann_probabilities, coarse, js_divergence
from cg_priors.forms import FORMS
from cg_priors.histogram import RANGES, Histogram, sampled_range
from cg_priors.keys import KEY_COLUMNS, POOLED, row_lookup
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


def plot_prior(path: Path | str, prior: PriorParameters, histograms: Mapping[float, dict[str, Histogram]] | None = None) -> list[Path]:
    """Write a page of plots of each temperature's pooled rows, and one of heat maps where there are residue rows.

    histograms: temperature in kelvin -> those of the data that its block was fitted on, or others to compare with; blocks without
    are not drawn. Without any, potentials alone are drawn, of every block. The format is that of the suffix. One page has the name
    `path`; of several, `prior.png` becomes `prior-320K.png` and so on. Returns the files written.
    """
    path = Path(path)
    check_plots(path)
    blocks = {block.temperature_kelvin: block for block in (prior, *prior.others)}
    drawn = [blocks[temperature] for temperature in sorted(blocks) if histograms is None or temperature in histograms]
    written: list[Path] = []
    for block in drawn:
        page = path if len(drawn) == 1 else path.with_stem(f"{path.stem}-{block.temperature_kelvin:g}K")
        written += _plot_block(page, block, {} if histograms is None else histograms[block.temperature_kelvin])
    return written


def check_plots(path: Path) -> None:
    """Raise `UserError` where plots cannot be written to `path`: before a long fit, not after it."""
    require(path.suffix.lstrip(".") in ("png", "pdf", "svg"), f"{path}: expected a name ending in .png, .pdf or .svg: rename the plot")
    require(not path.is_dir(), f"{path}: expected a file, found a folder: choose another name for the plot")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError("plots need matplotlib, which is not installed: pip install 'cg-priors[plots]'") from None


def wildcard_counts(prior: PriorParameters, name: str, histogram: Histogram) -> dict[str, np.ndarray]:
    """Return the [n_bins] counts that each row of a term but those of residues was fitted on: without bonds before proline, they alone."""
    counts = histogram.counts.sum(0)
    rows = [row for row in prior.terms[name].rows if POOLED in row]
    if len(rows) == 1:
        return {rows[0]: counts.sum(0)}
    lookup = row_lookup(name, rows, prior.species_names)
    chosen = np.array([lookup[tuple(prior.species_names.index(part) for part in key.split("-"))] for key in histogram.keys], int)
    return {row: counts[chosen == index].sum(0) for index, row in enumerate(rows)}


def _plot_block(path: Path, prior: PriorParameters, histograms: Mapping[str, Histogram]) -> list[Path]:
    from matplotlib.figure import Figure

    panels = [(name, row) for name, term in prior.terms.items() for row in term.rows if POOLED in row]
    figure = Figure(figsize=(10, 2.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 2, squeeze=False)
    for pair, (name, row) in zip(axes, panels, strict=True):
        counts = wildcard_counts(prior, name, histograms[name])[row] if name in histograms else None
        _draw_row(pair[0], pair[1], prior, name, row, counts)
    method = prior.provenance.get("method", "imported")
    figure.suptitle(f"Prior at {prior.temperature_kelvin:g} K ({method}; {prior.provenance.get('n_frames', '?')} frames)", fontsize=12)
    written = [path]
    _save(figure, path)
    keyed = [name for name in prior.terms if len(prior.terms[name].rows) > 2]
    if keyed:
        written.append(path.with_stem(path.stem + "-residues"))
        _save(_heat_maps(prior, keyed, Figure), written[-1])
    return written


def _draw_row(left: Any, right: Any, prior: PriorParameters, name: str, row: str, counts: np.ndarray | None) -> None:
    """Draw one row of a term: densities on the left axis, energies on the right; counts [n_bins] of the data, None without."""
    term = prior.terms[name]
    index = term.rows.index(row)
    low, high, bins = RANGES[name]
    x = low + (np.arange(bins) + 0.5) * (high - low) / bins
    p = {key: np.asarray(value, np.float64)[index : index + 1] for key, value in prior.arrays[name].items()}
    energy = FORMS[term.form].formula(x, p, term.settings)
    unit = np.degrees(1) if name in ("angle", "dihedral") else 1.0
    counts = None if counts is None or not counts.any() else counts
    sampled = (float(term.statistics["low"][index]), float(term.statistics["high"][index])) if "low" in term.statistics else (low, high)
    if name in BONDED:
        _draw_density(left, name, x * unit, counts, energy, prior.temperature_kelvin, jacobian(name, x))
        if name == "bond":
            shown = (*sampled, *sampled_range(counts, x)) if counts is not None else sampled
            for axis in (left, right):
                axis.set_xlim(min(shown) - 0.3, max(shown) + 0.3)
        energy = energy - energy[(x >= sampled[0]) & (x <= sampled[1])].min()
        right.axvspan(sampled[0] * unit, sampled[1] * unit, facecolor=RANGE, edgecolor=DATA, lw=0.6, zorder=0, label="sampled range")
        if counts is not None:
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
    left.set_title(name.replace("_", " ") + ("" if row == POOLED else f", {row}"), loc="left", fontsize=10)


def _draw_density(
    axis: Any, name: str, x: np.ndarray, counts: np.ndarray | None, energy: np.ndarray, temperature: float, weights: np.ndarray
) -> None:
    fitted = boltzmann_probabilities(energy, weights, temperature)
    if counts is not None:
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
