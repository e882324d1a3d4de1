"""Adds up the errors of one split of a data set, piece by piece, and turns them into a `ForceSplit`."""

from collections.abc import Mapping, Sequence

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.store import Dataset
from cg_eval.bootstrap import Blocks, Interval, bootstrap, time_blocks
from cg_eval.force_metrics import COLUMNS, chain_positions, errors_by_group, force_sums, metrics, skill
from cg_eval.force_report import ForcesConfig, ForceSplit
from cg_eval.predict import TERM, DomainForces

WITH_INTERVALS = ("mse", "mae", "cosine", "pearson")


class Collector:
    """The sums of one split; memory does not grow with its frames, but for one row of sums per time block."""

    def __init__(self, name: str, dataset: Dataset, chosen: Mapping[str, np.ndarray], parts: Sequence[str], config: ForcesConfig):
        """Prepare for the frames `chosen` {domain: frame indices}, which come in that order, in pieces."""
        self.name, self.species_names, self.config = name, dataset.species_names, config
        self.models, self.judged = ("zero", *parts), parts[-1]
        self.domains = tuple(chosen)
        self.blocks = Blocks(np.zeros(0, np.int64), np.zeros(0, np.int64), config.block_frames)
        self.n_vectors = 0
        for domain, indices in chosen.items():
            frames = dataset.frames(domain, numbers=False)
            self.blocks = self.blocks.followed_by(time_blocks(frames.trajectory[indices], config.block_frames))
            self.n_vectors += len(indices) * frames.n_beads
        self.n_seen = 0
        self.totals: dict[str, dict[str, np.ndarray]] = {model: {} for model in self.models}
        self.maxima: dict[str, dict[str, float]] = {model: {} for model in self.models}
        self.block_sums = {model: np.zeros((self.blocks.n_blocks, len(COLUMNS))) for model in self.models}
        self.block_label_errors = np.zeros((self.blocks.n_blocks, 2))
        self.terms: dict[str, np.ndarray] = {}
        self.samples: dict[str, list[np.ndarray]] = {name: [] for name in ("reference", *self.models)}
        self.generator = np.random.default_rng(config.seed)

    def add(self, found: DomainForces) -> None:
        """Take in the next frames."""
        frames, reference = found.frames, np.asarray(found.frames.forces, np.float64)
        block_of_frame = self.blocks.block_of_frame[self.n_seen : self.n_seen + frames.n_frames]
        self.n_seen += frames.n_frames
        weight = np.ones(frames.n_frames) if frames.weight is None else np.asarray(frames.weight, np.float64)
        groups = bead_groups(frames, self.species_names)
        n_vectors = frames.n_frames * frames.n_beads
        share = min(1.0, self.config.n_samples / self.n_vectors)
        kept = self.generator.choice(n_vectors, min(int(np.ceil(share * n_vectors)), n_vectors), replace=False)
        self.samples["reference"].append(reference.reshape(-1, 3)[kept])
        for model in self.models:
            predicted = np.zeros_like(reference) if model == "zero" else np.asarray(found.forces[model], np.float64)
            errors = errors_by_group(predicted, reference, groups, weight)
            errors |= {f"temperature/{t:g} K": errors["all"].select(frames.temperature == t) for t in np.unique(frames.temperature)}
            errors[f"protein/{found.domain}"] = errors["all"]
            for group, of_frames in errors.items():
                self.totals[model][group] = self.totals[model].get(group, 0.0) + of_frames.sums.sum(axis=0)
                self.maxima[model][group] = max(self.maxima[model].get(group, 0.0), float(of_frames.maximum.max()))
            np.add.at(self.block_sums[model], block_of_frame, errors["all"].sums)
            self.samples[model].append(predicted.reshape(-1, 3)[kept])
        if frames.force_error is not None:
            squared = (np.asarray(frames.force_error, np.float64) ** 2).sum(axis=(1, 2))
            np.add.at(self.block_label_errors, block_of_frame, np.stack([weight * squared, weight * reference[0].size], axis=1))
        if self.judged != "backbone":
            self._add_terms(found, reference, weight)

    def _add_terms(self, found: DomainForces, reference: np.ndarray, weight: np.ndarray) -> None:
        judged = np.asarray(found.forces[self.judged], np.float64)
        for name, forces in found.forces.items():
            if name.startswith(TERM):
                alone = np.asarray(forces, np.float64)
                both = np.stack([force_sums(alone, reference), force_sums(judged - alone, reference)]).sum(axis=2)
                key = name.removeprefix(TERM)
                self.terms[key] = self.terms.get(key, 0.0) + np.einsum("mfc,f->mc", both, weight)

    def finish(self) -> ForceSplit:
        """Return what was found."""
        config, judged, sums = self.config, self.judged, self.block_sums
        rows = {
            model: {
                group: {key: float(value) for key, value in metrics(total).items()} | {"maximum": self.maxima[model][group]}
                for group, total in sorted(totals.items())
            }
            for model, totals in self.totals.items()
        }
        compared = "prior" in self.models and judged != "prior"
        floor, excess = self._floor(), {}
        if floor is not None:
            excess = {model: self._excess(sums[model]) for model in self.models}
        known = config.mse_floor if config.mse_floor is not None else floor.estimate if floor is not None else 0.0
        return ForceSplit(
            name=self.name,
            n_frames=len(self.blocks.block_of_frame),
            n_trajectories=self.blocks.n_trajectories,
            domains=self.domains,
            rows=rows,
            intervals={m: {metric: self._interval(sums[m], metric) for metric in WITH_INTERVALS} for m in self.models},
            improvements={f"{m} - {judged}": self._improvement(sums[m], sums[judged]) for m in self.models[:-1]},
            skill=skill(rows["prior"]["all"]["mse"], rows[judged]["all"]["mse"], known) if compared else None,
            terms={name: _term(total) for name, total in self.terms.items()},
            mse_floor=config.mse_floor,
            floor=floor,
            excess=excess,
            samples={key: np.concatenate(values) for key, values in self.samples.items()},
        )

    def _interval(self, sums: np.ndarray, metric: str) -> Interval:
        return bootstrap(sums, lambda s: metrics(s)[metric], self.blocks, self.config.n_resamples, seed=self.config.seed)

    def _improvement(self, other: np.ndarray, judged: np.ndarray) -> Interval:
        def difference(s: np.ndarray) -> np.ndarray:
            return metrics(s[:, 0])["mse"] - metrics(s[:, 1])["mse"]

        both = np.stack([other, judged], axis=1)
        return bootstrap(both, difference, self.blocks, self.config.n_resamples, seed=self.config.seed)

    def _floor(self) -> Interval | None:
        """Return the mean squared standard error of the labels, which a perfect model would have as its MSE; None where unknown."""
        if not self.block_label_errors[:, 1].all():
            return None
        return bootstrap(self.block_label_errors, _ratio, self.blocks, self.config.n_resamples, seed=self.config.seed)

    def _excess(self, sums: np.ndarray) -> Interval:
        both = np.concatenate([sums, self.block_label_errors], axis=1)
        return bootstrap(
            both, lambda s: metrics(s[:, :-2])["mse"] - _ratio(s[:, -2:]), self.blocks, self.config.n_resamples, seed=self.config.seed
        )


def _ratio(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[:, 0] / sums[:, 1])


def _term(total: np.ndarray) -> dict[str, float]:
    alone, without = metrics(total[0]), metrics(total[1])
    squared = total[0][COLUMNS.index("predicted_squared")] / total[0][COLUMNS.index("components")]
    return {
        "rms": float(np.sqrt(squared)),
        "mse": float(alone["mse"]),
        "mse_without": float(without["mse"]),
        "pearson": float(alone["pearson"]),
    }


def bead_groups(frames: BeadFrames, residue_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return {group: [n_beads] bool}: `residue/NAME` by species and `position/terminus|core`."""
    species = np.asarray(frames.species)
    groups = {f"residue/{residue_names[index]}": species == index for index in np.unique(species)}
    terminal = chain_positions(frames.residue_index, frames.chain_index)
    return groups | {"position/terminus": terminal, "position/core": ~terminal}
