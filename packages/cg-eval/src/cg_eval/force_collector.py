"""Adds up the errors of one split of a data set, piece by piece, and turns them into a `ForceSplit`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.store import Dataset
from cg_eval.bootstrap import Interval, interval_of, join_blocks, resampled_sums, time_blocks
from cg_eval.force_metrics import COLUMNS, chain_positions, errors_by_group, force_sums, metrics, skill
from cg_eval.force_report import ForcesConfig, ForceSplit
from cg_eval.predict import TERM, DomainForces

WITH_INTERVALS = ("mse", "mae", "cosine", "pearson")
LABELS = "labels"
"""Beside the models: sums of the squared standard errors of the labels, and of their components, both weighted."""

Sums = Mapping[str, np.ndarray]
"""{model: [k, len(COLUMNS)], LABELS: [k, 2]} of k resamples, or of k blocks."""


class Collector:
    """The sums of one split; memory does not grow with its frames, but for one row of sums per time block."""

    def __init__(self, name: str, dataset: Dataset, chosen: Mapping[str, np.ndarray], parts: Sequence[str], config: ForcesConfig):
        """Prepare for the frames `chosen` {domain: frame indices}, which come in that order, in pieces."""
        self.name, self.species_names, self.config = name, dataset.species_names, config
        self.models, self.judged = ("zero", *parts), parts[-1]
        self.domains = tuple(chosen)
        frames = {domain: dataset.frames(domain, numbers=False) for domain in chosen}
        self.blocks = join_blocks(
            [time_blocks(frames[domain].trajectory[indices], config.block_frames) for domain, indices in chosen.items()]
        )
        self.n_vectors = sum(len(indices) * frames[domain].n_beads for domain, indices in chosen.items())
        self.n_seen = 0
        self.totals: dict[str, dict[str, np.ndarray]] = {model: {} for model in self.models}
        self.maxima: dict[str, dict[str, float]] = {model: {} for model in self.models}
        self.block_sums = {model: np.zeros((self.blocks.n_blocks, len(COLUMNS))) for model in self.models}
        self.block_sums[LABELS] = np.zeros((self.blocks.n_blocks, 2))
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
            np.add.at(self.block_sums[LABELS], block_of_frame, np.stack([weight * squared, weight * reference[0].size], axis=1))
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
        config, judged = self.config, self.judged
        rows = {
            model: {
                group: {key: float(value) for key, value in metrics(total).items()} | {"maximum": self.maxima[model][group]}
                for group, total in sorted(totals.items())
            }
            for model, totals in self.totals.items()
        }
        interval = self._intervals()
        compared = "prior" in self.models and judged != "prior"
        floor, excess = None, {}
        if self.block_sums[LABELS][:, 1].all():
            floor = interval(_floor)
            excess = {model: interval(partial(_excess, model)) for model in self.models}
        known = config.mse_floor if config.mse_floor is not None else floor.estimate if floor is not None else 0.0
        return ForceSplit(
            name=self.name,
            n_frames=len(self.blocks.block_of_frame),
            n_trajectories=self.blocks.n_trajectories,
            domains=self.domains,
            rows=rows,
            intervals={m: {name: interval(partial(_metric, m, name)) for name in WITH_INTERVALS} for m in self.models},
            improvements={f"{m} - {judged}": interval(partial(_improvement, m, judged)) for m in self.models[:-1]},
            skill=skill(rows["prior"]["all"]["mse"], rows[judged]["all"]["mse"], known) if compared else None,
            terms={name: _term(total) for name, total in self.terms.items()},
            mse_floor=config.mse_floor,
            floor=floor,
            excess=excess,
            samples={key: np.concatenate(values) for key, values in self.samples.items()},
        )

    def _intervals(self) -> Callable[[Callable[[Sums], np.ndarray]], Interval]:
        """Return (statistic of all models' sums and the labels') -> its interval; the blocks are drawn once for all of them."""
        together = np.concatenate(list(self.block_sums.values()), axis=1)
        ends = np.cumsum([values.shape[1] for values in self.block_sums.values()])[:-1]

        def apart(sums: np.ndarray) -> Sums:
            return dict(zip(self.block_sums, np.split(sums, ends, axis=1), strict=True))

        whole, drawn = (
            apart(together.sum(axis=0)[None]),
            apart(resampled_sums(together, self.blocks, self.config.n_resamples, self.config.seed)),
        )
        return lambda statistic: interval_of(statistic(whole)[0], statistic(drawn), self.blocks)


def _metric(model: str, name: str, sums: Sums) -> np.ndarray:
    return metrics(sums[model])[name]


def _improvement(other: str, judged: str, sums: Sums) -> np.ndarray:
    return _metric(other, "mse", sums) - _metric(judged, "mse", sums)


def _excess(model: str, sums: Sums) -> np.ndarray:
    return _metric(model, "mse", sums) - _floor(sums)


def _floor(sums: Sums) -> np.ndarray:
    """Return [k]: the mean squared standard error of the labels, which a perfect model would have as its MSE."""
    return np.asarray(sums[LABELS][:, 0] / sums[LABELS][:, 1])


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
