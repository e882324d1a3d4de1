"""Figures, legible in grey: lines differ by dash, marks by shape; axes carry units and titles the numbers of frames."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cg_data.contracts import Array

if TYPE_CHECKING:
    from cg_eval.ensemble import EnsembleReport
    from cg_eval.force_report import ForceSplit
    from cg_eval.scaling import Scaling
    from cg_eval.simulation import Simulation

COLOURS = ("#0b3c5d", "#d1495b", "#7f8c8d", "#2e8b57")
CHARACTERS_PER_INCH = 13
"""Of a caption."""
DASHES = ("-", "--", ":", "-.")
OUTLINES = (*COLOURS[:2], "black", COLOURS[3])
LABELS = {
    "bond": "bond / A",
    "angle": "angle / rad",
    "dihedral": "dihedral / rad",
    "rg": "radius of gyration / A",
    "end_to_end": "end-to-end distance / A",
    "rmsd": "CA RMSD to native / A",
    "q": "fraction of native contacts",
    "clashes": "clashes per frame",
    "helicity": "helicity",
    "gdt_ts": "GDT-TS to native",
    "tm_score": "TM-score to native",
    "lddt_ca": "lDDT-CA to native",
    "tica_1": "slowest coordinate (TICA 1)",
    "tica_2": "second slowest (TICA 2)",
}


def new_figure(rows: int, columns: int, width: float = 3.4, height: float = 2.8) -> tuple[Any, np.ndarray]:
    """Return (figure, axes [rows, columns]) that draws to files only."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(width * columns, height * rows), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def finish(figure: Any, path: Path, caption: str, size: int = 9) -> None:
    """Write a figure as PNG to `path` and as PDF beside it, under a caption that says how many frames and trajectories."""
    figure.suptitle(textwrap.fill(caption, int(CHARACTERS_PER_INCH * figure.get_size_inches()[0])), fontsize=size)
    figure.savefig(path)
    figure.savefig(path.with_suffix(".pdf"))


def plot_simulation(simulation: "Simulation", path: Path) -> None:
    """Draw energy, kinetic temperature and radius of gyration of every replica, and the survival curve, over time."""
    from cg_eval.observables import radius_of_gyration

    figure, axes = new_figure(1, 4)
    n_saved, n_replicas, n_beads, _ = simulation.positions.shape
    size = radius_of_gyration(simulation.positions.reshape(-1, n_beads, 3)).reshape(n_saved, n_replicas)
    panels = (
        (simulation.potential_energy, "potential energy / kcal/mol"),
        (simulation.kinetic_temperature, "kinetic temperature / K"),
        (size, "radius of gyration / A"),
    )
    for axis, (values, label) in zip(axes[0], panels, strict=False):
        shown = np.where(simulation.valid, values, np.nan)
        axis.plot(simulation.time_ps, shown, color=COLOURS[2], linewidth=0.6, alpha=0.7)
        alive = np.maximum(simulation.valid.sum(axis=1), 1)
        mean = np.where(simulation.valid.any(axis=1), np.where(simulation.valid, values, 0.0).sum(axis=1) / alive, np.nan)
        axis.plot(simulation.time_ps, mean, color=COLOURS[0], linewidth=1.6)
        axis.set_ylabel(label, fontsize=9)
    axes[0, 3].step(simulation.time_ps, simulation.survival(), where="post", color=COLOURS[0], linewidth=1.6)
    axes[0, 3].set_ylim(-0.05, 1.05)
    axes[0, 3].set_ylabel("replicas in the physical range", fontsize=9)
    for axis in axes[0]:
        axis.set_xlabel("time / ps", fontsize=9)
    finish(
        figure, path, f"{n_saved} frames of each of {n_replicas} replicas of {n_beads} beads; thick: mean of those in the physical range"
    )


