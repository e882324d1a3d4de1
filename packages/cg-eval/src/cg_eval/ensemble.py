"""Uncertainty by an ensemble: does the spread of its members' forces tell where they are wrong?

The uncertainty of a force vector is the root mean squared deviation of the members' components from their mean. It is calibrated
where, among vectors of one uncertainty, the squared error of the mean grows as the uncertainty does; the noise of instantaneous
labels adds a constant to every squared error, which the fitted line gives.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
from scipy import stats

from cg_data.atomic import atomic_folder
from cg_data.command_line import progress_bar
from cg_data.configuration import Configuration
from cg_data.errors import UserError, counted, require
from cg_data.store import Dataset
from cg_eval.force_report import ForcesConfig
from cg_eval.forces import FRAMES_PER_PIECE, choose_frames
from cg_eval.json_text import to_json
from cg_eval.predict import predict_forces

if TYPE_CHECKING:
    from cg_models.bundle import Bundle


class EnsembleConfig(Configuration):
    """Options of an ensemble's evaluation."""

    splits: tuple[str, ...] = ("held_out_trajectories", "held_out_domains")
    domains: tuple[str, ...] | None = None
    temperature_kelvin: float | None = None
    frames: int | None = pydantic.Field(default=None, ge=1)
    """A random choice of so many frames per split; null for all."""
    n_listed: int = pydantic.Field(default=20, ge=1)
    """Frames of the highest uncertainty that are listed for labelling anew."""
    n_bins: int = pydantic.Field(default=10, ge=3)
    """Of equal numbers of force vectors, in the calibration."""
    beads_per_batch: int = pydantic.Field(default=1024, ge=1)
    devices: int | None = pydantic.Field(default=None, ge=1)
    seed: int = pydantic.Field(default=0, ge=0, lt=2**32)


@dataclass(frozen=True)
class UncertainFrame:
    """A frame and how unsure the ensemble is of it: the root mean square uncertainty and error of its components, kcal/mol/A."""

    domain: str
    frame: int
    trajectory: int
    temperature_kelvin: float
    split: str
    uncertainty: float
    error: float


