"""Does the model visit what the reference visits? Distributions, surfaces, contacts, each beside the reference's own noise.

The noise of a divergence is that between two halves of the reference, made of whole trajectories: a model whose divergence is
near it cannot be told from the reference with these data.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydantic

from cg_data.configuration import Configuration
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_data.store import Dataset
from cg_eval.bootstrap import Blocks, Interval, bootstrap, time_blocks
from cg_eval.chain_observables import Observable, chain_observables
from cg_eval.comparison import Comparison, ObservableComparison, Survival
from cg_eval.distributions import overlap, wasserstein, wasserstein_of_counts
from cg_eval.flexibility import compare_contacts, compare_flexibility
from cg_eval.simulation import Simulation
from cg_eval.stability import survival_interval
from cg_eval.stored_rmsf import stored_rmsf
from cg_eval.surfaces import free_energy_surfaces
from cg_priors.divergence import js_divergence

FINE_BINS = 2000
"""Of the intervals of Wasserstein distances; a bin is far narrower than they are."""


class CompareConfig(Configuration):
    """Options of a comparison."""

    after_ps: float = pydantic.Field(default=0.0, ge=0)
    """Leave out the start of each replica, up to this time."""
    temperature_kelvin: float | None = None
    """Of a simulation with several temperatures: the one compared; null for its lowest. Of one at constant energy: the reference's;
    null for the nearest to its kinetic temperature."""
    reference: str | None = None
    """Domain of the data set to compare with, where the simulation is named otherwise, as one of a PDB file is; of one simulation."""
    n_bins: int = pydantic.Field(default=50, ge=2)
    native_cutoff_angstrom: float = pydantic.Field(default=9.0, gt=0)
    native_tolerance: float = pydantic.Field(default=1.2, gt=1)
    """lambda of the fraction of native contacts."""
    clash_distance_angstrom: float = pydantic.Field(default=4.0, gt=0)
    most_scored_frames: int = pydantic.Field(default=200, ge=2)
    """Frames of each side, evenly chosen, whose GDT-TS, TM-score and lDDT are computed."""
    tica_lag_frames: int = pydantic.Field(default=5, ge=1)
    """Of the reference's slow coordinates; left out where its trajectories are too short."""
    mdcath: Path | None = None
    """mdCATH file, or folder of files, whose stored RMSF is drawn beside those computed here."""
    block_frames: int = pydantic.Field(default=20, ge=1)
    """Frames of a time block of the bootstrap."""
    n_resamples: int = pydantic.Field(default=300, ge=10)
    seed: int = pydantic.Field(default=0, ge=0, lt=2**32)


def compare_distributions(
    model: BeadFrames,
    reference: BeadFrames,
    config: CompareConfig | None = None,
    domain: str = "",
    names: Sequence[str] | None = None,
    stored: np.ndarray | None = None,
) -> Comparison:
    """Compare a model's frames with reference frames of the same chain, at the same temperature.

    model: for example `Simulation.frames()`; reference: frames of a data set at one temperature. Each field `trajectory` says
    what is resampled: intervals come from a bootstrap over replicas, or trajectories, and their time blocks. names: only these
    observables; stored: RMSF [n_beads] A to draw beside.
    """
    config = config or CompareConfig()
    _check_comparable(model, reference, f"compare {domain}" if domain else "compare")
    halves = split_in_halves(np.asarray(reference.trajectory))
    blocks = time_blocks(model.trajectory, config.block_frames)
    known = chain_observables(
        reference, config.native_cutoff_angstrom, config.native_tolerance, config.clash_distance_angstrom, config.most_scored_frames
    )
    chosen: Mapping[str, Observable] = known if names is None else {name: known[name] for name in names}
    temperature = float(np.mean(reference.temperature))
    return Comparison(
        domain=domain,
        temperature_kelvin=temperature,
        n_model_frames=model.n_frames,
        n_model_trajectories=len(np.unique(model.trajectory)),
        n_reference_frames=reference.n_frames,
        n_reference_trajectories=len(np.unique(reference.trajectory)),
        rows=tuple(_compare(name, o, model, reference, config) for name, o in chosen.items()),
        surfaces=free_energy_surfaces(
            model, reference, halves, blocks, known, temperature, config.tica_lag_frames, config.n_resamples, config.seed
        ),
        flexibility=compare_flexibility(model, reference, halves, stored, config.n_resamples, config.seed),
        contacts=compare_contacts(model, reference, halves, config.n_resamples, config.seed),
    )


