"""Simulate replicas of a chain with a force field: `simulate` and the small result it returns."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import pydantic

from cg_data.atomic import atomic_file, atomic_folder
from cg_data.command_line import progress_bar
from cg_data.configuration import Configuration
from cg_data.contracts import Array, BeadFrames, EnergyFn, Params
from cg_data.errors import UserError, require
from cg_data.mapping import RESIDUE_MASSES_AMU
from cg_data.store import Dataset
from cg_eval.json_text import to_json
from cg_eval.stability import PhysicalRange, explain, range_check, survival_curve
from cg_eval.trajectory_files import write_dcd, write_pdb

if TYPE_CHECKING:
    from cg_eval.dynamics import Motion
    from cg_models.bundle import Bundle

logger = logging.getLogger("cg_eval")

SIMULATION_VERSION = 1

NEIGHBOUR_MARGIN = 1.15
"""Room for neighbours of a bead, over the most seen."""


class SimulateConfig(Configuration):
    """Options of a simulation."""

    part: Literal["full", "prior", "backbone"] = "full"
    """Which part of the force field moves the beads."""
    ensemble: Literal["langevin", "nve", "tempering"] = "langevin"
    """Langevin dynamics (BAOAB) at a temperature, velocity Verlet at constant energy, or Langevin with parallel tempering."""
    temperature_kelvin: float | None = pydantic.Field(default=None, gt=0)
    """Of the thermostat, and of the momenta at the start; null: that of the model's prior. Tempering takes `tempering_kelvin`."""
    tempering_kelvin: tuple[float, ...] = ()
    """Temperatures of a ladder, ascending; neighbours try to exchange whenever a frame is saved."""
    n_replicas: int = pydantic.Field(default=8, ge=1)
    n_steps: int = pydantic.Field(default=5000, ge=1)
    save_every_steps: int = pydantic.Field(default=50, ge=1)
    time_step_ps: float = pydantic.Field(default=0.01, gt=0)
    """10 fs; the fastest motion, a CA-CA bond, has a period of about 200 fs."""
    friction_per_ps: float = pydantic.Field(default=1.0, gt=0)
    precision: Literal["float32", "float64"] = "float32"
    seed: int = 0
    physical_range: PhysicalRange = PhysicalRange()

    @pydantic.model_validator(mode="after")
    def _check_steps(self) -> "SimulateConfig":
        if self.n_steps % self.save_every_steps:
            raise ValueError(f"n_steps must be a multiple of save_every_steps, received {self.n_steps} and {self.save_every_steps}")
        steps = list(self.tempering_kelvin)
        if (self.ensemble == "tempering") != bool(steps):
            raise ValueError("tempering_kelvin must be given with ensemble tempering, and only then")
        if steps and (len(steps) < 2 or steps != sorted(set(steps)) or steps[0] <= 0 or self.n_replicas % len(steps)):
            raise ValueError(f"tempering_kelvin must be two or more ascending temperatures that divide n_replicas, received {steps}")
        return self


@dataclass(frozen=True)
class ReplicaOutcome:
    """How one replica fared: `stopped_at_ps` and `reason` are None where it stayed in the physical range to the end."""

    replica: int
    stopped_at_ps: float | None
    reason: str | None


