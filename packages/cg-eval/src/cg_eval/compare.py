"""Does the model visit what the reference visits? Distributions of observables, each beside the reference's own noise.

The noise of a divergence is that between two halves of the reference, made of whole trajectories: a model whose divergence is
near it cannot be told from the reference with these data.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from cg_data.atomic import atomic_folder
from cg_data.configuration import Configuration
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_data.store import Dataset
from cg_data.topology import bonded_tuples
from cg_eval import observables
from cg_eval.bootstrap import Blocks, Interval, bootstrap, time_blocks
from cg_eval.distributions import Bins, js_divergence, overlap, wasserstein
from cg_eval.json_text import to_json
from cg_priors.geometry import bend_angle, dihedral_angle, distance


class CompareConfig(Configuration):
    """Options of a comparison of distributions."""

    after_ps: float = pydantic.Field(default=0.0, ge=0)
    """Leave out the start of each replica, up to this time."""
    temperature_kelvin: float | None = None
    """Of a simulation with several temperatures: the one compared; None for its lowest."""
    n_bins: int = pydantic.Field(default=50, ge=2)
    native_cutoff_angstrom: float = pydantic.Field(default=9.0, gt=0)
    native_tolerance: float = pydantic.Field(default=1.2, gt=1)
    """lambda of the fraction of native contacts."""
    clash_distance_angstrom: float = pydantic.Field(default=4.0, gt=0)
    block_frames: int = pydantic.Field(default=20, ge=1)
    """Frames of a time block of the bootstrap."""
    n_resamples: int = pydantic.Field(default=300, ge=10)
    seed: int = 0


@dataclass(frozen=True)
class Observable:
    """What is compared: its unit, and the values of each frame [n_frames, m] in an order of frames.

    low, high: the range of bins, None to take it from the data; period: of a periodic observable.
    """

    unit: str
    values: Callable[[BeadFrames], np.ndarray]
    low: float | None = None
    high: float | None = None
    period: float | None = None


@dataclass(frozen=True)
class ObservableComparison:
    """One observable of a model's frames beside the reference's; histograms are counts over `bins`."""

    observable: str
    unit: str
    divergence: Interval
    noise: float
    wasserstein: float
    overlap: float
    model_mean: float
    reference_mean: float
    outside: float
    bins: Bins
    model_counts: np.ndarray
    reference_counts: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values = {key: value for key, value in vars(self).items() if isinstance(value, str | float)}
        return values | {
            "divergence": self.divergence.to_dict(),
            "bins": asdict(self.bins),
            "model_counts": self.model_counts.tolist(),
            "reference_counts": self.reference_counts.tolist(),
        }


@dataclass(frozen=True)
class Comparison:
    """Observables of one domain, model against reference."""

    domain: str
    temperature_kelvin: float
    n_model_frames: int
    n_model_trajectories: int
    n_reference_frames: int
    n_reference_trajectories: int
    rows: tuple[ObservableComparison, ...]

    def __getitem__(self, observable: str) -> ObservableComparison:
        """Return one observable's row."""
        return next(row for row in self.rows if row.observable == observable)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **{k: v for k, v in vars(self).items() if k != "rows"},
            "logarithm": "natural",
            "rows": [row.to_dict() for row in self.rows],
        }

    def table(self) -> str:
        """Return the comparison as text, one observable a line."""
        lines = [
            f"{self.domain}, {self.temperature_kelvin:g} K: {self.n_model_frames} frames of {self.n_model_trajectories} replicas "
            f"against {self.n_reference_frames} frames of {self.n_reference_trajectories} trajectories",
            f"{'observable':<12} {'JS / nat (95 %)':<28} {'JS noise':>9} {'W1':>9} {'overlap':>8} {'mean':>9} {'reference':>9}  unit",
        ]
        lines += [
            f"{r.observable:<12} {r.divergence!s:<28} {r.noise:>9.4f} {r.wasserstein:>9.4f} {r.overlap:>8.3f} "
            f"{r.model_mean:>9.3f} {r.reference_mean:>9.3f}  {r.unit}"
            for r in self.rows
        ]
        return "\n".join(lines)

    def save(self, folder: Path | str, overwrite: bool = False) -> None:
        """Write comparison.json, comparison.csv, comparison.txt and the figure, atomically."""
        from cg_eval.plots import plot_distributions

        with atomic_folder(folder, overwrite=overwrite) as aside:
            (aside / "comparison.json").write_text(to_json(self.to_dict()))
            (aside / "comparison.txt").write_text(self.table() + "\n")
            with open(aside / "comparison.csv", "w", newline="") as file:
                names = [
                    "observable",
                    "unit",
                    "js",
                    "js_low",
                    "js_high",
                    "js_noise",
                    "wasserstein",
                    "overlap",
                    "mean",
                    "reference_mean",
                    "bins",
                ]
                writer = csv.writer(file)
                writer.writerow(names)
                for r in self.rows:
                    d = r.divergence
                    row = [
                        r.observable,
                        r.unit,
                        d.estimate,
                        d.low,
                        d.high,
                        r.noise,
                        r.wasserstein,
                        r.overlap,
                        r.model_mean,
                        r.reference_mean,
                    ]
                    writer.writerow([*row, str(r.bins)])
            plot_distributions(self, aside / "distributions.png")


