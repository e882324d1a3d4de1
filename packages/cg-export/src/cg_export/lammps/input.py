"""LAMMPS's `in.lammps` and `run.sbatch`, written from one configuration."""

from importlib import resources
from pathlib import Path
from typing import Literal

import pydantic

from cg_data.configuration import Configuration
from cg_data.errors import require
from cg_export.lammps.native import FOLDER, SETTINGS_FILE, NativePrior
from cg_export.manifest import Manifest

BONDED_REACH_ANGSTROM = 14.0
"""Ghost atoms must reach the far end of a dihedral: three bonds of 3.8 A, stretched by a fifth."""


MAX_STEPS = 2**31 - 1
"""Of one `run` command: LAMMPS counts them in 32 bits."""


class LammpsConfig(Configuration):
    """How a simulation runs."""

    ensemble: Literal["langevin", "nve", "tempering"] = pydantic.Field(
        default="langevin", description="langevin: with a thermostat; nve: without; tempering: replica exchange."
    )
    temperature_kelvin: float | None = pydantic.Field(
        default=None, gt=0, description="Of the thermostat and the first velocities; the model's where null."
    )
    tempering_kelvin: tuple[float, ...] = pydantic.Field(default=(), description="Temperatures of replica exchange, ascending.")
    exchange_every: int = pydantic.Field(default=1000, gt=0, description="Steps between attempts to exchange neighbouring temperatures.")
    timestep_femtoseconds: float = pydantic.Field(default=4.0, gt=0, description="Of the integration.")
    damping_femtoseconds: float = pydantic.Field(default=1000.0, gt=0, description="Relaxation time of the Langevin thermostat.")
    steps: int = pydantic.Field(default=100_000, ge=0, le=MAX_STEPS, description="Length of the simulation.")
    minimise_steps: int = pydantic.Field(default=0, ge=0, le=MAX_STEPS // 10, description="Of conjugate gradient before the dynamics.")
    thermo_every: int = pydantic.Field(default=1000, gt=0, description="Steps between lines of the log.")
    dump_every: int = pydantic.Field(default=1000, gt=0, description="Steps between frames of the trajectory.")
    restart_every: int = pydantic.Field(
        default=1000, ge=0, description="Steps between restart files, of which the last two stay; with 0 a killed run starts over."
    )
    seed: int = pydantic.Field(default=20260101, gt=0, lt=800_000_000, description="Of first velocities, thermostat and exchanges.")
    copies: int = pydantic.Field(default=1, gt=0, description="Of each structure, on a grid.")
    copy_spacing_angstrom: float = pydantic.Field(default=20.0, gt=0, description="Room between copies and structures on the grid.")
    box_angstrom: float | None = pydantic.Field(default=None, gt=0, description="Edge of a periodic cube; free space where null.")
    skin_angstrom: float = pydantic.Field(default=2.0, gt=0, description="LAMMPS's margin of neighbour lists beyond the cutoff.")
    priors: Literal["embedded", "native"] = pydantic.Field(
        default="embedded", description="embedded: in the artifact; native: in LAMMPS's own styles and tables."
    )
    runtime: Literal["python", "pjrt"] = pydantic.Field(
        default="python", description="python: jax evaluates the artifact; pjrt: a PJRT library does, without Python."
    )
    pjrt_library: str | None = pydantic.Field(default=None, description="Path of the library that runtime pjrt opens.")
    ranks: int = pydantic.Field(default=1, gt=0, description="MPI ranks in run.sbatch, of each replica.")
    slurm_hours: int = pydantic.Field(default=24, gt=0, description="Time limit in run.sbatch, in hours.")

    @pydantic.model_validator(mode="after")
    def _check(self) -> "LammpsConfig":
        steps = list(self.tempering_kelvin)
        if (self.ensemble == "tempering") != bool(steps):
            raise ValueError("tempering_kelvin must be given with ensemble tempering, and only then")
        if steps and (len(steps) < 2 or steps != sorted(set(steps)) or steps[0] <= 0):
            raise ValueError(f"tempering_kelvin must be two or more ascending temperatures, received {steps}")
        if steps and (self.steps % self.exchange_every or self.temperature_kelvin is not None):
            raise ValueError("tempering takes its temperatures from tempering_kelvin, and steps must be a multiple of exchange_every")
        if steps and self.restart_every % self.exchange_every:
            raise ValueError(
                "restart_every must be a multiple of exchange_every, so that the replicas' restart files are of one step, "
                f"received {self.restart_every} and {self.exchange_every}"
            )
        if (self.runtime == "pjrt") != (self.pjrt_library is not None):
            raise ValueError("pjrt_library must be given with runtime pjrt, and only then")
        return self

    @property
    def n_replicas(self) -> int:
        """Number of LAMMPS partitions: one for each temperature of replica exchange, else one."""
        return max(len(self.tempering_kelvin), 1)


def input_file(config: LammpsConfig, manifest: Manifest, plugin: Path, has: dict[str, bool], native: NativePrior | None = None) -> str:
    """Return the text of `in.lammps`; `has` tells which of bond, angle and dihedral the data file contains.

    Raises `UserError` for a path with white space, at which LAMMPS splits, and without a temperature.
    """
    for name, path in (("plugin", str(plugin)), ("pjrt_library", config.pjrt_library or "")):
        require(len(path.split()) < 2, f"{name}: expected a path without spaces, at which LAMMPS splits, received {path}: move it")
    boundary = "p p p" if config.box_angstrom is not None else "s s s"
    # Of a replica, and of a part of the run: what a killed run has written is never written again.
    own = ".${replica}${of_part}" if config.tempering_kelvin else "${of_part}"
    restart = "restart_of" if config.tempering_kelvin else "restart"
    lines = ["# written by cg-export; run with: " + run_command(config) + "; go on after a kill with: bash run.sbatch"]
    lines += [f"variable        plugin index {plugin}", "variable        model index model", f"variable        steps index {config.steps}"]
    lines += _temperature_lines(config, manifest)
    begun = f"ERROR: trajectory{own}.lammpstrj: expected none, a run began here: go on with bash run.sbatch, or remove it"
    lines += [
        "",
        "# run.sbatch gives a run that goes on its part, from 2, and the restart file: -var part 2 -var restart restart.1",
        "variable        part index 1",
        'variable        of_part string ".part${part}"',
        """if              "${part} == 1" then 'variable of_part string ""'""",
        *_restart_lines(config),
        f"variable        begun equal is_file(trajectory{own}.lammpstrj)",
        'if              "${begun}" then &',
        f"""                "print '{begun}'" "quit 1\"""",
        "",
        "units           real",
        "newton          on off",
        "atom_style      molecular",
        "plugin          load ${plugin}",
        f'if              "$(is_defined(variable,restart))" then "read_restart ${{{restart}}}" "jump SELF system"',
        f"boundary        {boundary}",
        "read_data       system.data",
        "label           system",
        "",
        *_force_lines(config, manifest, has, native),
        "",
        f"thermo          {config.thermo_every}",
        "thermo_style    custom step time temp pe ke etotal press",
        "thermo_modify   flush yes",
        "",
        'if              "$(is_defined(variable,restart))" then "jump SELF dynamics"',
    ]
    if config.minimise_steps:
        lines += [f"minimize        0.0 1.0e-3 {config.minimise_steps} {10 * config.minimise_steps}", "reset_timestep  0"]
    lines += [
        "velocity        all create ${temperature} ${seed} mom yes rot yes dist gaussian",
        "label           dynamics",
        "",
        "fix             integrate all nve",
    ]
    if config.ensemble != "nve":
        lines += [
            "# each part has random numbers of its own: a thermostat that repeats them draws trajectories together",
            f"variable        noise equal v_seed+{_seeds_of_part(config)}",
            f"fix             thermostat all langevin ${{temperature}} ${{temperature}} {config.damping_femtoseconds:g} ${{noise}}",
            "# the thermostat also moves the centre of mass: count its degrees of freedom",
            "compute_modify  thermo_temp extra/dof 0",
        ]
    lines += [
        f"timestep        {config.timestep_femtoseconds:g}",
        f"dump            trajectory all custom {config.dump_every} trajectory{own}.lammpstrj id mol type xu yu zu",
        "dump_modify     trajectory sort id",
    ]
    if config.restart_every:
        lines.append(f"restart         {config.restart_every} restart{own}.1 restart{own}.2")
    if config.tempering_kelvin:
        seeds = " ".join(f"$({config.seed + k}+{_seeds_of_part(config)})" for k in (0, 1))
        lines.append(f"temper          $(v_steps-step) {config.exchange_every} ${{temperature}} thermostat {seeds} ${{rung}}")
    else:
        lines.append("run             ${steps} upto")
    of_replica = ".${replica}" if config.tempering_kelvin else ""
    return "\n".join([*lines, f"write_restart   final{of_replica}.restart", ""])


def _restart_lines(config: LammpsConfig) -> list[str]:
    """Return the commands that give each replica its restart file, where there is one, and the place of its temperature."""
    if not config.tempering_kelvin:
        return []
    return [
        """if              "$(is_defined(variable,restart))" then 'variable restart_of world ${restart}'""",
        f'variable        rungs index "{" ".join(map(str, range(config.n_replicas)))}"',
        "variable        rung world ${rungs}",
    ]


def _seeds_of_part(config: LammpsConfig) -> str:
    """Return the LAMMPS formula of what a part adds to a seed; replicas are 1000 apart, ranks 1."""
    return f"{1000 * config.n_replicas}*(v_part-1)"


def _temperature_lines(config: LammpsConfig, manifest: Manifest) -> list[str]:
    if config.tempering_kelvin:
        seeds = (str(config.seed + 1000 * k) for k in range(config.n_replicas))
        return [
            f"variable        replica world {' '.join(str(k) for k in range(config.n_replicas))}",
            f"variable        temperature world {' '.join(f'{t:g}' for t in config.tempering_kelvin)}",
            f"variable        seed world {' '.join(seeds)}",
        ]
    temperature = config.temperature_kelvin or manifest.temperature_kelvin
    require(
        temperature is not None,
        "temperature_kelvin: the artifact states no training temperature: give one, for example temperature_kelvin=320",
    )
    return [f"variable        temperature index {temperature:g}", f"variable        seed index {config.seed}"]


def _force_lines(config: LammpsConfig, manifest: Manifest, has: dict[str, bool], native: NativePrior | None) -> list[str]:
    """Return the commands from pair_style to comm_modify."""
    runtime = config.runtime if config.pjrt_library is None else f"pjrt {config.pjrt_library}"
    species = " ".join(manifest.species_names)
    reach = max(manifest.receptive_field_angstrom, manifest.cutoff_angstrom, BONDED_REACH_ANGSTROM) + config.skin_angstrom
    lines = [f"pair_style      cg {runtime}", f"pair_coeff      * * ${{model}} {species}"]
    if native is not None:
        if native.pair_style is not None:
            # LAMMPS takes `python` after `cg` for a sub-style of its own; it is the plugin's default.
            arguments = "" if config.runtime == "python" else f" {runtime}"
            lines = [f"pair_style      hybrid/overlay cg{arguments} {native.pair_style}", f"pair_coeff      * * cg ${{model}} {species}"]
        lines += ["# the prior in LAMMPS's own styles: coefficients and tables", f"include         {FOLDER}/{SETTINGS_FILE}"]
        reach = max(reach, native.ghosts_angstrom)
    else:
        lines.append("# the model's prior holds the chain together: LAMMPS only supplies the lists")
        styles = [kind for kind in ("bond", "angle", "dihedral") if has[kind]]
        lines += [line for kind in styles for line in (f"{kind}_style".ljust(16) + "zero nocoeff", f"{kind}_coeff".ljust(16) + "*")]
        lines.append("special_bonds   lj/coul 1 1 1")
    return [
        *lines,
        f"neighbor        {config.skin_angstrom:.15g} bin",
        "neigh_modify    every 1 delay 0 check yes",
        f"comm_modify     cutoff {reach:.15g}",
    ]


def run_command(config: LammpsConfig) -> str:
    """Return the command that runs `in.lammps`: replica exchange takes one partition for each temperature."""
    if not config.tempering_kelvin:
        return "lmp -in in.lammps"
    n = config.n_replicas
    return f"mpirun -np {n * config.ranks} lmp -partition {n}x{config.ranks} -in in.lammps"


def batch_file(config: LammpsConfig) -> str:
    """Return the text of `run.sbatch`."""
    template = (resources.files("cg_export.lammps") / "run.sbatch").read_text()
    partition = f" -partition {config.n_replicas}x{config.ranks}" if config.tempering_kelvin else ""
    replicas = " ".join(f".{k}" for k in range(config.n_replicas)) if config.tempering_kelvin else '""'
    values = {"@RANKS@": config.ranks * config.n_replicas, "@HOURS@": config.slurm_hours, "@PARTITION@": partition, "@REPLICAS@": replicas}
    for name, value in values.items():
        template = template.replace(name, str(value))
    return template