@dataclass(frozen=True)
class EnsembleReport:
    """What the spread says.

    uncertainty, error [n_bins]: root mean square of each bin of force vectors in order of uncertainty, per component,
    kcal/mol/A; slope, offset: squared error = slope * squared uncertainty + offset over the bins (1 and the labels' noise for a
    perfect one); rank_correlation: Spearman, of frames' uncertainties and errors; frames: the least certain first.
    """

    n_members: int
    n_frames: int
    n_trajectories: int
    uncertainty: np.ndarray
    error: np.ndarray
    counts: np.ndarray
    slope: float
    offset: float
    rank_correlation: float
    mse: float
    member_mse: tuple[float, ...]
    frames: tuple[UncertainFrame, ...]
    config: EnsembleConfig

    def caption(self) -> str:
        """Return what was looked at, in a line."""
        return f"{self.n_members} members; {self.n_frames} frames of {self.n_trajectories} trajectories"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}
        return plain | {"frames": [vars(frame) for frame in self.frames], "config": self.config.to_dict()}

    def table(self) -> str:
        """Return the report as text."""
        lines = [
            self.caption(),
            f"MSE of the mean {self.mse:.4g}, of the members {', '.join(f'{value:.4g}' for value in self.member_mse)} (kcal/mol/A)^2",
            f"squared error = {self.slope:.3g} x squared uncertainty + {self.offset:.4g}; "
            f"Spearman correlation over frames {self.rank_correlation:.3f}",
            f"{'uncertainty':>12} {'rms error':>10} {'vectors':>8}",
        ]
        lines += [f"{u:>12.3f} {e:>10.3f} {n:>8}" for u, e, n in zip(self.uncertainty, self.error, self.counts, strict=True)]
        lines.append("the least certain frames")
        lines += [
            f"  {f.domain} frame {f.frame} (trajectory {f.trajectory}, {f.temperature_kelvin:g} K, {f.split}): "
            f"uncertainty {f.uncertainty:.3f}, error {f.error:.3f} kcal/mol/A"
            for f in self.frames
        ]
        return "\n".join(lines)

    def save(self, folder: Path | str, overwrite: bool = False) -> None:
        """Write ensemble.txt, .json, uncertain-frames.csv and the calibration plot, atomically."""
        from cg_eval.plots import plot_calibration

        with atomic_folder(folder, overwrite=overwrite) as aside:
            (aside / "ensemble.txt").write_text(self.table() + "\n")
            (aside / "ensemble.json").write_text(to_json(self.to_dict()))
            self.config.save(aside / "config.yaml")
            with open(aside / "uncertain-frames.csv", "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(list(UncertainFrame.__dataclass_fields__))
                writer.writerows(list(vars(frame).values()) for frame in self.frames)
            plot_calibration(self, aside / "calibration.png")


def load_members(paths: Sequence[Path | str]) -> list["Bundle"]:
    """Return the bundles of an ensemble folder (its ensemble.json names them), or of the folders given.

    Raises `UserError` for fewer than two, or where they are not of the same species.
    """
    from cg_eval.force_field import load_force_field

    folders = [Path(path) for path in paths]
    if len(folders) == 1 and (folders[0] / "ensemble.json").is_file():
        try:
            about = json.loads((folders[0] / "ensemble.json").read_text())
            folders = [folders[0] / _member_path(member) for member in about["members"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folders[0]}/ensemble.json: expected a list 'members' of paths ({error.__class__.__name__})") from None
    expected = "expected an ensemble (a folder with ensemble.json) or two or more bundles"
    require(len(folders) >= 2, f"{paths[0]}: {expected}, received {counted(len(folders), 'bundle')}: give more")
    bundles = [load_force_field(folder) for folder in folders]
    names = {bundle.species_names for bundle in bundles}
    require(len(names) == 1, "ensemble: members have different species: give members of one ensemble")
    return bundles


def evaluate_ensemble(
    members: Sequence["Bundle"], dataset: Dataset, config: EnsembleConfig | None = None, show_progress: bool = False
) -> EnsembleReport:
    """Compare the spread of the members' forces with the errors of their mean on frames of a data set.

    Raises `UserError` where there are fewer than two members or no frames, and where all members are one model.
    """
    config = config or EnsembleConfig()
    require(len(members) >= 2, f"ensemble: expected two or more members, received {len(members)}")
    require(dataset.info.has_forces, f"{dataset.path}: has no forces; prepare it from trajectories with forces")
    options = ForcesConfig(domains=config.domains, temperature_kelvin=config.temperature_kelvin, frames=config.frames, seed=config.seed)
    pieces = [
        (split, domain, indices[first : first + FRAMES_PER_PIECE])
        for split in config.splits
        for domain, indices in choose_frames(dataset, split, options).items()
        for first in range(0, len(indices), FRAMES_PER_PIECE)
    ]
    require(bool(pieces), f"{dataset.path}: no frame in the splits {', '.join(config.splits)} with the options given; choose others")
    chosen = [(domain, indices) for _, domain, indices in pieces]
    streams = [predict_forces(member, dataset, chosen, ("full",), config.beads_per_batch, config.devices) for member in members]
    vectors: list[np.ndarray] = []
    squared_members = np.zeros(len(members))
    frames: list[UncertainFrame] = []
    with progress_bar() as bar:
        task = bar.add_task("ensemble", total=sum(len(indices) for _, _, indices in pieces), visible=show_progress)
        for (split, domain, indices), *found in zip(pieces, *streams, strict=True):
            forces = np.stack([np.asarray(one.forces["full"], np.float64) for one in found])
            reference = np.asarray(found[0].frames.forces, np.float64)
            squared_members += ((forces - reference) ** 2).sum(axis=(1, 2, 3))
            # Divided by n - 1: the spread of few members is not smaller on average than that of many.
            variance = forces.var(axis=0, ddof=1).mean(axis=-1)
            squared = ((forces.mean(axis=0) - reference) ** 2).mean(axis=-1)
            vectors.append(np.stack([variance.ravel(), squared.ravel()]))
            per_frame = np.sqrt(np.stack([variance.mean(axis=1), squared.mean(axis=1)]))
            frames += [
                UncertainFrame(domain, int(index), int(trajectory), float(kelvin), split, float(u), float(e))
                for index, trajectory, kelvin, u, e in zip(
                    indices, found[0].frames.trajectory, found[0].frames.temperature, *per_frame, strict=True
                )
            ]
            bar.advance(task, len(indices))
    variance, squared = np.concatenate(vectors, axis=1)
    require(bool((variance > 0).any()), "ensemble: the members' forces are the same everywhere: give members that were trained apart")
    ordered = np.array_split(np.argsort(variance, kind="stable"), min(config.n_bins, len(variance)))
    binned = np.array([[variance[members_].mean(), squared[members_].mean()] for members_ in ordered]).T
    counts = np.array([len(members_) for members_ in ordered])
    design = np.stack([binned[0], np.ones(len(counts))], axis=1)
    # The scatter of a mean of squares is proportional to it: relative deviations count alike.
    scale = np.maximum(binned[1], 1e-12 * max(binned[1].max(), 1e-300))
    slope, offset = np.linalg.lstsq(design / scale[:, None], binned[1] / scale, rcond=None)[0]
    pairs = np.array([[frame.uncertainty, frame.error] for frame in frames])
    varies = len(pairs) > 2 and bool((pairs.std(axis=0) > 0).all())
    return EnsembleReport(
        n_members=len(members),
        n_frames=len(frames),
        n_trajectories=len({(frame.domain, frame.trajectory) for frame in frames}),
        uncertainty=np.sqrt(binned[0]),
        error=np.sqrt(binned[1]),
        counts=counts,
        slope=float(slope),
        offset=float(offset),
        rank_correlation=float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic) if varies else float("nan"),
        mse=float(squared.mean()),
        member_mse=tuple(float(value / (3 * len(squared))) for value in squared_members),
        frames=tuple(sorted(frames, key=lambda frame: -frame.uncertainty)[: config.n_listed]),
        config=config,
    )


def _member_path(member: Any) -> str:
    """Return a member's path, given as text or as an entry `bundle` or `path`."""
    if isinstance(member, dict):
        member = member.get("bundle", member.get("path"))
    return str(member)
