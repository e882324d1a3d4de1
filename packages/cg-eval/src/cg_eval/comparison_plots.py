"""Figures of a comparison: distributions, free energies, surfaces, contacts, fluctuations, survival."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cg_data.contracts import Array
from cg_eval.distributions import free_energy
from cg_eval.plots import COLOURS, DASHES, LABELS, finish, new_figure

if TYPE_CHECKING:
    from cg_eval.comparison import Comparison, ObservableComparison

COLUMNS = 4
HIGHEST_KCAL_PER_MOL = 4.0
"""Free energies above it are white: a few frames decide them."""


def plot_distributions(comparison: "Comparison", path: Path) -> None:
    """Draw each observable's density, model over reference."""
    figure, axes = _panels(len(comparison.rows))
    for axis, row in zip(axes, comparison.rows, strict=True):
        width = row.bins.edges[1] - row.bins.edges[0]
        for counts, label, number in ((row.reference_counts, "reference", 0), (row.model_counts, "model", 1)):
            density = counts / max(counts.sum(), 1) / width
            axis.step(row.bins.centres, density, where="mid", color=COLOURS[number], linestyle=DASHES[number], label=label, linewidth=1.4)
        axis.fill_between(row.bins.centres, row.reference_counts / row.reference_counts.sum() / width, step="mid", color="0.85")
        axis.set_xlabel(LABELS.get(row.observable, row.observable), fontsize=9)
        axis.set_ylabel("density" if row.unit == "1" else f"density / (1/{row.unit})", fontsize=9)
        axis.set_title(f"JS {row.divergence.estimate:.3f}, noise {row.noise:.3f} nat", fontsize=9)
    axes[0].legend(fontsize=8, frameon=False)
    finish(figure, path, comparison.caption())


def plot_free_energies(comparison: "Comparison", path: Path) -> None:
    """Draw each observable's free energy with its Jacobian taken out; grey band: between the two halves of the reference."""
    figure, axes = _panels(len(comparison.rows))
    for axis, row in zip(axes, comparison.rows, strict=True):
        halves = [_free_energy(row, counts, comparison) for counts in row.half_counts]
        axis.fill_between(row.bins.centres, np.minimum(*halves), np.maximum(*halves), color="0.8", label="halves of the reference")
        for counts, label, number in ((row.reference_counts, "reference", 0), (row.model_counts, "model", 1)):
            energy = _free_energy(row, counts, comparison)
            axis.plot(
                row.bins.centres, energy, color=COLOURS[number], linestyle=DASHES[number], marker="o.s"[2 * number], markersize=2.2,
                linewidth=1.2, label=label,
            )  # fmt: skip
        axis.set_xlabel(LABELS.get(row.observable, row.observable), fontsize=9)
        axis.set_ylabel("free energy / kcal/mol", fontsize=9)
        axis.set_ylim(-0.2, 5.0)
    axes[0].legend(fontsize=7, frameon=False)
    finish(figure, path, comparison.caption())


def plot_surfaces(comparison: "Comparison", path: Path) -> None:
    """Draw free-energy surfaces, reference and model side by side: darker is lower, contours every kcal/mol."""
    n = len(comparison.surfaces)
    figure, axes = new_figure(n, 2, 3.6, 3.0)
    levels = np.arange(0.0, HIGHEST_KCAL_PER_MOL + 0.1, 0.5)
    filled = None
    for row, surface in zip(axes, comparison.surfaces, strict=True):
        for axis, energy, label in ((row[0], surface.reference, "reference"), (row[1], surface.model, "model")):
            shown = np.where(np.isfinite(energy), energy, np.nan).T
            x, y = surface.x_bins.centres, surface.y_bins.centres
            filled = axis.pcolormesh(x, y, shown, cmap="gray", vmin=0, vmax=HIGHEST_KCAL_PER_MOL, shading="nearest")
            smooth = np.where(np.isfinite(shown), shown, HIGHEST_KCAL_PER_MOL + 1)
            axis.contour(x, y, smooth, levels=levels[2::2], colors=COLOURS[1], linewidths=0.6)
            axis.set_xlabel(_label(surface.x, surface.x_unit), fontsize=9)
            axis.set_ylabel(_label(surface.y, surface.y_unit), fontsize=9)
            axis.set_title(label, fontsize=9)
        row[1].set_title(f"model: JS {surface.divergence.estimate:.3f}, noise {surface.noise:.3f} nat", fontsize=9)
    bar = figure.colorbar(filled, ax=axes, shrink=0.6)
    bar.set_label("free energy / kcal/mol", fontsize=9)
    finish(figure, path, comparison.caption())