@dataclass(frozen=True)
class Simulation:
    """A finished simulation; `n_saved` frames of `n_replicas` replicas, frame 0 being the start.

    positions [n_saved, n_replicas, n_beads, 3] float32 A; time_ps [n_saved]; potential_energy, kinetic_temperature,
    bath_temperature [n_saved, n_replicas] kcal/mol and K; valid [n_saved, n_replicas] bool, False once a replica has stopped;
    exchanges: pairs (tried, exchanged) by tempering.
    """

    positions: np.ndarray
    time_ps: np.ndarray
    potential_energy: np.ndarray
    kinetic_temperature: np.ndarray
    bath_temperature: np.ndarray
    valid: np.ndarray
    outcomes: tuple[ReplicaOutcome, ...]
    species: np.ndarray
    residue_index: np.ndarray
    chain_index: np.ndarray
    residue_names: tuple[str, ...]
    config: SimulateConfig
    replica_steps_per_second: float
    room_growths: int
    exchanges: tuple[int, int] = (0, 0)

    def frames(self, after_ps: float = 0.0, temperature_kelvin: float | None = None) -> BeadFrames:
        """Return the valid frames later than `after_ps`, replica after replica, each replica one trajectory; no forces.

        temperature_kelvin: only the frames whose bath had it; after tempering, choose one.
        """
        keep = self.valid & (self.time_ps > after_ps)[:, None]
        if temperature_kelvin is not None:
            keep &= np.abs(self.bath_temperature - temperature_kelvin) < 0.5
        replica, saved = np.nonzero(keep.T)
        return BeadFrames(
            positions=self.positions[saved, replica],
            forces=None,
            species=self.species,
            residue_index=self.residue_index,
            chain_index=self.chain_index,
            temperature=self.bath_temperature[saved, replica].astype(np.float32),
            trajectory=replica.astype(np.int32),
        )

    def survival(self) -> np.ndarray:
        """Return [n_saved]: the fraction of replicas that were inside the physical range up to each time."""
        stopped = [np.nan if o.stopped_at_ps is None else o.stopped_at_ps for o in self.outcomes]
        return survival_curve(np.asarray(stopped), self.time_ps)

    def to_dict(self) -> dict[str, Any]:
        """Return a summary as plain values."""
        alive = self.valid[1:]
        return {
            "n_beads": int(self.positions.shape[2]),
            "n_replicas": int(self.positions.shape[1]),
            "n_saved_frames": int(self.valid.sum()),
            "simulated_ps_per_replica": float(self.time_ps[-1]),
            "surviving_fraction": float(self.valid[-1].mean()),
            "mean_kinetic_temperature_kelvin": float(self.kinetic_temperature[1:][alive].mean()) if alive.any() else None,
            "mean_potential_energy_kcal_per_mol": float(self.potential_energy[1:][alive].mean()) if alive.any() else None,
            "replica_steps_per_second": self.replica_steps_per_second,
            "neighbour_room_growths": self.room_growths,
            "exchanges_tried": self.exchanges[0],
            "exchanges_made": self.exchanges[1],
            "replicas": [asdict(outcome) for outcome in self.outcomes],
            "config": self.config.to_dict(),
        }

    def table(self) -> str:
        """Return the summary as a few lines of text."""
        values, config = self.to_dict(), self.config
        bath = "NVE" if config.ensemble == "nve" else f"Langevin, friction {config.friction_per_ps:g}/ps"
        if config.ensemble == "tempering":
            tried, made = self.exchanges
            temperature = f"tempering over {', '.join(f'{t:g}' for t in config.tempering_kelvin)} K, {made} of {tried} exchanges made"
        else:
            temperature = f"{config.temperature_kelvin:g} K"
        kinetic = values["mean_kinetic_temperature_kelvin"]
        lines = [
            f"{values['n_replicas']} replicas of {values['n_beads']} beads, {values['simulated_ps_per_replica']:g} ps each, "
            f"{bath}, {temperature}, time step {1000 * config.time_step_ps:g} fs",
            f"kinetic temperature {kinetic:.1f} K" if kinetic is not None else "no frame inside the physical range",
            f"{values['replica_steps_per_second']:.0f} replica-steps/s, compilation included",
            f"{100 * values['surviving_fraction']:.0f} % of replicas inside the physical range to the end",
        ]
        lines += [f"  replica {o.replica} stopped at {o.stopped_at_ps:g} ps: {o.reason}" for o in self.outcomes if o.reason]
        return "\n".join(lines)

    def save(self, folder: Path | str, overwrite: bool = False) -> None:
        """Write simulation.h5, topology.pdb, one DCD per replica (its valid frames), config.yaml and summary.json, atomically."""
        with atomic_folder(folder, overwrite=overwrite) as aside:
            self._write_h5(aside / "simulation.h5")
            write_pdb(aside / "topology.pdb", self.positions[0, 0], self.residue_names, self.residue_index, self.chain_index)
            interval = float(self.time_ps[1] - self.time_ps[0]) if len(self.time_ps) > 1 else 0.0
            for replica in range(self.positions.shape[1]):
                write_dcd(aside / f"replica_{replica:03d}.dcd", self.positions[self.valid[:, replica], replica], interval)
            self.config.save(aside / "config.yaml")
            (aside / "summary.txt").write_text(self.table() + "\n")
            (aside / "summary.json").write_text(to_json(self.to_dict()))

    def _write_h5(self, path: Path) -> None:
        with atomic_file(path) as aside, h5py.File(aside, "w") as file:
            file.attrs["format"], file.attrs["version"] = "cg-simulation", SIMULATION_VERSION
            for name in (
                "positions",
                "time_ps",
                "potential_energy",
                "kinetic_temperature",
                "bath_temperature",
                "valid",
                "species",
                "residue_index",
                "chain_index",
            ):
                file.create_dataset(name, data=getattr(self, name))
            file.attrs["residue_names"] = json.dumps(self.residue_names)
            file.attrs["outcomes"] = json.dumps([asdict(outcome) for outcome in self.outcomes])
            file.attrs["config"] = json.dumps(self.config.to_dict())
            file.attrs["replica_steps_per_second"] = self.replica_steps_per_second
            file.attrs["room_growths"] = self.room_growths
            file.attrs["exchanges"] = self.exchanges


