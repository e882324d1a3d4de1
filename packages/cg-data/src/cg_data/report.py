"""What is in a dataset: as text, and as a page of plots."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.atomic import atomic_file
from cg_data.errors import UserError
from cg_data.geometry import angles_radian, bonds_angstrom, dihedrals_radian, neighbour_counts
from cg_data.split import SPLITS
from cg_data.store import Dataset
from cg_data.topology import bonded_tuples

CUTOFFS_ANGSTROM = (8.0, 10.0, 12.0, 15.0)
MAX_DOMAINS = 200
MAX_FRAMES = 50
"""Domains and frames of each that geometry is measured on, evenly spaced; counts are of everything."""
MAX_ROWS = 30


@dataclass(frozen=True)
class Measurements:
    """Geometry and forces over a sample of frames; angles in degrees, `neighbours` per cutoff."""

    bonds: np.ndarray
    angles: np.ndarray
    dihedrals: np.ndarray
    forces: np.ndarray
    neighbours: dict[float, np.ndarray]


def measure(dataset: Dataset) -> Measurements:
    """Return measurements over a sample of the domains and frames."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("bonds", "angles", "dihedrals", "forces")}
    neighbours: dict[float, list[np.ndarray]] = {cutoff: [] for cutoff in CUTOFFS_ANGSTROM}
    for domain in _spread(dataset.domains, MAX_DOMAINS):
        frames = dataset.frames(domain)
        sample = frames.select(_spread(np.arange(frames.n_frames), MAX_FRAMES))
        positions = np.asarray(sample.positions, np.float64)
        tuples = [bonded_tuples(frames.residue_index, frames.chain_index, size) for size in (2, 3, 4)]
        parts["bonds"].append(bonds_angstrom(positions, tuples[0]).ravel())
        parts["angles"].append(np.degrees(angles_radian(positions, tuples[1])).ravel())
        parts["dihedrals"].append(np.degrees(dihedrals_radian(positions, tuples[2])).ravel())
        if sample.forces is not None:
            parts["forces"].append(np.asarray(sample.forces).ravel())
        for cutoff in CUTOFFS_ANGSTROM:
            neighbours[cutoff].append(neighbour_counts(positions, cutoff).ravel())
    joined = {name: np.concatenate([np.zeros(0), *values]) for name, values in parts.items()}
    return Measurements(**joined, neighbours={cutoff: np.concatenate([np.zeros(0), *c]) for cutoff, c in neighbours.items()})


def describe(dataset: Dataset, measured: Measurements) -> str:
    """Return the report as text."""
    info = dataset.info
    records = [dataset.domain(domain) for domain in dataset.domains]
    n_residues = [len(set(r.residue_numbers)) for r in records]
    lines = [
        f"{dataset.path}: {len(records)} domains, {sum(r.n_frames for r in records)} frames, beads '{info.mapping}', "
        f"{len(info.species_names)} species, {'with' if info.has_forces else 'without'} forces",
        f"residues per domain: {min(n_residues, default=0)} to {max(n_residues, default=0)}",
        "",
        "temperature    trajectories    frames",
    ]
    for temperature in info.temperatures_kelvin:
        of_temperature = [t for r in records for t in r.trajectories if t.temperature_kelvin == temperature]
        lines.append(f"{temperature:9.0f} K{len(of_temperature):16d}{sum(t.n_frames for t in of_temperature):10d}")
    lines += ["", "split                    domains    frames"]
    for name in SPLITS:
        frames = [len(indices) for indices in dataset.split(name).values()]
        lines.append(f"{name:24s} {len(frames):7d} {sum(frames):9d}")
    lines += ["", "rejected frames: " + (", ".join(f"{n} {reason}" for reason, n in info.rejected.items()) or "none")]
    lines += [f"refused input: {name}: {reason}" for name, reason in info.refused.items()]
    lines += ["", "domain      beads  frames  rejected  force map        mean square force (held out): map / uniform / slice"]
    for record in records[:MAX_ROWS]:
        scores = record.force_map.scores
        shown = " / ".join(f"{scores[k]:.1f}" if k in scores else "-" for k in (record.force_map.kind, "uniform", "slice"))
        n_rejected = sum(record.rejected.values())
        lines.append(
            f"{record.domain:10s} {record.n_beads:6d} {record.n_frames:7d} {n_rejected:9d}  {record.force_map.kind:16s} {shown}"
            + (f"  {record.force_map.note}" if record.force_map.note else "")
        )
    if len(records) > MAX_ROWS:
        lines.append(f"... and {len(records) - MAX_ROWS} more domains")
    lines += [f"note: {record.domain}: {note}" for record in records for note in record.notes][:MAX_ROWS]
    return "\n".join([*lines, "", *_describe_measurements(measured)])