def chain_observables(reference: BeadFrames, config: CompareConfig) -> dict[str, Observable]:
    """Return the observables of a chain; RMSD and native contacts are to the reference's first frame."""
    residue_index, chain_index = np.asarray(reference.residue_index), np.asarray(reference.chain_index)
    tuples = {size: bonded_tuples(residue_index, chain_index, size) for size in (2, 3, 4)}
    native = np.asarray(reference.positions[0], np.float64)

    def of_tuples(feature: Callable[[np.ndarray], np.ndarray], size: int) -> Callable[[BeadFrames], np.ndarray]:
        return lambda frames: feature(_positions(frames)[:, tuples[size]])

    found = {
        "bond": Observable("A", of_tuples(distance, 2), 2.8, 4.8),
        "angle": Observable("rad", of_tuples(bend_angle, 3), 1.0, float(np.pi)),
        "dihedral": Observable("rad", of_tuples(dihedral_angle, 4), -float(np.pi), float(np.pi), 2 * float(np.pi)),
        "rg": Observable("A", lambda frames: observables.radius_of_gyration(_positions(frames))[:, None]),
        "end_to_end": Observable("A", lambda frames: observables.end_to_end(_positions(frames), residue_index, chain_index)),
        "rmsd": Observable("A", lambda frames: observables.rmsd(_positions(frames), native)[:, None]),
    }
    found = {name: o for name, o in found.items() if name not in ("bond", "angle", "dihedral") or len(tuples[_SIZES[name]])}
    pairs = observables.native_contacts(native, residue_index, chain_index, config.native_cutoff_angstrom)
    if len(pairs):
        found["q"] = Observable(
            "1",
            lambda frames: observables.fraction_of_native_contacts(_positions(frames), native, pairs, tolerance=config.native_tolerance)[
                :, None
            ],
            0.0,
            1.0,
        )
    found["clashes"] = Observable(
        "1",
        lambda frames: observables.clashes(_positions(frames), residue_index, chain_index, config.clash_distance_angstrom)[:, None],
        -0.5,
        9.5,
    )
    return found


def compare_distributions(
    model: BeadFrames, reference: BeadFrames, config: CompareConfig | None = None, domain: str = "", names: Sequence[str] | None = None
) -> Comparison:
    """Compare a model's frames with reference frames of the same chain, at the same temperature.

    model: for example `Simulation.frames()`; reference: frames of a data set at one temperature. Each field `trajectory` says
    what is resampled: the divergence's interval comes from a bootstrap over the model's replicas, its time blocks inside them.
    """
    config = config or CompareConfig()
    _check_comparable(model, reference)
    halves = split_in_halves(np.asarray(reference.trajectory))
    blocks = time_blocks(model.trajectory, config.block_frames)
    known = chain_observables(reference, config)
    chosen: Mapping[str, Observable] = known if names is None else {name: known[name] for name in names}
    rows = tuple(_compare(name, o, model, reference, halves, blocks, config) for name, o in chosen.items())
    return Comparison(
        domain=domain,
        temperature_kelvin=float(np.mean(reference.temperature)),
        n_model_frames=model.n_frames,
        n_model_trajectories=len(np.unique(model.trajectory)),
        n_reference_frames=reference.n_frames,
        n_reference_trajectories=len(np.unique(reference.trajectory)),
        rows=rows,
    )


