"""The options and the small report of a force evaluation."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from cg_data.atomic import atomic_folder
from cg_data.configuration import Configuration
from cg_eval.bootstrap import Interval
from cg_eval.force_metrics import ERROR_UNITS
from cg_eval.json_text import to_json


class ForcesConfig(Configuration):
    """Options of a force evaluation."""

    part: Literal["full", "prior", "backbone"] = "full"
    """The part judged; the zero model and the prior always stand beside it. `prior` alone never runs the network."""
    splits: tuple[str, ...] = ("held_out_trajectories", "held_out_domains")
    """Splits of the data set, each judged on its own; those without frames are left out."""
    domains: tuple[str, ...] | None = None
    """Only these domains; null for all."""
    temperature_kelvin: float | None = None
    """Only frames of this temperature; null for all."""
    frames: int | None = pydantic.Field(default=None, ge=1)
    """A random choice of so many frames per split, for a quick look; null for all."""
    mse_floor: float | None = pydantic.Field(default=None, ge=0)
    """MSE of a perfect model, (kcal/mol/A)^2, where it is known: the skill is measured against it. Labels that come with their
    standard errors (mean forces) state it themselves."""
    block_frames: int = pydantic.Field(default=20, ge=1)
    """Frames of a time block of the bootstrap."""
    n_resamples: int = pydantic.Field(default=1000, ge=10)
    beads_per_batch: int = pydantic.Field(default=1024, ge=1)
    """On each device."""
    devices: int | None = pydantic.Field(default=None, ge=1)
    """Over which batches are spread; null for all that JAX finds."""
    n_samples: int = pydantic.Field(default=20_000, ge=100)
    """Force vectors kept for the scatter and residual plots."""
    seed: int = pydantic.Field(default=0, ge=0, lt=2**32)


@dataclass(frozen=True)
class ForceSplit:
    """What was found on one split.

    rows {model: {group: {metric: value}}}; intervals {model: {metric: Interval}} of the group `all`; improvements
    {"zero - full": Interval, "prior - full": Interval}: paired differences of MSE, positive where the model judged is better.
    terms {energy term: {rms, mse, mse_without, pearson}}: the rms of its force, its MSE as a model of its own, the MSE of the
    part judged without it, its correlation with the reference. floor: mean squared standard error of the labels, where they have
    one (mse_floor: as given instead); excess {model: MSE less the floor}. samples {model or "reference": [n, 3]}: some force
    vectors, the same for every model.
    """

    name: str
    n_frames: int
    n_trajectories: int
    domains: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Mapping[str, float]]]
    intervals: Mapping[str, Mapping[str, Interval]]
    improvements: Mapping[str, Interval]
    skill: float | None
    terms: Mapping[str, Mapping[str, float]]
    mse_floor: float | None
    floor: Interval | None
    excess: Mapping[str, Interval]
    samples: Mapping[str, np.ndarray]

    def counted(self) -> str:
        """Return how much was looked at, in words."""
        return f"{self.n_frames} frames of {self.n_trajectories} {'trajectory' if self.n_trajectories == 1 else 'trajectories'}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the samples."""
        return {
            "n_frames": self.n_frames,
            "n_trajectories": self.n_trajectories,
            "domains": list(self.domains),
            "rows": {model: {group: dict(values) for group, values in groups.items()} for model, groups in self.rows.items()},
            "intervals": {m: {name: i.to_dict() for name, i in found.items()} for m, found in self.intervals.items()},
            "improvements": {name: interval.to_dict() for name, interval in self.improvements.items()},
            "skill": self.skill,
            "terms": {name: dict(values) for name, values in self.terms.items()},
            "floor": None if self.floor is None else self.floor.to_dict(),
            "excess": {name: interval.to_dict() for name, interval in self.excess.items()},
        }

    def csv_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a mapping for each model and group, with the interval of `all`; then one for each energy term."""
        for model, groups in self.rows.items():
            mse = self.intervals[model]["mse"]
            for group, values in groups.items():
                interval = {"mse_low": mse.low, "mse_high": mse.high} if group == "all" else {}
                yield {"split": self.name, "model": model, "group": group, **values, **interval}
        for term, values in self.terms.items():
            yield {"split": self.name, "model": f"term/{term}", "group": "all", **values}

    def table(self) -> str:
        """Return the split's result as text: the models side by side."""
        any_interval = next(iter(self.intervals.values()))["mse"]
        lines = [
            f"{self.name}: {self.counted()}, {len(self.domains)} {'domain' if len(self.domains) == 1 else 'domains'}; "
            f"95 % intervals over trajectories, blocks of {any_interval.block_frames} frames",
            f"{'model':<10} {'MSE / (kcal/mol/A)^2':<26} {'RMSE':>7} {'MAE':>7} {'maximum':>8} {'Pearson':>8} {'R2':>7} {'cosine':>7}",
        ]
        for model, groups in self.rows.items():
            v = groups["all"]
            lines.append(
                f"{model:<10} {self.intervals[model]['mse']!s:<26} {v['rmse']:>7.3f} {v['mae']:>7.3f} {v['maximum']:>8.2f} "
                f"{v['pearson']:>8.4f} {v['r2']:>7.4f} {v['cosine']:>7.4f}"
            )
        lines += [f"MSE of {name}: {interval}" for name, interval in self.improvements.items()]
        if self.floor is not None:
            lines.append(f"floor, the mean squared standard error of the labels: {self.floor}")
            lines += [f"MSE of {name} above the floor: {interval}" for name, interval in self.excess.items()]
        if self.skill is not None:
            known = self.floor is not None or self.mse_floor is not None
            lines.append(f"skill against the prior: {self.skill:.3f}" + ("" if known else " at least: no floor is known for these labels"))
        if self.terms:
            lines.append(f"{'energy term':<18} {'rms force':>10} {'MSE alone':>10} {'MSE of the rest':>16} {'Pearson':>8}")
            lines += [
                f"{name:<18} {v['rms']:>10.3f} {v['mse']:>10.2f} {v['mse_without']:>16.2f} {v['pearson']:>8.4f}"
                for name, v in self.terms.items()
            ]
        if self.n_trajectories == 1:
            lines.append("one trajectory: the interval speaks of its time blocks alone, not of other trajectories")
        return "\n".join(lines)