def _describe_measurements(measured: Measurements) -> list[str]:
    lines = []
    for name, unit in (("bonds", "A"), ("angles", "degree"), ("dihedrals", "degree"), ("forces", "kcal/mol/A")):
        values = getattr(measured, name)
        if len(values):
            low, high = values.min(), values.max()
            spread = f"rms {np.sqrt(np.mean(values**2)):.2f}" if name == "forces" else f"mean {values.mean():.2f}, std {values.std():.2f}"
            lines.append(f"{name:10s} {spread}, from {low:.2f} to {high:.2f} {unit}")
    for cutoff, counts in measured.neighbours.items():
        if len(counts):
            lines.append(f"neighbours within {cutoff:4.1f} A: mean {counts.mean():.1f}, largest {counts.max():.0f} per bead")
    return lines


def plot(dataset: Dataset, measured: Measurements, path: Path | str) -> None:
    """Write a page of plots (PNG, PDF or SVG by the name's ending), atomically."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib: install cg-data[plots]") from None
    path = Path(path)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"{path}: expected a name ending in .png, .pdf or .svg")
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    panels = (
        (axes[0, 0], measured.bonds, "CA-CA bond (A)"),
        (axes[0, 1], measured.angles, "angle (degree)"),
        (axes[0, 2], measured.dihedrals, "dihedral (degree)"),
        (axes[1, 0], measured.forces, "bead force component (kcal/mol/A)"),
    )
    for axis, values, label in panels:
        axis.hist(values, bins=80, density=True, color="#4477aa")
        axis.set_xlabel(label)
        axis.set_yticks([])
    for cutoff, counts in measured.neighbours.items():
        axes[1, 1].hist(counts, bins=np.arange(counts.max(initial=0) + 2) - 0.5, histtype="step", density=True, label=f"{cutoff:g} A")
    axes[1, 1].set_xlabel("neighbours of a bead within")
    axes[1, 1].set_yticks([])
    axes[1, 1].legend()
    _plot_scores(axes[1, 2], dataset)
    figure.suptitle(f"{dataset.path.name}: {len(dataset.domains)} domains")
    with atomic_file(path) as aside:
        figure.savefig(aside, format=path.suffix[1:], dpi=120)


def _plot_scores(axis: Any, dataset: Dataset) -> None:
    scores = [dataset.domain(domain).force_map for domain in _spread(dataset.domains, MAX_DOMAINS)]
    for kind in ("slice", "uniform", "optimal", "optimal-local"):
        values = [(i, record.scores[kind]) for i, record in enumerate(scores) if kind in record.scores]
        if values:
            axis.plot(*np.transpose(values), ".", label=kind)
    axis.set_yscale("log")
    axis.set_xlabel("domain")
    axis.set_ylabel("held-out mean square force (kcal/mol/A)$^2$")
    if axis.has_data():
        axis.legend()


def _spread(items: tuple[str, ...] | np.ndarray, most: int) -> np.ndarray:
    array = np.asarray(items)
    return array if len(array) <= most else array[np.linspace(0, len(array) - 1, most).round().astype(int)]