def reference_frames(dataset: Dataset, domain: str, temperature_kelvin: float) -> BeadFrames:
    """Return all of a domain's frames at a temperature; `UserError` where it has none within 1 K."""
    frames = dataset.frames(domain)
    near = np.abs(np.asarray(frames.temperature) - temperature_kelvin) < 1.0
    if not near.any():
        known = ", ".join(f"{t:g}" for t in np.unique(frames.temperature))
        raise UserError(f"{dataset.path}: {domain} has no frames at {temperature_kelvin:g} K, only at {known} K: simulate at one of these")
    return frames.select(near)


def split_in_halves(trajectory: np.ndarray) -> np.ndarray:
    """Return [n_frames] bool, one half of the frames: whole trajectories in turn, or the first half in time of a single one."""
    names, number = np.unique(trajectory, return_inverse=True)
    if len(names) > 1:
        return number % 2 == 0
    return np.arange(len(trajectory)) < len(trajectory) // 2


def _compare(
    name: str, o: Observable, model: BeadFrames, reference: BeadFrames, halves: np.ndarray, blocks: Blocks, config: CompareConfig
) -> ObservableComparison:
    values, expected = o.values(model), o.values(reference)
    n_bins = 10 if name == "clashes" else config.n_bins
    bins = _bins(o, n_bins, values, expected)
    block_counts = np.stack([bins.counts(values[blocks.block_of_frame == block]) for block in range(blocks.n_blocks)])
    model_counts = block_counts.sum(axis=0)
    reference_counts = bins.counts(expected)

    def divergence(counts: np.ndarray) -> np.ndarray:
        return np.array([js_divergence(row, reference_counts) for row in counts])

    return ObservableComparison(
        observable=name,
        unit=o.unit,
        divergence=bootstrap(block_counts, divergence, blocks, config.n_resamples, seed=config.seed),
        noise=js_divergence(bins.counts(expected[halves]), bins.counts(expected[~halves])),
        wasserstein=wasserstein(values, expected, o.period),
        overlap=overlap(model_counts, reference_counts),
        model_mean=_mean(values, o.period),
        reference_mean=_mean(expected, o.period),
        outside=bins.outside(values),
        bins=bins,
        model_counts=model_counts,
        reference_counts=reference_counts,
    )


def _bins(o: Observable, number: int, *samples: np.ndarray) -> Bins:
    low = o.low if o.low is not None else float(min(values.min() for values in samples))
    high = o.high if o.high is not None else float(max(values.max() for values in samples))
    return Bins(low, high if high > low else low + 1e-3, number)


def _mean(values: np.ndarray, period: float | None) -> float:
    if period is None:
        return float(values.mean())
    turn = 2 * np.pi / period
    return float(np.angle(np.exp(1j * turn * values).mean()) / turn)


def _positions(frames: BeadFrames) -> np.ndarray:
    return np.asarray(frames.positions, np.float64)


def _check_comparable(model: BeadFrames, reference: BeadFrames) -> None:
    require(model.n_frames > 0, "compare: the model has no frame inside the physical range; nothing to compare")
    require(reference.n_frames > 1, f"compare: expected at least 2 reference frames, received {reference.n_frames}")
    if model.n_beads != reference.n_beads:
        raise UserError(f"compare: the model has {model.n_beads} beads, the reference {reference.n_beads}: compare the same domain")
    temperatures = np.unique(np.asarray(reference.temperature))
    if len(temperatures) > 1:
        raise UserError(
            f"compare: reference frames of {len(temperatures)} temperatures ({temperatures.min():g} to {temperatures.max():g} K): "
            "choose those of one"
        )
    if abs(float(np.mean(model.temperature)) - float(temperatures[0])) > 1.0:
        raise UserError(
            f"compare: the model is at {float(np.mean(model.temperature)):g} K, the reference at {temperatures[0]:g} K: "
            "simulate at the reference's temperature"
        )


_SIZES = {"bond": 2, "angle": 3, "dihedral": 4}
