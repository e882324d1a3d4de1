"""The result of comparing a model's frames with a reference's, as text, JSON, CSV and figures."""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.atomic import atomic_folder
from cg_eval.bootstrap import Interval
from cg_eval.distributions import Bins
from cg_eval.flexibility import Contacts, Flexibility
from cg_eval.json_text import to_json
from cg_eval.surfaces import Surface


@dataclass(frozen=True)
class ObservableComparison:
    """One observable of a model's frames beside the reference's; histograms are counts over `bins`.

    Every distance stands beside its noise, the same between two halves of the reference. half_counts: of those halves.
    """

    observable: str
    unit: str
    jacobian: str
    divergence: Interval
    noise: float
    wasserstein: Interval
    wasserstein_noise: float
    overlap: Interval
    overlap_noise: float
    model_mean: Interval
    reference_mean: Interval
    outside: float
    bins: Bins
    model_counts: np.ndarray
    reference_counts: np.ndarray
    half_counts: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values = {key: value for key, value in vars(self).items() if isinstance(value, str | float)}
        intervals = {key: value.to_dict() for key, value in vars(self).items() if isinstance(value, Interval)}
        return values | intervals | {
            "bins": asdict(self.bins),
            "model_counts": self.model_counts.tolist(),
            "reference_counts": self.reference_counts.tolist(),
        }  # fmt: skip


