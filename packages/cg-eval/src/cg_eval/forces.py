"""Judge a bundle's forces on a data set: `evaluate_forces`."""

from typing import TYPE_CHECKING

import numpy as np

from cg_data.command_line import progress_bar
from cg_data.errors import UserError, require
from cg_data.store import Dataset
from cg_eval.force_collector import Collector
from cg_eval.force_report import ForceReport, ForcesConfig
from cg_eval.predict import Pace, predict_forces

if TYPE_CHECKING:
    from cg_models.bundle import Bundle
    from cg_models.hybrid import Part

FRAMES_PER_PIECE = 500
"""Frames of a domain that are held in memory together."""


def evaluate_forces(bundle: "Bundle", dataset: Dataset, config: ForcesConfig | None = None, show_progress: bool = False) -> ForceReport:
    """Compare a bundle's forces with a data set's, beside the zero model and the prior.

    Every split is one section of the report. Intervals come from a cluster bootstrap over trajectories (see `bootstrap`).
    """
    config = config or ForcesConfig()
    require(dataset.info.has_forces, f"{dataset.path}: has no forces; prepare it from trajectories with forces")
    chosen = {name: frames for name in config.splits if (frames := choose_frames(dataset, name, config))}
    require(bool(chosen), f"{dataset.path}: no frame in the splits {', '.join(config.splits)} with the options given; choose others")
    parts = _parts(bundle, config.part)
    collectors = {name: Collector(name, dataset, frames, parts, config) for name, frames in chosen.items()}
    pieces = [
        (name, domain, indices[first : first + FRAMES_PER_PIECE])
        for name, frames in chosen.items()
        for domain, indices in frames.items()
        for first in range(0, len(indices), FRAMES_PER_PIECE)
    ]
    total, done = sum(len(indices) for _, _, indices in pieces), 0
    pace = Pace("frames", total)
    stream = predict_forces(
        bundle, dataset, [(domain, indices) for _, domain, indices in pieces], parts, config.beads_per_batch, config.devices
    )
    with progress_bar() as bar:
        task = bar.add_task("forces", total=total, visible=show_progress)
        for (name, _, indices), found in zip(pieces, stream, strict=True):
            collectors[name].add(found)
            done += len(indices)
            bar.update(task, completed=done)
            if show_progress and bar.disable:
                pace.show(done)
    return ForceReport(config.part, {name: collector.finish() for name, collector in collectors.items()}, config)


def choose_frames(dataset: Dataset, split: str, config: ForcesConfig) -> dict[str, np.ndarray]:
    """Return {domain: sorted frame indices} of a split after the choices of domains, temperature and number of frames.

    Raises `UserError` for a domain that the data set lacks; one that has no frame in the split is left out.
    """
    unknown = sorted(set(config.domains or ()) - set(dataset.domains))
    if unknown:
        raise UserError(f"domains: {dataset.path} has no domain {unknown[0]!r}, only {', '.join(dataset.domains)}: choose among these")
    chosen = dataset.split(split)
    if config.domains is not None:
        chosen = {domain: frames for domain, frames in chosen.items() if domain in config.domains}
    if config.temperature_kelvin is not None:
        warm = {domain: np.abs(dataset.frames(domain, numbers=False).temperature - config.temperature_kelvin) < 0.5 for domain in chosen}
        chosen = {domain: frames[warm[domain][frames]] for domain, frames in chosen.items()}
    total = sum(len(frames) for frames in chosen.values())
    if config.frames is not None and config.frames < total:
        keep = np.zeros(total, bool)
        keep[np.random.default_rng(config.seed).choice(total, config.frames, replace=False)] = True
        parts = np.split(keep, np.cumsum([len(frames) for frames in chosen.values()])[:-1])
        chosen = {domain: frames[part] for (domain, frames), part in zip(chosen.items(), parts, strict=True)}
    return {domain: frames for domain, frames in chosen.items() if len(frames)}


def _parts(bundle: "Bundle", part: "Part") -> tuple["Part", ...]:
    """Return the parts to compute: the prior, where there is one, and the one judged."""
    known = bundle.model.parts
    require(part == "full" or part in known, f"forces: the bundle has no {part}, only {' and '.join(known)}; choose part=full")
    return ("prior", part) if "prior" in known and part != "prior" else (part,)