@dataclass(frozen=True)
class ForceReport:
    """Force errors of the zero model, the prior and a part of a bundle, split by split."""

    part: str
    splits: Mapping[str, ForceSplit]
    config: ForcesConfig

    def __getitem__(self, split: str) -> ForceSplit:
        """Return what was found on one split."""
        return self.splits[split]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "part": self.part,
            "units": ERROR_UNITS,
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            "config": self.config.to_dict(),
        }

    def table(self) -> str:
        """Return the report as text."""
        return "\n\n".join(split.table() for split in self.splits.values())

    def save(self, folder: Path | str, overwrite: bool = False) -> None:
        """Write forces.json, forces.csv, forces.txt, config.yaml and the figures of each split, atomically.

        forces.csv: one line per split, model and group; mse_low, mse_high: the interval of the group `all`. Each energy term is a
        model `term/NAME` of the group `all`: rms of its force, mse and pearson alone, mse_without: of the part judged without it.
        """
        from cg_eval.plots import plot_force_groups, plot_force_residuals, plot_force_scatter, plot_force_terms

        with atomic_folder(folder, overwrite=overwrite) as aside:
            (aside / "forces.json").write_text(to_json(self.to_dict()))
            (aside / "forces.txt").write_text(self.table() + "\n")
            self.config.save(aside / "config.yaml")
            with open(aside / "forces.csv", "w", newline="") as file:
                # What is not known of a line stays empty.
                columns = ["split", "model", "group", *ERROR_UNITS, "mse_low", "mse_high", "rms", "mse_without"]
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                for split in self.splits.values():
                    writer.writerows(split.csv_rows())
            for name, split in self.splits.items():
                plot_force_scatter(split, aside / f"scatter_{name}.png")
                plot_force_residuals(split, aside / f"residuals_{name}.png")
                plot_force_groups(split, "residue/", aside / f"residues_{name}.png", "residue type")
                plot_force_groups(split, "position/", aside / f"positions_{name}.png", "place in the chain")
                if split.terms:
                    plot_force_terms(split, aside / f"terms_{name}.png")
                if len(split.domains) > 1:
                    plot_force_groups(split, "protein/", aside / f"proteins_{name}.png", "protein")
