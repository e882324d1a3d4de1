"""What is in a dataset: as text, and as a page of plots."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.atomic import atomic_file
from cg_data.errors import UserError, counted
from cg_data.geometry import angles_radian, bonds_angstrom, dihedrals_radian, neighbour_counts
from cg_data.records import DomainRecord
from cg_data.split import SPLITS
from cg_data.store import Dataset
from cg_data.topology import bonded_tuples

CUTOFFS_ANGSTROM = (8.0, 10.0, 12.0, 15.0)
MAX_DOMAINS = 200
MAX_FRAMES = 50
"""Domains and frames of each that geometry is measured on, evenly spaced; counts are of everything."""
MAX_ROWS = 30
MAX_NAMED = 16
"""Domains named one by one in plots."""
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44")


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
    n_residues = [r.n_residues for r in records]
    lines = [
        f"{dataset.path}: {counted(len(records), 'domain')}, {counted(sum(r.n_frames for r in records), 'frame')}, beads '{info.mapping}', "
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
    figure = Figure(figsize=(14, 11), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 3)
    records = [dataset.domain(domain) for domain in dataset.domains]
    _plot_frames(axes[0, 0], dataset, records)
    _plot_residues(axes[0, 1], records)
    _plot_rejected(axes[0, 2], dataset, records)
    _plot_histogram(axes[1, 0], measured.bonds, "distance of bonded beads", "A")
    _plot_histogram(axes[1, 1], measured.angles, "angle of three beads along the chain", "degree")
    _plot_histogram(axes[1, 2], measured.dihedrals, "dihedral of four beads along the chain", "degree")
    _plot_histogram(axes[2, 0], measured.forces, "component of the force on a bead", "kcal/mol/A")
    _plot_neighbours(axes[2, 1], measured)
    _plot_scores(axes[2, 2], dataset)
    figure.suptitle(
        f"{dataset.path.name}: {counted(len(records), 'domain')}, {counted(sum(r.n_frames for r in records), 'frame')}, "
        f"beads '{dataset.info.mapping}'"
    )
    with atomic_file(path) as aside:
        figure.savefig(aside, format=path.suffix[1:], dpi=110)


def _plot_frames(axis: Any, dataset: Dataset, records: list[DomainRecord]) -> None:
    """Draw frames per temperature, stacked by split."""
    temperatures = dataset.info.temperatures_kelvin
    bottom = np.zeros(len(temperatures))
    total = np.array(
        [sum(t.n_frames for r in records for t in r.trajectories if t.temperature_kelvin == kelvin) for kelvin in temperatures]
    )
    labels = [f"{kelvin:g}" for kelvin in temperatures]
    for split, color in zip(SPLITS, COLORS, strict=False):
        counts = np.array([_frames_of(records, split, kelvin) for kelvin in temperatures])
        if counts.any():
            axis.bar(labels, counts, bottom=bottom, label=split.replace("_", " "), color=color)
            bottom += counts
    if (total > bottom).any():
        axis.bar(labels, total - bottom, bottom=bottom, label="gap, in no split", color="#dddddd")
    axis.set(title="frames per temperature", xlabel="temperature (K)", ylabel="frames", ylim=(0, 1.45 * max(total, default=1)))
    axis.legend(fontsize="small", ncols=2, loc="upper center")


def _frames_of(records: list[DomainRecord], split: str, kelvin: float) -> int:
    ranges = [t.segments[split] for r in records for t in r.trajectories if t.temperature_kelvin == kelvin and split in t.segments]
    return sum(stop - start for start, stop in ranges)


def _plot_residues(axis: Any, records: list[DomainRecord]) -> None:
    """Draw the sizes of domains: one by one where they are few."""
    sizes = [r.n_residues for r in records]
    if len(records) <= MAX_NAMED:
        axis.bar([r.domain for r in records], sizes, color=COLORS[0])
        axis.tick_params(axis="x", rotation=60)
        axis.set(title="residues of each domain", ylabel="residues")
    else:
        axis.hist(sizes, bins=40, color=COLORS[0])
        axis.set(title="sizes of domains", xlabel="residues", ylabel="domains")


def _plot_rejected(axis: Any, dataset: Dataset, records: list[DomainRecord]) -> None:
    """Draw rejected frames by reason, and say how many inputs were refused."""
    rejected, refused = dataset.info.rejected, counted(len(dataset.info.refused), "input")
    axis.set(title=f"rejected frames by reason; {refused} refused")
    if rejected:
        bars = axis.barh([reason.replace("_", " ") for reason in rejected], list(rejected.values()), color=COLORS[0])
        axis.bar_label(bars, padding=3)
        axis.set(xlabel="frames")
        axis.margins(x=0.15)
    else:
        axis.text(0.5, 0.5, "none: every frame passed", ha="center", va="center", transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])


def _plot_histogram(axis: Any, values: np.ndarray, title: str, unit: str) -> None:
    """Draw the distribution of values, with its mean and width."""
    axis.set(title=title, xlabel=unit, ylabel="share of all", yticks=[])
    if len(values):
        axis.hist(values, bins=80, density=True, color=COLORS[0])
        axis.set(xlabel=f"{unit}   (mean {values.mean():.4g}, standard deviation {values.std():.3g})")


def _plot_neighbours(axis: Any, measured: Measurements) -> None:
    """Draw how many beads are within each cutoff of a bead."""
    for (cutoff, counts), color in zip(measured.neighbours.items(), COLORS, strict=False):
        if len(counts):
            label = f"{cutoff:g} A: mean {counts.mean():.1f}, largest {counts.max():.0f}"
            axis.hist(
                counts, bins=np.arange(counts.max() + 2) - 0.5, histtype="step", density=True, label=label, color=color, linewidth=1.5
            )
    axis.set(
        title="neighbours of a bead within a cutoff", xlabel="neighbours (they size the edge budget)", ylabel="share of beads", yticks=[]
    )
    if axis.has_data():
        axis.legend(fontsize="small")


def _plot_scores(axis: Any, dataset: Dataset) -> None:
    """Draw the scores of each domain's maps, the one in use encircled."""
    domains = _spread(dataset.domains, MAX_DOMAINS)
    maps = [dataset.domain(domain).force_map for domain in domains]
    for kind, color in zip(("slice", "uniform", "optimal", "optimal-local"), COLORS, strict=False):
        values = [(i, record.scores[kind]) for i, record in enumerate(maps) if kind in record.scores]
        if values:
            axis.plot(*np.transpose(values), "o", markersize=5, label=kind, color=color)
    used = [(i, record.scores[record.kind]) for i, record in enumerate(maps) if record.kind in record.scores]
    if used:
        axis.plot(*np.transpose(used), "o", markersize=11, fillstyle="none", color="black", label="in use")
        axis.legend(fontsize="small")
        axis.set_ylim(bottom=0)
    if len(domains) <= MAX_NAMED:
        axis.set_xticks(range(len(domains)), domains, rotation=60)
    axis.set(title="noise left by each force map (lower is better)", ylabel="held-out mean square\nforce (kcal/mol/A)$^2$")


def _spread(items: tuple[str, ...] | np.ndarray, most: int) -> np.ndarray:
    array = np.asarray(items)
    return array if len(array) <= most else array[np.linspace(0, len(array) - 1, most).round().astype(int)]
