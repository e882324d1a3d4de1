"""Figures, legible in grey: lines differ by dash, marks by shape; axes carry units and titles the numbers of frames."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cg_data.contracts import Array

if TYPE_CHECKING:
    from cg_eval.compare import Comparison
    from cg_eval.forces import ForceSplit
    from cg_eval.scaling import Scaling
    from cg_eval.simulate import Simulation

COLOURS = ("#0b3c5d", "#d1495b", "#7f8c8d", "#2e8b57")
DASHES = ("-", "--", ":", "-.")
LABELS = {
    "bond": "bond / A",
    "angle": "angle / rad",
    "dihedral": "dihedral / rad",
    "rg": "radius of gyration / A",
    "end_to_end": "end-to-end distance / A",
    "rmsd": "CA RMSD to native / A",
    "q": "fraction of native contacts",
    "clashes": "clashes per frame",
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


def plot_distributions(comparison: "Comparison", path: Path) -> None:
    """Draw each observable's density, model over reference."""
    columns = 4
    rows = -(-len(comparison.rows) // columns)
    figure, axes = new_figure(rows, columns)
    for axis, row in zip(axes.ravel(), comparison.rows, strict=False):
        width = row.bins.edges[1] - row.bins.edges[0]
        for counts, label, number in ((row.reference_counts, "reference", 0), (row.model_counts, "model", 1)):
            density = counts / max(counts.sum(), 1) / width
            axis.step(row.bins.centres, density, where="mid", color=COLOURS[number], linestyle=DASHES[number], label=label, linewidth=1.4)
        axis.fill_between(
            row.bins.centres, row.reference_counts / max(row.reference_counts.sum(), 1) / width, step="mid", color=COLOURS[0], alpha=0.12
        )
        axis.set_xlabel(LABELS.get(row.observable, row.observable), fontsize=9)
        axis.set_ylabel("density", fontsize=9)
        axis.set_title(f"JS {row.divergence.estimate:.3f}  (noise {row.noise:.3f} nat)", fontsize=9)
    for axis in axes.ravel()[len(comparison.rows) :]:
        axis.set_visible(False)
    axes[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(
        f"{comparison.domain}, {comparison.temperature_kelvin:g} K: model {comparison.n_model_frames} frames of "
        f"{comparison.n_model_trajectories} replicas; reference {comparison.n_reference_frames} frames of "
        f"{comparison.n_reference_trajectories} trajectories",
        fontsize=10,
    )
    figure.savefig(path)


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
    figure.suptitle(f"{n_replicas} replicas of {n_beads} beads; thick: mean of those in the physical range", fontsize=10)
    figure.savefig(path)


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
    figure.suptitle(f"{len(samples['reference'])} components of {split.n_frames} frames, {split.n_trajectories} trajectories", fontsize=9)
    figure.savefig(path)


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
    figure.suptitle(f"{split.n_frames} frames of {split.n_trajectories} trajectories; values beyond the range in the end bins", fontsize=9)
    figure.savefig(path)


def plot_force_groups(split: "ForceSplit", prefix: str, path: Path, label: str) -> None:
    """Draw the RMSE of each model over the groups whose names begin with `prefix`, such as residue types."""
    models = list(split.rows)
    groups = [name for name in split.rows[models[0]] if name.startswith(prefix)]
    figure, axes = new_figure(1, 1, max(3.4, 0.36 * len(groups) + 1.5), 3.0)
    axis, places = axes[0, 0], np.arange(len(groups))
    for number, model in enumerate(models):
        heights = [split.rows[model][group]["rmse"] for group in groups]
        axis.plot(places, heights, marker="osv^D"[number], linestyle="none", color=COLOURS[number % 4], label=model, markersize=5)
    axis.set_xticks(places, [group.removeprefix(prefix) for group in groups], rotation=90 if len(groups) > 6 else 0)
    axis.set_ylim(bottom=0)
    axis.set_xlabel(label, fontsize=9)
    axis.set_ylabel("RMSE / kcal/mol/A", fontsize=9)
    axis.grid(axis="y", linewidth=0.3)
    axis.legend(fontsize=8, frameon=False, ncols=len(models), loc="lower right")
    axis.set_title(f"{split.n_frames} frames of {split.n_trajectories} trajectories", fontsize=9)
    figure.savefig(path)


def plot_scaling(scaling: "Scaling", path: Path) -> None:
    """Draw measured speed-up over devices with the fitted laws of Amdahl and Gustafson and the ideal line."""
    figure, axes = new_figure(1, 1, 4.2, 3.4)
    axis, n = axes[0, 0], np.linspace(1, max(scaling.devices), 200)
    axis.plot(n, n, color=COLOURS[2], linestyle=":", label="ideal")
    serial = scaling.amdahl.estimate
    axis.plot(n, 1 / (serial + (1 - serial) / n), color=COLOURS[0], linestyle="-", label=f"Amdahl, serial {serial:.4f}")
    axis.plot(
        n,
        n - scaling.gustafson.estimate * (n - 1),
        color=COLOURS[1],
        linestyle="--",
        label=f"Gustafson, serial {scaling.gustafson.estimate:.4f}",
    )
    axis.plot(scaling.devices, scaling.speedup, marker="o", linestyle="none", color="black", label="measured")
    axis.set_xlabel("devices", fontsize=9)
    axis.set_ylabel("speed-up", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    figure.savefig(path)


def _outline(axis: Any, values: Array, edges: np.ndarray, label: str, number: int) -> None:
    density, _ = np.histogram(values, bins=edges, density=True)
    centres = 0.5 * (edges[1:] + edges[:-1])
    axis.step(centres, density, where="mid", color=COLOURS[number % 4], linestyle=DASHES[number % 4], label=label, linewidth=1.3)
