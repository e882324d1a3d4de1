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
    restart_every: int = pydantic.Field(default=0, ge=0, description="Steps between restart files; 0 writes none while running.")
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
        if (self.runtime == "pjrt") != (self.pjrt_library is not None):
            raise ValueError("pjrt_library must be given with runtime pjrt, and only then")
        return self

    @property
    def n_replicas(self) -> int:
        """Number of LAMMPS partitions: one for each temperature of replica exchange, else one."""
        return max(len(self.tempering_kelvin), 1)


def input_file(config: LammpsConfig, manifest: Manifest, plugin: Path, has: dict[str, bool], native: NativePrior | None = None) -> str:
    """Return the text of `in.lammps`; `has` tells which of bond, angle and dihedral the data file contains."""
    boundary = "p p p" if config.box_angstrom is not None else "s s s"
    lines = ["# written by cg-export; run with: " + run_command(config)]
    lines += [f"variable        plugin index {plugin}", "variable        model index model", f"variable        steps index {config.steps}"]
    lines += _temperature_lines(config, manifest)
    lines += [
        "",
        "units           real",
        "newton          on off",
        f"boundary        {boundary}",
        "atom_style      molecular",
        "read_data       system.data",
        "",
        "plugin          load ${plugin}",
        *_force_lines(config, manifest, has, native),
        "",
        f"thermo          {config.thermo_every}",
        "thermo_style    custom step time temp pe ke etotal press",
        "thermo_modify   flush yes",
    ]
    if config.minimise_steps:
        lines += ["", f"minimize        0.0 1.0e-3 {config.minimise_steps} {10 * config.minimise_steps}", "reset_timestep  0"]
    lines += ["", "velocity        all create ${temperature} ${seed} mom yes rot yes dist gaussian", "fix             integrate all nve"]
    if config.ensemble != "nve":
        lines += [
            f"fix             thermostat all langevin ${{temperature}} ${{temperature}} {config.damping_femtoseconds:g} ${{seed}}",
            "# the thermostat also moves the centre of mass: count its degrees of freedom",
            "compute_modify  thermo_temp extra/dof 0",
        ]
    of_replica = ".${replica}" if config.tempering_kelvin else ""
    lines += [
        f"timestep        {config.timestep_femtoseconds:g}",
        f"dump            trajectory all custom {config.dump_every} trajectory{of_replica}.lammpstrj id mol type xu yu zu",
        "dump_modify     trajectory sort id",
    ]
    if config.restart_every:
        lines.append(f"restart         {config.restart_every} restart{of_replica}.1 restart{of_replica}.2")
    if config.tempering_kelvin:
        lines.append(f"temper          ${{steps}} {config.exchange_every} ${{temperature}} thermostat {config.seed} {config.seed + 1}")
    else:
        lines.append("run             ${steps}")
    return "\n".join([*lines, f"write_restart   final{of_replica}.restart", ""])


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
    values = {"@RANKS@": config.ranks * config.n_replicas, "@HOURS@": config.slurm_hours, "@PARTITION@": partition}
    for name, value in values.items():
        template = template.replace(name, str(value))
    return template