@dataclass(frozen=True)
class Survival:
    """Fraction of replicas inside the physical range up to each time [n_times], with its 95 % interval (`stability.survival_interval`).

    All replicas count, whichever of the temperatures they were at.
    """

    time_ps: np.ndarray
    fraction: np.ndarray
    low: np.ndarray
    high: np.ndarray
    reasons: dict[str, int]
    n_replicas: int
    temperatures_kelvin: tuple[float, ...]

    def caption(self, domain: str) -> str:
        """Return what survived, in a line."""
        return f"{domain}, {', '.join(f'{t:g}' for t in self.temperatures_kelvin)} K: {_some(self.n_replicas, 'replica', 'replicas')}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Comparison:
    """Observables of one domain, model against reference; survival where a simulation was compared, not frames alone.

    temperature_kelvin: of the reference, and the model's bath; of a model at constant energy, kinetic_temperature_kelvin is the mean.
    """

    domain: str
    temperature_kelvin: float
    n_model_frames: int
    n_model_trajectories: int
    n_reference_frames: int
    n_reference_trajectories: int
    rows: tuple[ObservableComparison, ...]
    surfaces: tuple[Surface, ...]
    flexibility: Flexibility
    contacts: Contacts
    survival: Survival | None = None
    kinetic_temperature_kelvin: float | None = None

    def __getitem__(self, observable: str) -> ObservableComparison:
        """Return one observable's row."""
        return next(row for row in self.rows if row.observable == observable)

    def caption(self) -> str:
        """Return what was compared, in a line."""
        kinetic = self.kinetic_temperature_kelvin
        at = "" if kinetic is None else f" at constant energy, kinetic temperature {kinetic:.0f} K"
        model = f"model {self.n_model_frames} frames of {self.n_model_trajectories} replicas{at}"
        trajectories = _some(self.n_reference_trajectories, "trajectory", "trajectories")
        reference = f"reference {self.n_reference_frames} frames of {trajectories}"
        return f"{self.domain}, {self.temperature_kelvin:g} K: {model}; {reference}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {key: value for key, value in vars(self).items() if isinstance(value, str | float | int)}
        return {
            **plain,
            "logarithm": "natural",
            "rows": [row.to_dict() for row in self.rows],
            "surfaces": [surface.to_dict() for surface in self.surfaces],
            "rmsf": self.flexibility.to_dict(),
            "contacts": self.contacts.to_dict(),
            "survival": None if self.survival is None else self.survival.to_dict(),
        }

    def table(self) -> str:
        """Return the comparison as text, one observable a line."""
        lines = [
            self.caption(),
            f"{'observable':<12} {'JS / nat (95 %)':<32}{'noise':>8}  {'W1 (95 %)':<32}{'noise':>8}{'overlap':>9}"
            f"  {'mean (95 %)':<28}{'reference (95 %)':<28} unit",
        ]
        lines += [
            f"{r.observable:<12} {r.divergence!s:<32}{r.noise:>8.4f}  {r.wasserstein!s:<32}{r.wasserstein_noise:>8.4f}"
            f"{r.overlap.estimate:>9.3f}  {r.model_mean!s:<28}{r.reference_mean!s:<28} {r.unit}"
            for r in self.rows
        ]
        lines += [
            f"{r.observable}: {100 * r.outside:.1f} % of the model's values are outside {r.bins.low:.4g} to {r.bins.high:.4g} {r.unit}, "
            "and count in the end bins"
            for r in self.rows
            if r.outside > 0.001
        ]
        for s in self.surfaces:
            deviation = "no bin in common" if s.deviation is None else f"free energies differ by {s.deviation:.2f} kcal/mol rms"
            lines.append(f"surface {s.x}, {s.y}: JS {s.divergence}, noise {s.noise:.4f}; {deviation}")
        f, c = self.flexibility, self.contacts
        if not np.isfinite(f.deviation):
            lines.append("RMSF: not known, no trajectory of the model or of the reference has two or more frames")
        else:
            lines.append(f"RMSF differs by {f.deviation:.3f} A rms, noise {f.noise:.3f}; Pearson {f.pearson:.3f}")
        lines.append(f"contacts differ by {c.deviation:.4f} [{c.low:.4g}, {c.high:.4g}] on average, noise {c.noise:.4f}")
        if self.survival is not None:
            curve = self.survival
            lines.append(f"survival at {curve.time_ps[-1]:g} ps: {curve.fraction[-1]:.3f} [{curve.low[-1]:.3f}, {curve.high[-1]:.3f}]")
            if len(curve.temperatures_kelvin) > 1:
                lines.append(f"  of all replicas: {curve.caption(self.domain)}")
            lines += [f"  {count} stopped: {reason}" for reason, count in curve.reasons.items()]
        if self.n_reference_trajectories == 1:
            lines.append("one reference trajectory: the noise is that between its two halves in time")
        return "\n".join(lines)

    def save(self, folder: Path | str, overwrite: bool = False) -> None:
        """Write comparison.json, comparison.csv, comparison.txt and the figures, atomically."""
        from cg_eval import comparison_plots

        with atomic_folder(folder, overwrite=overwrite) as aside:
            (aside / "comparison.json").write_text(to_json(self.to_dict()))
            (aside / "comparison.txt").write_text(self.table() + "\n")
            with open(aside / "comparison.csv", "w", newline="") as file:
                writer = csv.writer(file)
                names = ("js", "wasserstein", "overlap", "mean", "reference_mean")
                spread = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
                writer.writerow(["observable", "unit", *spread, "js_noise", "wasserstein_noise", "overlap_noise", "bins"])
                for r in self.rows:
                    intervals = (r.divergence, r.wasserstein, r.overlap, r.model_mean, r.reference_mean)
                    numbers = [value for i in intervals for value in (i.estimate, i.low, i.high)]
                    writer.writerow([r.observable, r.unit, *numbers, r.noise, r.wasserstein_noise, r.overlap_noise, str(r.bins)])
            comparison_plots.plot_distributions(self, aside / "distributions.png")
            comparison_plots.plot_free_energies(self, aside / "free-energies.png")
            comparison_plots.plot_contacts(self, aside / "contacts.png")
            comparison_plots.plot_flexibility(self, aside / "rmsf.png")
            if self.surfaces:
                comparison_plots.plot_surfaces(self, aside / "surfaces.png")
            if self.survival is not None:
                comparison_plots.plot_survival(self, aside / "survival.png")


def _some(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