def plot_contacts(comparison: "Comparison", path: Path) -> None:
    """Draw the contact map, reference above and model below the diagonal, and their difference."""
    contacts = comparison.contacts
    figure, axes = new_figure(1, 2, 4.0, 3.6)
    n_beads = len(contacts.reference)
    extent = (0.5, n_beads + 0.5, 0.5, n_beads + 0.5)
    image = axes[0, 0].imshow(halves(contacts.reference, contacts.model), origin="lower", cmap="Greys", vmin=0, vmax=1, extent=extent)
    axes[0, 0].plot(extent[:2], extent[2:], color="0.5", linewidth=0.6)
    axes[0, 0].set_title("upper left: reference; lower right: model", fontsize=9)
    figure.colorbar(image, ax=axes[0, 0], shrink=0.8).set_label("fraction of frames within 8 A", fontsize=9)
    change = contacts.model - contacts.reference
    image = axes[0, 1].imshow(change, origin="lower", cmap="RdGy", vmin=-1, vmax=1, extent=extent)
    strong = np.argwhere(np.abs(change) > 0.25) + 1
    if len(strong):
        signs = change[strong[:, 0] - 1, strong[:, 1] - 1] > 0
        for chosen, marker in ((signs, "+"), (~signs, "_")):
            axes[0, 1].plot(strong[chosen, 1], strong[chosen, 0], marker, color="black", markersize=3)
    axes[0, 1].set_title(f"model - reference\nmean |difference| {contacts.deviation:.3f}, noise {contacts.noise:.3f}", fontsize=9)
    figure.colorbar(image, ax=axes[0, 1], shrink=0.8).set_label("difference (+ or - beyond 0.25)", fontsize=9)
    for axis in axes[0]:
        axis.set_xlabel("residue", fontsize=9)
        axis.set_ylabel("residue", fontsize=9)
        axis.locator_params(integer=True)
    finish(figure, path, comparison.caption())


def halves(upper_left: Array, lower_right: Array) -> np.ndarray:
    """Return [n, n]: two symmetric maps in one, as an image whose rows go upwards shows them."""
    lower = np.tril(np.ones(np.shape(upper_left), bool))
    return np.where(lower, np.asarray(upper_left), np.asarray(lower_right))


def plot_flexibility(comparison: "Comparison", path: Path) -> None:
    """Draw the fluctuation of each residue."""
    found = comparison.flexibility
    figure, axes = new_figure(1, 1, max(4.5, 0.07 * len(found.model) + 3), 3.0)
    axis, residues = axes[0, 0], np.arange(1, len(found.model) + 1)
    axis.fill_between(residues, found.low, found.high, color="0.85", label="model, 95 % over replicas")
    axis.plot(residues, found.reference, color=COLOURS[0], linestyle="-", marker="o", markersize=3, label="reference")
    axis.plot(residues, found.model, color=COLOURS[1], linestyle="--", marker="s", markersize=3, label="model")
    if found.stored is not None:
        axis.plot(residues, found.stored, color="black", linestyle=":", marker="^", markersize=3, label="stored in mdCATH")
    axis.set_ylim(bottom=0)
    axis.locator_params(axis="x", integer=True)
    axis.set_xlabel("residue", fontsize=9)
    axis.set_ylabel("RMSF of CA / A", fontsize=9)
    axis.set_title(f"rms difference {found.deviation:.2f} A, noise {found.noise:.2f} A", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    finish(figure, path, comparison.caption())


def plot_survival(comparison: "Comparison", path: Path) -> None:
    """Draw the fraction of replicas inside the physical range over time."""
    survival = comparison.survival
    assert survival is not None
    figure, axes = new_figure(1, 1, 4.5, 3.0)
    axis = axes[0, 0]
    axis.fill_between(survival.time_ps, survival.low, survival.high, step="post", color="0.85", label="95 % over replicas")
    axis.step(survival.time_ps, survival.fraction, where="post", color=COLOURS[0], label="model")
    axis.set_ylim(-0.05, 1.05)
    axis.set_xlabel("time / ps", fontsize=9)
    axis.set_ylabel("replicas in the physical range", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    finish(figure, path, survival.caption(comparison.domain))


def _panels(number: int) -> tuple[Any, list[Any]]:
    figure, axes = new_figure(-(-number // COLUMNS), COLUMNS, 3.2, 2.6)
    flat = list(axes.ravel())
    for axis in flat[number:]:
        axis.set_visible(False)
    return figure, flat[:number]


def _free_energy(row: "ObservableComparison", counts: np.ndarray, comparison: "Comparison") -> np.ndarray:
    if not counts.sum():
        return np.full(len(counts), np.nan)
    return free_energy(counts, row.bins, comparison.temperature_kelvin, row.jacobian)


def _label(name: str, unit: str) -> str:
    return LABELS.get(name, f"{name.replace('_', ' ')} / {unit}")
