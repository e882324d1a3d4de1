"""Simulate replicas of a chain with a force field: `simulate`, and where its replicas start."""

import contextlib
import logging
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cg_data.command_line import progress_bar
from cg_data.contracts import Array, BeadFrames, EnergyFn, Params
from cg_data.errors import UserError, require
from cg_data.mapping import RESIDUE_MASSES_AMU
from cg_data.pdb import read_pdb_beads
from cg_data.store import Dataset
from cg_eval.predict import Pace
from cg_eval.recorder import Recorder, identity_of
from cg_eval.simulation import ReplicaOutcome, SimulateConfig, Simulation
from cg_eval.stability import explain, range_check

if TYPE_CHECKING:
    from cg_eval.dynamics import Motion
    from cg_models.bundle import Bundle

logger = logging.getLogger("cg_eval")

NEIGHBOUR_MARGIN = 1.15
"""Room for neighbours of a bead, over the most seen."""
EDGES_PER_CHUNK = 768
"""Edges of a network that a CPU works on at a time: beyond, its intermediate arrays leave the second-level cache."""
PAIRS_PER_CHUNK = 6144
"""Likewise for a prior, which has each pair once and fewer arrays."""


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
    start = starting_frames(dataset.frames(domain, numbers=False), config.n_replicas, with_temperature(config, bundle).temperature_kelvin)
    names = [dataset.species_names[index] for index in np.asarray(start.species)]
    return replace(start, species=np.asarray(bundle.species_index(names), np.int32))


def pdb_start(bundle: "Bundle", path: Path | str, config: SimulateConfig) -> BeadFrames:
    """Return the CA beads of a PDB file as the start of every replica, with the file's sequence; they differ in their momenta.

    Raises `UserError` for a file without CA atoms, an unknown residue, or one that the model was not trained on.
    """
    found = read_pdb_beads(path)
    temperature = with_temperature(config, bundle).temperature_kelvin or min(config.tempering_kelvin)
    return BeadFrames(
        positions=np.repeat(found.positions[None].astype(np.float32), config.n_replicas, axis=0),
        forces=None,
        species=np.asarray(bundle.species_index(list(found.residue_names)), np.int32),
        residue_index=found.residue_index,
        chain_index=found.chain_index,
        temperature=np.full(config.n_replicas, temperature, np.float32),
        trajectory=np.arange(config.n_replicas, dtype=np.int32),
    )


def simulate(
    bundle: "Bundle", start: BeadFrames, config: SimulateConfig | None = None, show_progress: bool = False, record: Path | None = None
) -> Simulation:
    """Simulate one replica from each frame of `start` (see `starting_frames`) with a bundle's force field.

    start.species are indices into bundle.species_names (see `dataset_start`); its temperature and forces are not used.
    Replicas that leave the physical range stop, with the reason recorded; the others go on. record: a folder for checkpoints;
    where it holds those of the same simulation, that one goes on, bit for bit. Remove it once the result is saved.
    """
    config = with_temperature(config or SimulateConfig(), bundle)
    names = tuple(bundle.species_names[index] for index in np.asarray(start.species))
    masses = chain_masses(bundle, start)
    energy, model = bundle.energy_fn(config.part), _model(bundle)
    return run_dynamics(energy, bundle.params, bundle.cutoff_angstrom, start, masses, config, names, show_progress, record, model)


def simulation_identity(bundle: "Bundle", start: BeadFrames, config: SimulateConfig) -> str:
    """Return the `Simulation.identity` that `simulate` would give: a checksum of model, start and options, not of the devices."""
    config = with_temperature(config, bundle)
    return _identity(bundle.params, bundle.cutoff_angstrom, start, chain_masses(bundle, start), config, _model(bundle))