def compare_simulation(simulation: Simulation, dataset: Dataset, domain: str, config: CompareConfig | None = None) -> Comparison:
    """Compare a simulation with a domain's frames at its temperature: `compare_distributions`, and the survival of its replicas.

    config.reference takes the place of `domain`, the simulation's name. Raises `UserError` where the sequences differ.
    """
    config = config or CompareConfig()
    domain = config.reference or domain
    compared = choose_compared(simulation, dataset, domain, config)
    found = compare_distributions(compared.model, compared.reference, config, domain, stored=compared.stored)
    return replace(found, survival=_survival(simulation), kinetic_temperature_kelvin=compared.kinetic_temperature_kelvin)


@dataclass(frozen=True)
class Compared:
    """What of a simulation is compared with which frames; stored: mdCATH's RMSF [n_beads] A, None where it is not asked for.

    kinetic_temperature_kelvin: the mean of a simulation at constant energy, which has no temperature of its own; None of others.
    """

    model: BeadFrames
    reference: BeadFrames
    stored: np.ndarray | None
    kinetic_temperature_kelvin: float | None


def choose_compared(simulation: Simulation, dataset: Dataset, domain: str, config: CompareConfig) -> Compared:
    """Return what `compare_simulation` compares; `UserError` where it would refuse, before anything is computed."""
    temperature, kinetic = _temperature_compared(simulation, dataset, domain, config)
    reference = reference_frames(dataset, domain, temperature)
    _check_sequence(simulation.residue_names, [dataset.species_names[index] for index in reference.species], f"{domain} in {dataset.path}")
    stored = None if config.mdcath is None else stored_rmsf(config.mdcath, dataset, domain, temperature)
    bath = temperature if kinetic is None else None
    model = simulation.frames(config.after_ps, bath)
    if model.n_frames == 0 and config.after_ps > 0 and simulation.frames(0.0, bath).n_frames > 0:
        raise UserError(f"after_ps={config.after_ps:g}: no replica of {domain} is inside the physical range after it: lower it")
    if kinetic is not None:
        model = replace(model, temperature=np.full_like(model.temperature, temperature))
    _check_comparable(model, reference, f"compare {domain}")
    return Compared(model, reference, stored, kinetic)


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


