"""From frames to a prior: choose the temperature, histogram, fit every term, match forces where asked, check."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

import cg_priors
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_data.store import Dataset
from cg_priors.config import PriorConfig
from cg_priors.fit_term import RowFit, fit_term
from cg_priors.histogram import Histogram, accumulate
from cg_priors.linear import Row
from cg_priors.parameters import TERM_NAMES, PriorParameters, Term

logger = logging.getLogger(__name__)

SAME_TEMPERATURE_KELVIN = 0.5


def fit(frames: Sequence[BeadFrames], config: PriorConfig, species_names: Sequence[str]) -> PriorParameters:
    """Return the prior of frames of one or many domains, one block for each temperature.

    Raises `UserError` where frames have several temperatures and the configuration chooses none, have none of its choice, or
    lack the forces that the method needs.
    """
    first, *others = [
        fit_at(at_temperature(frames, temperature), config, tuple(species_names), temperature)[0]
        for temperature in chosen_temperatures(frames, config)
    ]
    prior = dataclasses.replace(first, others=tuple(others))
    for block in (first, *others):
        block.check(f"prior fitted at {block.temperature_kelvin:g} K")
    return prior


def fit_dataset(dataset: Dataset, config: PriorConfig, split: str = "train") -> PriorParameters:
    """Return the prior of a dataset's frames of one split; nothing else of the data set is read."""
    frames = [dataset.frames(domain).select(as_slice(indices)) for domain, indices in dataset.split(split).items()]
    prior = fit(frames, config, dataset.species_names)
    return dataclasses.replace(prior, provenance={**prior.provenance, "dataset": dataset.path.name, "split": split})


def as_slice(indices: np.ndarray) -> np.ndarray | slice:
    """Return a slice where the indices are a run: slicing a memory-mapped array reads nothing."""
    if len(indices) and indices[-1] - indices[0] + 1 == len(indices):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def chosen_temperatures(frames: Sequence[BeadFrames], config: PriorConfig) -> tuple[float, ...]:
    """Return the temperatures to fit at, each present in the frames."""
    present = sorted({float(value) for item in frames for value in np.unique(item.temperature)})
    require(bool(present), "frames: expected at least one frame, received none: check the data set or the split")
    shown = ", ".join(f"{value:g}" for value in present)
    chosen = config.temperature_kelvin
    if chosen == "all":
        return tuple(present)
    if chosen is None:
        if len(present) > 1:
            raise UserError(
                f"temperature_kelvin: the frames are of {shown} K; data of several temperatures are never pooled: "
                f"choose one (temperature_kelvin={present[0]:g}), several (temperature_kelvin=[{shown}]) or all"
            )
        return tuple(present)
    wanted = tuple(chosen) if isinstance(chosen, tuple) else (float(chosen),)
    for value in wanted:
        require(
            any(abs(value - other) < SAME_TEMPERATURE_KELVIN for other in present),
            f"temperature_kelvin: expected one of {shown} K, which the frames have, received {value:g}: choose another",
        )
    return wanted


def at_temperature(frames: Sequence[BeadFrames], temperature: float) -> list[BeadFrames]:
    """Return the frames at one temperature, without domains that have none."""
    selected = []
    for item in frames:
        mine = np.flatnonzero(np.abs(np.asarray(item.temperature) - temperature) < SAME_TEMPERATURE_KELVIN)
        if len(mine):
            selected.append(item.select(as_slice(mine)))
    return selected


def fit_at(
    frames: Sequence[BeadFrames], config: PriorConfig, species_names: tuple[str, ...], temperature: float
) -> tuple[PriorParameters, dict[str, Histogram]]:
    """Return the prior of frames of one temperature and the histograms behind it."""
    wanted = [name for name in TERM_NAMES if getattr(config, name) is not None]
    histograms = accumulate(frames, wanted, species_names, config.pair_frames)
    terms: dict[str, Term] = {}
    arrays: dict[str, Row] = {}
    fits: dict[str, RowFit] = {}
    for name in wanted:
        if not histograms[name].counts.any():
            logger.warning("%s: the frames have no such tuples; the prior has no %s term", name, name)
            continue
        terms[name], arrays[name], fits[name] = fit_term(name, getattr(config, name), histograms[name], temperature, config)
    provenance = {
        "cg_priors_version": cg_priors.__version__,
        "method": config.method,
        "n_domains": len(frames),
        "n_frames": sum(item.n_frames for item in frames),
        "n_trajectories": sum(len(np.unique(item.trajectory)) for item in frames),
        "configuration": config.to_dict(),
    }
    prior = PriorParameters(species_names, temperature, terms, arrays, provenance)
    if config.method == "joint":
        from cg_priors.fit_joint import fit_joint

        prior = fit_joint(frames, prior, fits, config)
    elif config.method == "lbfgs":
        from cg_priors.fit_lbfgs import fit_lbfgs

        prior = fit_lbfgs(frames, prior, config)
    return prior, histograms