def plot_force_scatter(split: "ForceSplit", path: Path) -> None:
    """Draw predicted against reference force components of each model, as a density of points."""
    samples = {name: vectors.ravel() for name, vectors in split.samples.items()}
    models = [name for name in samples if name not in ("reference", "zero")]
    figure, axes = new_figure(1, max(len(models), 1), 3.6, 3.4)
    limit = float(np.percentile(np.abs(samples["reference"]), 99.8))
    for axis, model in zip(axes[0], models, strict=False):
        axis.hexbin(
            samples["reference"], samples[model], gridsize=60, extent=(-limit, limit, -limit, limit), bins="log", cmap="Greys", mincnt=1
        )
        axis.plot([-limit, limit], [-limit, limit], color=COLOURS[1], linewidth=1, linestyle="--")
        axis.set_xlabel("reference force / kcal/mol/A", fontsize=9)
        axis.set_ylabel(f"{model} force / kcal/mol/A", fontsize=9)
        values = split.rows[model]["all"]
        axis.set_title(f"{model}: RMSE {values['rmse']:.2f}, r {values['pearson']:.3f}", fontsize=9)
        axis.set_aspect("equal")
    finish(figure, path, f"{split.name}: {len(samples['reference'])} components of {split.counted()}")


def plot_force_residuals(split: "ForceSplit", path: Path) -> None:
    """Draw the distributions of residuals and of force magnitudes of each model."""
    samples = split.samples
    figure, axes = new_figure(1, 2, 4.2, 3.2)
    limit = float(np.percentile(np.abs(samples["reference"]), 99.5))
    edges = np.linspace(-limit, limit, 81)
    for number, model in enumerate(name for name in samples if name != "reference"):
        residual = np.clip((samples[model] - samples["reference"]).ravel(), -limit, limit)
        _outline(axes[0, 0], residual, edges, model, number)
    axes[0, 0].set_xlabel("predicted - reference component / kcal/mol/A", fontsize=9)
    magnitudes = {name: np.linalg.norm(values, axis=1) for name, values in samples.items() if name != "zero"}
    edges = np.linspace(0, float(np.percentile(magnitudes["reference"], 99.5)), 61)
    for number, (name, values) in enumerate(magnitudes.items()):
        _outline(axes[0, 1], np.minimum(values, edges[-1]), edges, name, number)
    axes[0, 1].set_xlabel("force magnitude / kcal/mol/A", fontsize=9)
    for axis in axes[0]:
        axis.set_ylabel("density", fontsize=9)
        axis.legend(fontsize=8, frameon=False)
    finish(figure, path, f"{split.name}: {split.counted()}; values beyond the range in the end bins")


def plot_force_groups(split: "ForceSplit", prefix: str, path: Path, label: str) -> None:
    """Draw the RMSE of each model over the groups whose names begin with `prefix`, such as residue types."""
    models = list(split.rows)
    groups = [name for name in split.rows[models[0]] if name.startswith(prefix)]
    figure, axes = new_figure(1, 1, max(3.4, 0.36 * len(groups) + 1.5), 3.0)
    axis, places = axes[0, 0], np.arange(len(groups))
    for number, model in enumerate(models):
        heights = [split.rows[model][group]["rmse"] for group in groups]
        axis.plot(places, heights, marker="osv^D"[number], linestyle="none", color=OUTLINES[number % 4], label=model, markersize=5)
    axis.set_xticks(places, [group.removeprefix(prefix) for group in groups], rotation=90 if len(groups) > 6 else 0)
    axis.set_xlim(-0.5, len(groups) - 0.5)
    axis.set_ylim(0, 1.1 * max(split.rows[model][group]["rmse"] for model in models for group in groups))
    axis.set_xlabel(label, fontsize=9)
    axis.set_ylabel("RMSE / kcal/mol/A", fontsize=9)
    axis.grid(axis="y", linewidth=0.3)
    axis.legend(fontsize=8, frameon=False, ncols=len(models), loc="lower right")
    finish(figure, path, f"{split.name}: {split.counted()}")