def chain_masses(bundle: "Bundle", start: BeadFrames) -> np.ndarray:
    """Return [n_beads] amu: the mass of each bead's residue; `UserError` for a species that is no residue."""
    names = [bundle.species_names[index] for index in np.asarray(start.species)]
    unknown = sorted(set(names) - set(RESIDUE_MASSES_AMU))
    require(not unknown, f"simulate: no mass is known for species {unknown[0] if unknown else ''!r}; expected the 20 residues")
    return np.array([RESIDUE_MASSES_AMU[name] for name in names])


def run_dynamics(
    energy: EnergyFn,
    params: Params,
    cutoff_angstrom: float,
    start: BeadFrames,
    masses: Array,
    config: SimulateConfig,
    residue_names: Sequence[str] | None = None,
    show_progress: bool = False,
    record: Path | None = None,
    model: Mapping[str, Any] | None = None,
) -> Simulation:
    """Simulate one replica from each frame of `start` with any energy function; masses [n_beads] amu; record as in `simulate`.

    model: plain values that, beside the parameters, make the energy what it is; a part of the identity.
    """
    import jax

    from cg_eval.dynamics import start_motion
    from cg_eval.tempering import ladder

    temperatures = config.tempering_kelvin
    if not temperatures:
        if config.temperature_kelvin is None:
            raise UserError("temperature_kelvin: expected the temperature of the dynamics, received none: give one")
        temperatures = (config.temperature_kelvin,)
    # Where JAX is not told, it makes float32 of float64 without a word.
    with jax.enable_x64(True) if config.precision == "float64" else contextlib.nullcontext():
        x = _centred(start, config)
        temperature = ladder(temperatures, len(x))
        runner = Runner(energy, params, cutoff_angstrom, start, x, masses, config)
        recorder = Recorder(record, config.checkpoint_every_frames, jax.local_device_count())
        identity = _identity(params, cutoff_angstrom, start, masses, config, model)
        restored = recorder.restore(identity)
        if restored is None:
            motion = runner.advance(start_motion(x, masses, temperature, config.seed, at_rest=config.ensemble == "nve"), 0)
            recorder.save(runner.row(motion))
            counts: dict[str, Any] = {"exchanges": [0, 0]}
        else:
            motion, counts = restored
            # The same room gives the same sums to the bit.
            runner.give_room(counts["room"], counts["growths"])
            runner.advance(motion, 0)  # compiles, before time is taken
        motion, counts = _advance(runner, recorder, motion, identity, counts, show_progress)
    return Simulation(
        **recorder.columns(),
        outcomes=_outcomes(motion, config),
        species=np.asarray(start.species, np.int32),
        residue_index=np.asarray(start.residue_index, np.int32),
        chain_index=np.asarray(start.chain_index, np.int32),
        residue_names=tuple(residue_names or ("UNK",) * x.shape[1]),
        config=config,
        replica_steps_per_second=counts["timed_steps"] * len(x) / max(counts["seconds"], 1e-9),
        room_growths=runner.growths,
        exchanges=(int(counts["exchanges"][0]), int(counts["exchanges"][1])),
        identity=identity,
        model="",
        peak_resident_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,  # KiB on Linux
        peak_device_bytes=_peak_device_bytes(jax.local_devices()),
    )


def _advance(
    runner: "Runner", recorder: Recorder, motion: "Motion", identity: str, counts: Mapping[str, Any], show_progress: bool
) -> "tuple[Motion, dict[str, Any]]":
    """Return the motion at the end, or where every replica has stopped, and what was counted on the way; rows go to the recorder.

    counts: of a restored simulation, those of its checkpoint, which go on.
    """
    from cg_eval.tempering import exchange

    config = runner.config
    exchanges, began, first_step = np.array(counts["exchanges"]), time.monotonic(), int(motion.step)

    def counted_so_far() -> dict[str, Any]:
        timed = {
            "timed_steps": counts.get("timed_steps", 0) + int(motion.step) - first_step,
            "seconds": counts.get("seconds", 0.0) + time.monotonic() - began,
        }
        return {"exchanges": exchanges.tolist(), "room": runner.room, "growths": runner.growths, **timed}

    pace = Pace("steps", config.n_steps, first_step)
    with progress_bar() as bar:
        task = bar.add_task("simulate", total=config.n_steps, completed=first_step, visible=show_progress)
        while int(motion.step) < config.n_steps and (np.asarray(motion.failure) == 0).any():
            motion = runner.advance(motion, config.save_every_steps)
            recorder.save(runner.row(motion))
            if config.ensemble == "tempering":
                motion, *tried = exchange(motion, len(config.tempering_kelvin), len(recorder.rows), config.seed)
                exchanges += tried
            recorder.checkpoint(motion, identity, counted_so_far())
            bar.update(task, completed=int(motion.step))
            if show_progress and bar.disable:
                pace.show(int(motion.step))
    return motion, counted_so_far()