def _compare(name: str, o: Observable, model: BeadFrames, reference: BeadFrames, config: CompareConfig) -> ObservableComparison:
    model, reference = _thin(model, o.most_frames), _thin(reference, o.most_frames)
    halves = split_in_halves(np.asarray(reference.trajectory))
    values, expected = o.values(model), o.values(reference)
    bins = o.bins(config.n_bins, values, expected)
    blocks, reference_blocks = (time_blocks(frames.trajectory, config.block_frames) for frames in (model, reference))
    counts = _block_counts(bins.place(values), blocks, bins.number)
    total, expected_counts = counts.sum(axis=0), bins.counts(expected)
    # Of all values: a distance of counts in these is that of the values.
    fine = (o if o.period is not None else replace(o, low=None, high=None, n_bins=None)).bins(FINE_BINS, values, expected)
    fine_counts, fine_expected = _block_counts(fine.place(values), blocks, fine.number), fine.counts(expected)
    parts = np.stack([bins.counts(expected[half]) for half in (halves, ~halves)])

    def interval(function: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
        def of_rows(rows: np.ndarray) -> np.ndarray:
            return np.array([function(row, expected_counts) for row in rows])

        return bootstrap(counts, of_rows, blocks, config.n_resamples, seed=config.seed)

    def distances(rows: np.ndarray) -> np.ndarray:
        return wasserstein_of_counts(rows, fine_expected, fine, o.period is not None)

    moved = bootstrap(fine_counts, distances, blocks, config.n_resamples, seed=config.seed)
    exact = wasserstein(values, expected, o.period)
    return ObservableComparison(
        observable=name,
        unit=o.unit,
        jacobian=o.jacobian,
        divergence=interval(js_divergence),
        noise=js_divergence(*parts),
        wasserstein=replace(moved, estimate=exact),
        wasserstein_noise=wasserstein(expected[halves], expected[~halves], o.period),
        overlap=interval(overlap),
        overlap_noise=overlap(*parts),
        model_mean=_mean(values, blocks, o.period, config),
        reference_mean=_mean(expected, reference_blocks, o.period, config),
        outside=bins.outside(values),
        bins=bins,
        model_counts=total,
        reference_counts=expected_counts,
        half_counts=parts,
    )


def _thin(frames: BeadFrames, most: int | None) -> BeadFrames:
    if most is None or frames.n_frames <= most:
        return frames
    return frames.select(np.arange(most) * frames.n_frames // most)


def _block_counts(places: np.ndarray, blocks: Blocks, number: int) -> np.ndarray:
    counts = np.zeros((blocks.n_blocks, number), np.int64)
    np.add.at(counts, (np.broadcast_to(blocks.block_of_frame[:, None], places.shape), places), 1)
    return counts


def _mean(values: np.ndarray, blocks: Blocks, period: float | None, config: CompareConfig) -> Interval:
    """Return the mean, of directions on the circle for a periodic observable, with its interval over trajectories.

    A mean direction lies within half a period of 0; a bound lies within half a period of the mean, so it may be beyond that:
    3.0 [2.8, 3.3] rad goes on past pi.
    """
    if period is None:
        terms = np.stack([np.ones_like(values), values], -1)
        sums = blocks.add_up(terms.sum(axis=1))
        return bootstrap(sums, lambda s: s[:, 1] / s[:, 0], blocks, config.n_resamples, seed=config.seed)
    turn = 2 * np.pi / period
    directions = blocks.add_up(np.exp(1j * turn * values).sum(axis=1))
    centre = float(np.angle(directions.sum()))
    # Seen from the mean, no resample near it is a whole turn away from another.
    directions = directions * np.exp(-1j * centre)
    parts = np.stack([directions.real, directions.imag], -1)
    found = bootstrap(parts, lambda s: np.arctan2(s[:, 1], s[:, 0]) / turn, blocks, config.n_resamples, seed=config.seed)
    mean = centre / turn
    return replace(found, estimate=mean, low=mean + found.low, high=mean + found.high)


def _survival(simulation: Simulation) -> Survival:
    times, fraction, n_replicas = simulation.time_ps, simulation.survival(), len(simulation.outcomes)
    low, high = survival_interval(fraction, n_replicas)
    reasons = Counter(outcome.reason for outcome in simulation.outcomes if outcome.reason)
    temperatures = tuple(float(t) for t in np.unique(simulation.bath_temperature[0]))
    return Survival(times, fraction, low, high, dict(reasons), n_replicas, temperatures)


def _temperature_compared(simulation: Simulation, dataset: Dataset, domain: str, config: CompareConfig) -> tuple[float, float | None]:
    """Return (K of the reference's frames, mean kinetic temperature of a simulation at constant energy, None of others)."""
    chosen = config.temperature_kelvin
    if simulation.config.ensemble == "nve":
        later = simulation.valid & (simulation.time_ps > config.after_ps)[:, None]
        kinetic = float(simulation.kinetic_temperature[later].mean()) if later.any() else float(simulation.bath_temperature[0, 0])
        known = np.unique(dataset.frames(domain, numbers=False).temperature)
        return float(known[np.abs(known - kinetic).argmin()]) if chosen is None else chosen, kinetic
    baths = np.unique(simulation.bath_temperature[0])
    if chosen is None:
        return float(baths[0]), None
    known_baths = ", ".join(f"{t:g}" for t in baths)
    require(
        bool((np.abs(baths - chosen) < 0.5).any()),
        f"temperature_kelvin={chosen:g}: no bath of the simulation of {domain} has it, only {known_baths} K: choose one of these",
    )
    return chosen, None


def _check_sequence(simulated: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Raise `UserError` at the first residue that differs; chains of another length, or that nobody named, are not looked at."""
    if len(simulated) != len(expected) or "UNK" in simulated:
        return
    for number, (name, other) in enumerate(zip(simulated, expected, strict=True), start=1):
        require(
            name == other,
            f"compare: bead {number} of the simulation is {name}, that of {where} is {other}: compare the same domain (reference=DOMAIN)",
        )


def _check_comparable(model: BeadFrames, reference: BeadFrames, where: str) -> None:
    require(model.n_frames > 0, f"{where}: the model has no frame inside the physical range; nothing to compare")
    require(reference.n_frames > 1, f"{where}: expected at least 2 reference frames, received {reference.n_frames}")
    if model.n_beads != reference.n_beads:
        raise UserError(f"{where}: the model has {model.n_beads} beads, the reference {reference.n_beads}: compare the same domain")
    temperatures = np.unique(np.asarray(reference.temperature))
    if len(temperatures) > 1:
        raise UserError(
            f"{where}: reference frames of {len(temperatures)} temperatures ({temperatures.min():g} to {temperatures.max():g} K): "
            "choose those of one"
        )
    if abs(float(np.mean(model.temperature)) - float(temperatures[0])) > 1.0:
        raise UserError(
            f"{where}: the model is at {float(np.mean(model.temperature)):g} K, the reference at {temperatures[0]:g} K: "
            "simulate at the reference's temperature"
        )
