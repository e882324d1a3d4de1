"""The options and the small result of a simulation, and its files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pydantic

from cg_data.atomic import atomic_file, atomic_folder
from cg_data.configuration import Configuration
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_data.mapping import RESIDUE_MASSES_AMU
from cg_data.units import BOLTZMANN_KCAL_PER_MOL_KELVIN
from cg_eval.json_text import to_json
from cg_eval.stability import PhysicalRange, survival_curve
from cg_eval.trajectory_files import write_dcd, write_pdb

SIMULATION_VERSION = 1
NS_PER_DAY_OF_PS_PER_SECOND = 86400 / 1000


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
    checkpoint_every_frames: int = pydantic.Field(default=20, ge=1)
    """A killed run goes on from the last of these."""
    time_step_ps: float = pydantic.Field(default=0.01, gt=0)
    """10 fs; the fastest motion, a CA-CA bond, has a period of about 200 fs."""
    friction_per_ps: float = pydantic.Field(default=1.0, gt=0)
    precision: Literal["float32", "float64"] = "float32"
    seed: int = pydantic.Field(default=0, ge=0, lt=2**32)
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
    exchanges: pairs (tried, exchanged) by tempering; identity: a checksum of model, start and options; model: where it was read from
    (both empty where they were not noted). peak_resident_bytes: of the process; peak_device_bytes: the largest of its devices;
    None where it was not noted or the backend does not tell (CPU).
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
    identity: str = ""
    model: str = ""
    peak_resident_bytes: int | None = None
    peak_device_bytes: int | None = None

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

    def energy_drift(self) -> np.ndarray:
        """Return [n_replicas] kcal/mol/ps: the slope of each replica's potential and kinetic energy over time, per bead.

        By least squares over its valid frames; NaN where they are fewer than two. Of interest at constant energy only.
        """
        n_beads = self.positions.shape[2]
        # As `dynamics.kinetic_temperature` counts them: without a thermostat a replica's centre stays at rest.
        degrees = 3 * n_beads - (3 if self.config.ensemble == "nve" else 0)
        energy = self.potential_energy + 0.5 * degrees * BOLTZMANN_KCAL_PER_MOL_KELVIN * self.kinetic_temperature
        return np.array(
            [
                np.polyfit(self.time_ps[valid], of_replica[valid] / n_beads, 1)[0] if valid.sum() > 1 else np.nan
                for of_replica, valid in zip(energy.T, self.valid.T, strict=True)
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a summary as plain values; ns_per_day: of all replicas together; energy drifts: None but for NVE."""
        alive = self.valid[1:]
        drift = self.energy_drift() if self.config.ensemble == "nve" else np.zeros(0)
        drift = drift[np.isfinite(drift)]
        return {
            "model": self.model or None,
            "identity": self.identity or None,
            "n_beads": int(self.positions.shape[2]),
            "n_replicas": int(self.positions.shape[1]),
            "n_saved_frames": int(self.valid.sum()),
            "simulated_ps_per_replica": float(self.time_ps[-1]),
            "surviving_fraction": float(self.valid[-1].mean()),
            "mean_kinetic_temperature_kelvin": float(self.kinetic_temperature[1:][alive].mean()) if alive.any() else None,
            "mean_potential_energy_kcal_per_mol": float(self.potential_energy[1:][alive].mean()) if alive.any() else None,
            "energy_drift_kcal_per_mol_per_ps_per_bead": float(drift.mean()) if drift.size else None,
            "largest_energy_drift_kcal_per_mol_per_ps_per_bead": float(np.abs(drift).max()) if drift.size else None,
            "replica_steps_per_second": self.replica_steps_per_second,
            "ns_per_day": self.replica_steps_per_second * self.config.time_step_ps * NS_PER_DAY_OF_PS_PER_SECOND,
            "peak_resident_bytes": self.peak_resident_bytes,
            "peak_device_bytes": self.peak_device_bytes,
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
        started = "started at " if config.ensemble == "nve" else ""
        if config.ensemble == "tempering":
            tried, made = self.exchanges
            temperature = f"tempering over {', '.join(f'{t:g}' for t in config.tempering_kelvin)} K, {made} of {tried} exchanges made"
        else:
            temperature = f"{started}{config.temperature_kelvin:g} K"
        kinetic = values["mean_kinetic_temperature_kelvin"]
        masses = [RESIDUE_MASSES_AMU[name] for name in self.residue_names if name in RESIDUE_MASSES_AMU]
        lines = [
            f"{values['n_replicas']} replicas of {values['n_beads']} beads, {values['simulated_ps_per_replica']:g} ps each, "
            f"{bath}, {temperature}, time step {1000 * config.time_step_ps:g} fs",
            f"masses {min(masses):g} to {max(masses):g} amu, those of the residues" if masses else "masses as given",
            f"kinetic temperature {kinetic:.1f} K" if kinetic is not None else "no frame inside the physical range",
            f"{values['replica_steps_per_second']:.0f} replica-steps/s, {values['ns_per_day']:.1f} ns/day of all replicas together, "
            "after the first compilation",
            f"{100 * values['surviving_fraction']:.0f} % of replicas inside the physical range to the end",
        ]
        drift = values["energy_drift_kcal_per_mol_per_ps_per_bead"]
        if drift is not None:
            largest = values["largest_energy_drift_kcal_per_mol_per_ps_per_bead"]
            lines.append(f"energy drift {drift:.2g} kcal/mol/ps per bead, mean of replicas; {largest:.2g} where it is largest")
        peaks = (("of the process", self.peak_resident_bytes), ("of a device", self.peak_device_bytes))
        if known := [f"{size / 1e9:.2f} GB {whose}" for whose, size in peaks if size is not None]:
            lines.append(f"peak memory {', '.join(known)}")
        if self.model:
            lines.insert(1, f"model {self.model}, part {config.part}")
        lines += [f"  replica {o.replica} stopped at {o.stopped_at_ps:g} ps: {o.reason}" for o in self.outcomes if o.reason]
        return "\n".join(lines)

    def save(self, folder: Path | str, overwrite: bool = False) -> None:
        """Write simulation.h5, topology.pdb, one DCD per replica (its valid frames), config.yaml, summaries and figure, atomically."""
        from cg_eval.plots import plot_simulation

        with atomic_folder(folder, overwrite=overwrite) as aside:
            self._write_h5(aside / "simulation.h5")
            write_pdb(aside / "topology.pdb", self.positions[0, 0], self.residue_names, self.residue_index, self.chain_index)
            interval = float(self.time_ps[1] - self.time_ps[0]) if len(self.time_ps) > 1 else 0.0
            for replica in range(self.positions.shape[1]):
                write_dcd(aside / f"replica_{replica:03d}.dcd", self.positions[self.valid[:, replica], replica], interval)
            self.config.save(aside / "config.yaml")
            (aside / "summary.txt").write_text(self.table() + "\n")
            (aside / "summary.json").write_text(to_json(self.to_dict()))
            plot_simulation(self, aside / "simulation.png")

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
            file.attrs["identity"], file.attrs["model"] = self.identity, self.model
            for name in ("peak_resident_bytes", "peak_device_bytes"):
                if getattr(self, name) is not None:
                    file.attrs[name] = getattr(self, name)


def load_simulation(folder: Path | str) -> Simulation:
    """Read a simulation back from the folder that `Simulation.save` wrote; `UserError` where it is another file, or is damaged."""
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
    try:
        return Simulation(
            **arrays,
            outcomes=tuple(ReplicaOutcome(**values) for values in json.loads(attributes["outcomes"])),
            residue_names=tuple(json.loads(attributes["residue_names"])),
            config=SimulateConfig.parse(json.loads(attributes["config"]), str(path)),
            replica_steps_per_second=float(attributes["replica_steps_per_second"]),
            room_growths=int(attributes["room_growths"]),
            exchanges=(int(attributes["exchanges"][0]), int(attributes["exchanges"][1])),
            identity=str(attributes.get("identity", "")),
            model=str(attributes.get("model", "")),
            peak_resident_bytes=_whole(attributes.get("peak_resident_bytes")),
            peak_device_bytes=_whole(attributes.get("peak_device_bytes")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not whole ({error}): simulate again") from None


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