def _peak_device_bytes(devices: Sequence[Any]) -> int | None:
    told = [stats["peak_bytes_in_use"] for device in devices if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats]
    return max(told, default=None)


def _centred(start: BeadFrames, config: SimulateConfig) -> np.ndarray:
    x = np.asarray(start.positions, config.precision)
    return np.asarray(x - x.mean(axis=1, keepdims=True))


def _identity(
    params: Params, cutoff_angstrom: float, start: BeadFrames, masses: Array, config: SimulateConfig, model: Mapping[str, Any] | None
) -> str:
    chain = (start.species, start.residue_index, start.chain_index, masses)
    return identity_of([_centred(start, config), *chain, cutoff_angstrom, params, model, config.to_dict()])


def _model(bundle: "Bundle") -> dict[str, Any]:
    """Return what a model is beside its parameters."""
    terms = {} if bundle.prior is None else bundle.prior.terms
    prior = {name: [term.form, term.weight, term.rows, term.settings] for name, term in terms.items()}
    return {"config": bundle.config.to_dict(), "statistics": bundle.statistics.to_dict(), "prior": prior}


class Runner:
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
        failed = np.asarray(self.check(positions))
        if failed.any():
            replica = int(np.flatnonzero(failed)[0])
            raise UserError(
                f"simulate: starting frame {replica} is outside the physical range ({explain(int(failed[replica]))}): "
                "start from other frames, or widen physical_range"
            )
        most = int(most_neighbours(positions, cutoff_angstrom))
        self.give_room(self._room_for(most), 0)

    def _room_for(self, most: int) -> int | None:
        """Return the room for neighbours of a bead, or None: all pairs are edges."""
        others = max(1, self.replicas.n_beads - 1)
        room = max(1, min(others, max(most, int(np.ceil(NEIGHBOUR_MARGIN * most)))))
        # A prior takes all pairs, each once, faster than half as many edges that move and come in both directions.
        return None if self.config.part == "prior" and 2 * room >= others else room

    def _replicas_at_once(self) -> int:
        """Return how many replicas fill the cache of a core; elsewhere all."""
        import jax

        if jax.default_backend() != "cpu":
            return self.replicas.n_replicas
        n_beads = self.replicas.n_beads
        most = PAIRS_PER_CHUNK // (max(1, n_beads**2 // 2)) if self.room is None else EDGES_PER_CHUNK // (n_beads * self.room)
        return max(1, most)

    def give_room(self, room: int | None, growths: int) -> None:
        """Make the block of steps for `room` neighbours of a bead, after so many growths."""
        from cg_eval.dynamics import make_block

        self.room, self.growths = room, growths
        self.block = make_block(
            self.replicas,
            self.masses,
            self.energy_and_forces,
            self.cutoff,
            self.room,
            self.check,
            self.integration,
            self._replicas_at_once(),
        )

    def advance(self, motion: "Motion", n_steps: int) -> "Motion":
        """Return the motion `n_steps` steps later."""
        after = self.block(self.params, motion, n_steps)
        while self.room is not None and (most := int(after.most_neighbours)) > self.room:
            logger.info("a bead has %d neighbours, room for %d: repeating the last block with more", most, self.room)
            self.give_room(self._room_for(most), self.growths + 1)
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