def load_simulation(folder: Path | str) -> Simulation:
    """Read a simulation back from the folder that `Simulation.save` wrote."""
    path = Path(folder) / "simulation.h5"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the output folder of cg-eval simulate")
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            arrays = {name: file[name][()] for name in file}
    except OSError:
        raise UserError(f"{path}: not an HDF5 file, or truncated: simulate again") from None
    if attributes.get("format") != "cg-simulation" or attributes.get("version") != SIMULATION_VERSION:
        raise UserError(f"{path}: expected a cg-simulation of version {SIMULATION_VERSION}: simulate again")
    return Simulation(
        **arrays,
        outcomes=tuple(ReplicaOutcome(**values) for values in json.loads(attributes["outcomes"])),
        residue_names=tuple(json.loads(attributes["residue_names"])),
        config=SimulateConfig.parse(json.loads(attributes["config"]), str(path)),
        replica_steps_per_second=float(attributes["replica_steps_per_second"]),
        room_growths=int(attributes["room_growths"]),
        exchanges=(int(attributes["exchanges"][0]), int(attributes["exchanges"][1])),
    )


def starting_frames(frames: BeadFrames, n_replicas: int, temperature_kelvin: float | None = None) -> BeadFrames:
    """Return `n_replicas` frames spread evenly over those nearest to a temperature, repeated where there are too few.

    The temperature nearest to `temperature_kelvin` that the frames have is taken; None takes frames of all temperatures.
    """
    require(frames.n_frames > 0, "starting frames: there are none; choose a domain and a split that have frames")
    candidates = np.arange(frames.n_frames)
    if temperature_kelvin is not None:
        distance = np.abs(np.asarray(frames.temperature) - temperature_kelvin)
        candidates = np.flatnonzero(distance <= distance.min() + 1e-3)
    return frames.select(candidates[np.arange(n_replicas) * len(candidates) // n_replicas])


def with_temperature(config: SimulateConfig, bundle: "Bundle") -> SimulateConfig:
    """Return the options with the model's own temperature where they state none; `UserError` where neither does."""
    if config.temperature_kelvin is not None or config.tempering_kelvin:
        return config
    if bundle.prior is None:
        raise UserError("temperature_kelvin: the model has no prior to state one; give it, for example temperature_kelvin=348")
    return config.model_copy(update={"temperature_kelvin": bundle.prior.temperature_kelvin})


def dataset_start(bundle: "Bundle", dataset: Dataset, domain: str, config: SimulateConfig) -> BeadFrames:
    """Return starting frames of a domain for `simulate`: at the nearest temperature, species as the bundle numbers them.

    Raises `UserError` naming a species that the bundle does not know.
    """
    start = starting_frames(dataset.frames(domain), config.n_replicas, with_temperature(config, bundle).temperature_kelvin)
    names = [dataset.species_names[index] for index in np.asarray(start.species)]
    return replace(start, species=np.asarray(bundle.species_index(names), np.int32))


def simulate(bundle: "Bundle", start: BeadFrames, config: SimulateConfig | None = None, show_progress: bool = False) -> Simulation:
    """Simulate one replica from each frame of `start` (see `starting_frames`) with a bundle's force field.

    start.species are indices into bundle.species_names (see `dataset_start`); its temperature and forces are not used.
    Replicas that leave the physical range stop, with the reason recorded; the others go on.
    """
    config = with_temperature(config or SimulateConfig(), bundle)
    names = tuple(bundle.species_names[index] for index in np.asarray(start.species))
    unknown = sorted(set(names) - set(RESIDUE_MASSES_AMU))
    require(not unknown, f"simulate: no mass is known for species {unknown[0] if unknown else ''!r}; expected the 20 residues")
    masses = np.array([RESIDUE_MASSES_AMU[name] for name in names])
    energy = bundle.energy_fn(config.part)
    return run_dynamics(energy, bundle.params, bundle.cutoff_angstrom, start, masses, config, names, show_progress)


def run_dynamics(
    energy: EnergyFn,
    params: Params,
    cutoff_angstrom: float,
    start: BeadFrames,
    masses: Array,
    config: SimulateConfig,
    residue_names: Sequence[str] | None = None,
    show_progress: bool = False,
) -> Simulation:
    """Simulate one replica from each frame of `start` with any energy function; masses [n_beads] amu."""
    from cg_eval.dynamics import start_motion
    from cg_eval.tempering import exchange, ladder

    x = np.asarray(start.positions, config.precision)
    x = x - x.mean(axis=1, keepdims=True)
    temperatures = config.tempering_kelvin
    if not temperatures:
        if config.temperature_kelvin is None:
            raise UserError("temperature_kelvin: expected the temperature of the dynamics, received none: give one")
        temperatures = (config.temperature_kelvin,)
    temperature = ladder(temperatures, len(x))
    motion = start_motion(x, masses, temperature, config.seed, at_rest=config.ensemble == "nve")
    runner = _Runner(energy, params, cutoff_angstrom, start, x, masses, config)
    began, exchanges = time.monotonic(), np.zeros(2, int)
    motion = runner.advance(motion, 0)
    saved = [runner.row(motion)]
    with progress_bar() as bar:
        task = bar.add_task("simulate", total=config.n_steps, visible=show_progress)
        while int(motion.step) < config.n_steps and (np.asarray(motion.failure) == 0).any():
            motion = runner.advance(motion, config.save_every_steps)
            saved.append(runner.row(motion))
            if config.ensemble == "tempering":
                motion, *counts = exchange(motion, len(config.tempering_kelvin), len(saved), config.seed)
                exchanges += counts
            bar.update(task, completed=int(motion.step))
    seconds = time.monotonic() - began
    return Simulation(
        **{name: np.stack([row[name] for row in saved]) for name in saved[0]},
        outcomes=_outcomes(motion, config),
        species=np.asarray(start.species, np.int32),
        residue_index=np.asarray(start.residue_index, np.int32),
        chain_index=np.asarray(start.chain_index, np.int32),
        residue_names=tuple(residue_names or ("UNK",) * x.shape[1]),
        config=config,
        replica_steps_per_second=int(motion.step) * len(x) / seconds,
        room_growths=runner.growths,
        exchanges=(int(exchanges[0]), int(exchanges[1])),
    )


class _Runner:
    """Holds the compiled block and its room for neighbours; grows it and compiles again where it was too small."""

    def __init__(
        self,
        energy: EnergyFn,
        params: Params,
        cutoff_angstrom: float,
        start: BeadFrames,
        positions: Array,
        masses: Array,
        config: SimulateConfig,
    ):
        from cg_eval.dynamics import Integration
        from cg_eval.replicas import make_replicas, most_neighbours
        from cg_models.forces import energy_and_forces

        self.config, self.params, self.cutoff, self.masses = config, params, cutoff_angstrom, np.asarray(masses)
        self.replicas = make_replicas(len(positions), start.species, start.residue_index, start.chain_index)
        self.check = range_check(self.replicas, config.physical_range, positions)
        self.energy_and_forces = energy_and_forces(energy)
        self.integration = Integration(config.time_step_ps, None if config.ensemble == "nve" else config.friction_per_ps)
        self.growths = 0
        failed = np.asarray(self.check(positions))
        if failed.any():
            replica = int(np.flatnonzero(failed)[0])
            raise UserError(
                f"simulate: starting frame {replica} is outside the physical range ({explain(int(failed[replica]))}): "
                "start from other frames, or widen physical_range"
            )
        self._compile(int(most_neighbours(positions, cutoff_angstrom)))

    def _compile(self, most: int) -> None:
        from cg_eval.dynamics import make_block

        self.room = max(1, min(self.replicas.n_beads - 1, max(most, int(np.ceil(NEIGHBOUR_MARGIN * most)))))
        self.block = make_block(self.replicas, self.masses, self.energy_and_forces, self.cutoff, self.room, self.check, self.integration)

    def advance(self, motion: "Motion", n_steps: int) -> "Motion":
        """Return the motion `n_steps` steps later."""
        after = self.block(self.params, motion, n_steps)
        while (most := int(after.most_neighbours)) > self.room:
            self.growths += 1
            logger.info("a bead has %d neighbours, room for %d: repeating the last block with more", most, self.room)
            self._compile(most)
            after = self.block(self.params, motion, n_steps)
        for replica in np.flatnonzero(np.asarray(after.failure) != np.asarray(motion.failure)):
            step, reason = int(after.stopped_step[replica]), explain(int(after.failure[replica]))
            logger.warning("replica %d left the physical range at step %d and was stopped: %s", replica, step, reason)
        return after

    def row(self, motion: "Motion") -> dict[str, np.ndarray]:
        """Return what is saved of a motion."""
        from cg_eval.dynamics import kinetic_temperature

        return {
            "positions": np.asarray(motion.positions, np.float32),
            "time_ps": np.asarray(int(motion.step) * self.config.time_step_ps),
            "potential_energy": np.asarray(motion.potential_energy, np.float64),
            "kinetic_temperature": kinetic_temperature(motion.momenta, self.masses, self.config.ensemble == "nve"),
            "bath_temperature": np.asarray(motion.temperature, np.float64),
            "valid": np.asarray(motion.failure) == 0,
        }


def _outcomes(motion: "Motion", config: SimulateConfig) -> tuple[ReplicaOutcome, ...]:
    outcomes = []
    for replica, (failure, step) in enumerate(zip(np.asarray(motion.failure), np.asarray(motion.stopped_step), strict=True)):
        stopped = float(step * config.time_step_ps) if failure else None
        outcomes.append(ReplicaOutcome(replica, stopped, explain(int(failure)) or None))
    return tuple(outcomes)
