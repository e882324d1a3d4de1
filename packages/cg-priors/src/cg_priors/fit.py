"""From frames to a prior: choose the temperature, histogram, fit every term, match forces where asked, check."""

import dataclasses
import itertools
import logging
from collections.abc import Sequence

import numpy as np

import cg_priors
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_data.mapped import Rows, as_slice
from cg_data.store import Dataset
from cg_priors.config import PriorConfig
from cg_priors.fit_term import RowFit, fit_term, needs_keys
from cg_priors.histogram import RANGES, Histogram, accumulate
from cg_priors.linear import Row
from cg_priors.parameters import TERM_NAMES, PriorParameters, Term

logger = logging.getLogger(__name__)

SAME_TEMPERATURE_KELVIN = 0.5


def fit(frames: Sequence[BeadFrames], config: PriorConfig, species_names: Sequence[str]) -> PriorParameters:
    """Return the prior of frames of one or many domains, one block for each temperature.

    Raises `UserError` where frames have several temperatures and the configuration chooses none, have none of its choice, lack
    the forces that the method needs, or have positions that are not finite.
    """
    return fit_and_histograms(frames, config, species_names)[0]


def fit_and_histograms(
    frames: Sequence[BeadFrames], config: PriorConfig, species_names: Sequence[str]
) -> tuple[PriorParameters, dict[float, dict[str, Histogram]]]:
    """Return the prior, as `fit`, and the histograms behind the block of each temperature, all trajectories in one."""
    blocks: list[PriorParameters] = []
    histograms: dict[float, dict[str, Histogram]] = {}
    for temperature in chosen_temperatures(frames, config):
        block, found = fit_at(at_temperature(frames, temperature), config, tuple(species_names), temperature)
        histograms[temperature] = {
            name: dataclasses.replace(item, counts=item.counts.sum(0, keepdims=True)) for name, item in found.items()
        }
        blocks.append(block.check(f"prior fitted at {temperature:g} K"))
    return dataclasses.replace(blocks[0], others=tuple(blocks[1:])), histograms


def fit_dataset(dataset: Dataset, config: PriorConfig, split: str = "train") -> PriorParameters:
    """Return the prior of a dataset's frames of one split; nothing else of the data set is read."""
    prior = fit(split_frames(dataset, split), config, dataset.species_names)
    return dataclasses.replace(prior, provenance={**prior.provenance, "dataset": dataset.path.name, "split": split})


def split_frames(dataset: Dataset, split: str) -> list[BeadFrames]:
    """Return the frames of each domain of a split; their numbers are neither read nor checked by this."""
    return [choose_frames(dataset.frames(domain, numbers=False), indices) for domain, indices in dataset.split(split).items()]


def choose_frames(frames: BeadFrames, indices: np.ndarray) -> BeadFrames:
    """Return the frames at ascending indices [n]; arrays per bead are read only where they are looked at."""
    some = as_slice(indices)
    if isinstance(some, slice) and not isinstance(frames.positions, Rows):
        return frames.select(some)
    named = {name: getattr(frames, name) for name in ("positions", "forces", "force_error")}
    per_bead = {name: Rows(array, indices) for name, array in named.items() if array is not None}
    others = dataclasses.replace(frames, **dict.fromkeys(per_bead)).select(some)
    return dataclasses.replace(others, **per_bead)


def chosen_temperatures(frames: Sequence[BeadFrames], config: PriorConfig) -> tuple[float, ...]:
    """Return the temperatures to fit at, each present in the frames."""
    present = sorted({float(value) for item in frames for value in np.unique(item.temperature)})
    require(bool(present), "frames: expected at least one frame, received none: check the data set or the split")
    for low, high in itertools.pairwise(present):
        require(
            high - low >= 2 * SAME_TEMPERATURE_KELVIN,
            f"frames: expected temperatures that are equal or at least {2 * SAME_TEMPERATURE_KELVIN:g} K apart, received {low:g} and "
            f"{high:g} K: give frames of one thermostat one temperature",
        )
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


def check_bonds(histogram: Histogram) -> None:
    """Raise `UserError` where most bonds are longer or shorter than any, warn where some are: of other units, or wrapped into a box."""
    low, high, _ = RANGES["bond"]
    inside, outside = int(histogram.counts.sum()), histogram.outside
    found = f"bond: {outside:,} of {inside + outside:,} bonds are not {low:g} to {high:g} angstrom long"
    remedy = "positions are angstrom, of whole molecules, and neighbours along a chain are bonded: convert, unwrap, or tell chains apart"
    require(outside <= inside, f"{found}: {remedy}")
    if outside:
        logger.warning("%s and were left out; %s", found, remedy)


def at_temperature(frames: Sequence[BeadFrames], temperature: float) -> list[BeadFrames]:
    """Return the frames at one temperature, without domains that have none."""
    selected = []
    for item in frames:
        mine = np.flatnonzero(np.abs(np.asarray(item.temperature) - temperature) < SAME_TEMPERATURE_KELVIN)
        if len(mine):
            selected.append(choose_frames(item, mine))
    return selected


def fit_at(
    frames: Sequence[BeadFrames], config: PriorConfig, species_names: tuple[str, ...], temperature: float
) -> tuple[PriorParameters, dict[str, Histogram]]:
    """Return the prior of frames of one temperature and the histograms behind it."""
    wanted = [name for name in TERM_NAMES if getattr(config, name) is not None]
    pooled = [name for name in wanted if not needs_keys(getattr(config, name))]
    histograms = accumulate(frames, wanted, species_names, config.pair_frames, pooled)
    if "bond" in histograms:
        require(
            bool(histograms["bond"].counts.size),
            "bond: expected consecutive residues of one chain, the frames have none: check residue_index, chain_index, and that positions "
            "are angstrom; bond=null fits beads without bonds",
        )
        check_bonds(histograms["bond"])
    terms: dict[str, Term] = {}
    arrays: dict[str, Row] = {}
    fits: dict[str, RowFit] = {}
    for name in wanted:
        if not any(block.any() for block in histograms[name].counts):
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