def plot_force_terms(split: "ForceSplit", path: Path) -> None:
    """Draw the rms force of each energy term, and the mean square error of the part judged without it."""
    names = list(split.terms)
    figure, axes = new_figure(1, 2, 3.6, 0.35 * len(names) + 1.4)
    places = np.arange(len(names))
    whole = split.rows[list(split.rows)[-1]]["all"]["mse"]
    axes[0, 0].barh(places, [split.terms[name]["rms"] for name in names], color="0.75", edgecolor="black", height=0.6)
    axes[0, 1].barh(places, [split.terms[name]["mse_without"] for name in names], color="0.75", edgecolor="black", height=0.6)
    axes[0, 1].axvline(whole, color="black", linestyle="--", linewidth=1)
    axes[0, 1].set_title("dashed: with all terms", fontsize=9)
    for axis, label in zip(axes[0], ("rms force / kcal/mol/A", "MSE without the term / (kcal/mol/A)$^2$"), strict=True):
        axis.set_yticks(places, names)
        axis.set_xlabel(label, fontsize=9)
    finish(figure, path, f"{split.name}: {split.counted()}")


def plot_calibration(report: "EnsembleReport", path: Path) -> None:
    """Draw error against uncertainty: bins of force vectors, the fitted line, and equality."""
    figure, axes = new_figure(1, 1, 4.4, 3.6)
    axis = axes[0, 0]
    top = 1.05 * float(report.uncertainty.max())
    x = np.linspace(0, top, 100)
    axis.plot(x, x, color=COLOURS[2], linestyle=":", label="error = uncertainty")
    fitted = np.sqrt(np.maximum(report.slope * x**2 + report.offset, 0))
    axis.plot(x, fitted, color=COLOURS[0], linestyle="-", label=f"error$^2$ = {report.slope:.3g} uncertainty$^2$ + {report.offset:.3g}")
    axis.plot(report.uncertainty, report.error, color="black", marker="o", linestyle="none", label="equal numbers of force vectors")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("uncertainty of a component / kcal/mol/A", fontsize=9)
    axis.set_ylabel("rms error of a component / kcal/mol/A", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    finish(figure, path, report.caption())


def plot_scaling(scaling: "Scaling", path: Path) -> None:
    """Draw speed-up and efficiency over devices: measured, the fitted laws of Amdahl and Gustafson, and the ideal.

    Measured speed-ups are over the fewest devices; the laws are drawn over the same, so that all meet there.
    """
    figure, axes = new_figure(1, 2, 4.2, 3.4)
    fewest = min(scaling.devices)
    n = np.linspace(fewest, max(scaling.devices), 200)
    serial, scaled = scaling.amdahl.estimate, scaling.gustafson.estimate
    laws = (
        (n, ":", COLOURS[2], "ideal"),
        (1 / (serial + (1 - serial) / n), "-", COLOURS[0], f"Amdahl, serial {scaling.amdahl}"),
        (n - scaled * (n - 1), "--", COLOURS[1], f"Gustafson, serial {scaling.gustafson}"),
    )
    for over_one, dash, colour, label in laws:
        speedup = over_one * fewest / over_one[0]
        axes[0, 0].plot(n, speedup, color=colour, linestyle=dash, label=label)
        axes[0, 1].plot(n, 100 * speedup / n, color=colour, linestyle=dash)
    axes[0, 0].plot(scaling.devices, scaling.speedup, marker="o", linestyle="none", color="black", label="measured")
    axes[0, 1].plot(scaling.devices, 100 * scaling.efficiency, marker="o", linestyle="none", color="black")
    axes[0, 1].set_ylim(0, 110)
    for axis, label in zip(axes[0], ("speed-up", "efficiency / %"), strict=True):
        axis.set_xlabel("devices", fontsize=9)
        axis.set_ylabel(label, fontsize=9)
    axes[0, 0].legend(fontsize=6.5, frameon=False)
    finish(figure, path, scaling.caption())


def _outline(axis: Any, values: Array, edges: np.ndarray, label: str, number: int) -> None:
    density, _ = np.histogram(values, bins=edges, density=True)
    centres = 0.5 * (edges[1:] + edges[:-1])
    axis.step(
        centres,
        density,
        where="mid",
        color=OUTLINES[number % 4],
        linestyle=DASHES[number % 4],
        label=label,
        linewidth=1.3,
    )
