"""Judge a bundle's forces on a data set: `evaluate_forces` and the small report it returns."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic

from cg_data.atomic import atomic_folder
from cg_data.command_line import progress_bar
from cg_data.configuration import Configuration
from cg_data.contracts import BeadFrames
from cg_data.errors import require
from cg_data.store import Dataset
from cg_eval.bootstrap import Blocks, Interval, bootstrap, time_blocks
from cg_eval.force_metrics import ERROR_UNITS, chain_positions, errors_by_group, metrics, skill
from cg_eval.json_text import to_json
from cg_eval.predict import DomainForces, predict_forces

if TYPE_CHECKING:
    from cg_models.bundle import Bundle
    from cg_models.hybrid import Part

logger = logging.getLogger("cg_eval")

WITH_INTERVALS = ("mse", "mae", "cosine", "pearson")


class ForcesConfig(Configuration):
    """Options of a force evaluation."""

    part: Literal["full", "prior", "backbone"] = "full"
    """The part judged; the zero model and the prior always stand beside it. `prior` alone never runs the network."""
    splits: tuple[str, ...] = ("held_out_trajectories", "held_out_domains")
    """Splits of the data set, each judged on its own; those without frames are left out."""
    domains: tuple[str, ...] | None = None
    """Only these domains; None for all."""
    temperature_kelvin: float | None = None
    """Only frames of this temperature; None for all."""
    frames: int | None = pydantic.Field(default=None, ge=1)
    """A random choice of so many frames per split, for a quick look; None for all."""
    mse_floor: float | None = pydantic.Field(default=None, ge=0)
    """MSE of a perfect model, (kcal/mol/A)^2, where it is known: the skill is measured against it."""
    block_frames: int = pydantic.Field(default=20, ge=1)
    """Frames of a time block of the bootstrap."""
    n_resamples: int = pydantic.Field(default=1000, ge=10)
    beads_per_batch: int = pydantic.Field(default=1024, ge=1)
    n_samples: int = pydantic.Field(default=20_000, ge=100)
    """Force vectors kept for the scatter and residual plots."""
    seed: int = 0


@dataclass(frozen=True)
class ForceSplit:
    """What was found on one split.

    rows {model: {group: {metric: value}}}; intervals {model: {metric: Interval}} of the group `all`; improvements
    {"zero - full": Interval, "prior - full": Interval}: paired differences of MSE, positive where the model judged is better.
    samples {model or "reference": [n, 3]}: some force vectors, the same ones for every model.
    """

    name: str
    n_frames: int
    n_trajectories: int
    domains: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Mapping[str, float]]]
    intervals: Mapping[str, Mapping[str, Interval]]
    improvements: Mapping[str, Interval]
    skill: float | None
    samples: Mapping[str, np.ndarray]

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
        }

    def table(self) -> str:
        """Return the split's result as text: the models side by side."""
        any_interval = next(iter(self.intervals.values()))["mse"]
        lines = [
            f"{self.name}: {self.n_frames} frames of {self.n_trajectories} trajectories, {len(self.domains)} domains; "
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
        if self.skill is not None:
            lines.append(f"skill against the prior: {self.skill:.3f}")
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
        """Write forces.json, forces.csv, forces.txt, config.yaml and the figures of each split, atomically."""
        from cg_eval.plots import plot_force_groups, plot_force_residuals, plot_force_scatter

        with atomic_folder(folder, overwrite=overwrite) as aside:
            (aside / "forces.json").write_text(to_json(self.to_dict()))
            (aside / "forces.txt").write_text(self.table() + "\n")
            self.config.save(aside / "config.yaml")
            with open(aside / "forces.csv", "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["split", "model", "group", *ERROR_UNITS])
                for name, split in self.splits.items():
                    for model, groups in split.rows.items():
                        writer.writerows([name, model, group, *(v[metric] for metric in ERROR_UNITS)] for group, v in groups.items())
            for name, split in self.splits.items():
                plot_force_scatter(split, aside / f"scatter_{name}.png")
                plot_force_residuals(split, aside / f"residuals_{name}.png")
                plot_force_groups(split, "residue/", aside / f"residues_{name}.png", "residue type")
                if len(split.domains) > 1:
                    plot_force_groups(split, "protein/", aside / f"proteins_{name}.png", "protein")


def evaluate_forces(bundle: "Bundle", dataset: Dataset, config: ForcesConfig | None = None, show_progress: bool = False) -> ForceReport:
    """Compare a bundle's forces with a data set's, beside the zero model and the prior.

    Every split is one section of the report. Intervals come from a cluster bootstrap over trajectories (see `bootstrap`).
    """
    config = config or ForcesConfig()
    require(dataset.info.has_forces, f"{dataset.path}: has no forces; prepare it from trajectories with forces")
    chosen = {name: frames for name in config.splits if (frames := choose_frames(dataset, name, config))}
    require(bool(chosen), f"{dataset.path}: no frame in the splits {', '.join(config.splits)} with the options given; choose others")
    parts = _parts(bundle, config.part)
    collectors = {name: _Collector(dataset, parts, config) for name in chosen}
    stream = [(name, domain, indices) for name, frames in chosen.items() for domain, indices in frames.items()]
    with progress_bar() as bar:
        task = bar.add_task("forces", total=sum(len(indices) for _, _, indices in stream), visible=show_progress)
        pieces = [(domain, indices) for _, domain, indices in stream]
        for (name, _, _), found in zip(stream, predict_forces(bundle, dataset, pieces, parts, config.beads_per_batch), strict=True):
            collectors[name].add(found)
            bar.advance(task, found.frames.n_frames)
    return ForceReport(config.part, {name: collector.finish(name) for name, collector in collectors.items()}, config)


def choose_frames(dataset: Dataset, split: str, config: ForcesConfig) -> dict[str, np.ndarray]:
    """Return {domain: sorted frame indices} of a split after the choices of domains, temperature and number of frames."""
    chosen = dataset.split(split)
    if config.domains is not None:
        chosen = {domain: frames for domain, frames in chosen.items() if domain in config.domains}
    if config.temperature_kelvin is not None:
        warm = {domain: np.abs(dataset.frames(domain).temperature - config.temperature_kelvin) < 0.5 for domain in chosen}
        chosen = {domain: frames[warm[domain][frames]] for domain, frames in chosen.items()}
    total = sum(len(frames) for frames in chosen.values())
    if config.frames is not None and config.frames < total:
        keep = np.zeros(total, bool)
        keep[np.random.default_rng(config.seed).choice(total, config.frames, replace=False)] = True
        parts = np.split(keep, np.cumsum([len(frames) for frames in chosen.values()])[:-1])
        chosen = {domain: frames[part] for (domain, frames), part in zip(chosen.items(), parts, strict=True)}
    return {domain: frames for domain, frames in chosen.items() if len(frames)}


def bead_groups(frames: BeadFrames, residue_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return {group: [n_beads] bool}: `residue/NAME` by species and `position/terminus|core`."""
    species = np.asarray(frames.species)
    groups = {f"residue/{residue_names[index]}": species == index for index in np.unique(species)}
    terminal = chain_positions(frames.residue_index, frames.chain_index)
    return groups | {"position/terminus": terminal, "position/core": ~terminal}


class _Collector:
    """Adds up the errors of one split, domain by domain, and turns them into a `ForceSplit`."""

    def __init__(self, dataset: Dataset, parts: Sequence[str], config: ForcesConfig):
        self.species_names, self.config = dataset.species_names, config
        self.models = ("zero", *parts)
        self.totals: dict[str, dict[str, np.ndarray]] = {model: {} for model in self.models}
        self.maxima: dict[str, dict[str, float]] = {model: {} for model in self.models}
        self.block_sums: dict[str, list[np.ndarray]] = {model: [] for model in self.models}
        self.blocks = Blocks(np.zeros(0, np.int64), np.zeros(0, np.int64), config.block_frames)
        self.samples: dict[str, list[np.ndarray]] = {name: [] for name in ("reference", *self.models)}
        self.domains: list[str] = []
        self.generator = np.random.default_rng(config.seed)

    def add(self, found: DomainForces) -> None:
        frames, reference = found.frames, np.asarray(found.frames.forces, np.float64)
        self.domains.append(found.domain)
        groups = bead_groups(frames, self.species_names)
        blocks = time_blocks(frames.trajectory, self.config.block_frames)
        self.blocks = self.blocks.followed_by(blocks)
        n_vectors = frames.n_frames * frames.n_beads
        kept = self.generator.choice(n_vectors, min(self.config.n_samples, n_vectors), replace=False)
        self.samples["reference"].append(reference.reshape(-1, 3)[kept])
        for model in self.models:
            predicted = np.zeros_like(reference) if model == "zero" else np.asarray(found.forces[model], np.float64)
            errors = errors_by_group(predicted, reference, groups)
            errors |= {f"temperature/{t:g} K": errors["all"].select(frames.temperature == t) for t in np.unique(frames.temperature)}
            errors[f"protein/{found.domain}"] = errors["all"]
            for group, of_frames in errors.items():
                self.totals[model][group] = self.totals[model].get(group, 0.0) + of_frames.sums.sum(axis=0)
                self.maxima[model][group] = max(self.maxima[model].get(group, 0.0), float(of_frames.maximum.max()))
            self.block_sums[model].append(blocks.add_up(errors["all"].sums))
            self.samples[model].append(predicted.reshape(-1, 3)[kept])

    def finish(self, name: str) -> ForceSplit:
        config, judged = self.config, self.models[-1]
        sums = {model: np.concatenate(values) for model, values in self.block_sums.items()}
        rows = {
            model: {
                group: {key: float(value) for key, value in metrics(total).items()} | {"maximum": self.maxima[model][group]}
                for group, total in sorted(totals.items())
            }
            for model, totals in self.totals.items()
        }

        compared = "prior" in self.models and judged != "prior"
        floor = config.mse_floor or 0.0
        return ForceSplit(
            name=name,
            n_frames=len(self.blocks.block_of_frame),
            n_trajectories=self.blocks.n_trajectories,
            domains=tuple(self.domains),
            rows=rows,
            intervals={m: {metric: self._interval(sums[m], metric) for metric in WITH_INTERVALS} for m in self.models},
            improvements={f"{m} - {judged}": self._improvement(sums[m], sums[judged]) for m in self.models[:-1]},
            skill=skill(rows["prior"]["all"]["mse"], rows[judged]["all"]["mse"], floor) if compared else None,
            samples={key: _thin(np.concatenate(values), config) for key, values in self.samples.items()},
        )

    def _interval(self, sums: np.ndarray, metric: str) -> Interval:
        return bootstrap(sums, lambda s: metrics(s)[metric], self.blocks, self.config.n_resamples, seed=self.config.seed)

    def _improvement(self, other: np.ndarray, judged: np.ndarray) -> Interval:
        def difference(s: np.ndarray) -> np.ndarray:
            return metrics(s[:, 0])["mse"] - metrics(s[:, 1])["mse"]

        both = np.stack([other, judged], axis=1)
        return bootstrap(both, difference, self.blocks, self.config.n_resamples, seed=self.config.seed)


def _thin(vectors: np.ndarray, config: ForcesConfig) -> np.ndarray:
    if len(vectors) <= config.n_samples:
        return vectors
    return vectors[np.random.default_rng(config.seed).choice(len(vectors), config.n_samples, replace=False)]


def _parts(bundle: "Bundle", part: "Part") -> tuple["Part", ...]:
    """Return the parts to compute: the prior, where there is one, and the one judged."""
    known = bundle.model.parts
    require(part == "full" or part in known, f"forces: the bundle has no {part}, only {' and '.join(known)}; choose part=full")
    return ("prior", part) if "prior" in known and part != "prior" else (part,)
