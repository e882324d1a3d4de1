"""LAMMPS's `in.lammps` and `run.sbatch`, written from one configuration."""

from importlib import resources
from pathlib import Path
from typing import Literal

import pydantic

from cg_data.configuration import Configuration
from cg_data.errors import require
from cg_export.manifest import Manifest

BONDED_REACH_ANGSTROM = 14.0
"""Ghost atoms must reach the far end of a dihedral: three bonds of 3.8 A, stretched by a fifth."""


class LammpsConfig(Configuration):
    """How a simulation runs."""

    ensemble: Literal["langevin", "nve"] = "langevin"
    temperature_kelvin: float | None = pydantic.Field(
        default=None, gt=0, description="of the thermostat and the first velocities; the model's where null"
    )
    timestep_femtoseconds: float = pydantic.Field(default=4.0, gt=0)
    damping_femtoseconds: float = pydantic.Field(default=1000.0, gt=0, description="relaxation time of the Langevin thermostat")
    steps: int = pydantic.Field(default=100_000, ge=0)
    minimise_steps: int = pydantic.Field(default=0, ge=0, description="of conjugate gradient before the dynamics")
    thermo_every: int = pydantic.Field(default=1000, gt=0)
    dump_every: int = pydantic.Field(default=1000, gt=0)
    restart_every: int = pydantic.Field(default=0, ge=0, description="0 writes no restart files while running")
    seed: int = pydantic.Field(default=20260101, gt=0, lt=900_000_000)
    copies: int = pydantic.Field(default=1, gt=0, description="of each structure, on a grid")
    copy_spacing_angstrom: float = pydantic.Field(default=20.0, gt=0)
    box_angstrom: float | None = pydantic.Field(default=None, gt=0, description="edge of a periodic cube; free space where null")
    skin_angstrom: float = pydantic.Field(default=2.0, gt=0)
    runtime: Literal["python"] = "python"
    ranks: int = pydantic.Field(default=1, gt=0, description="MPI ranks in run.sbatch")
    slurm_hours: int = pydantic.Field(default=24, gt=0)


def input_file(config: LammpsConfig, manifest: Manifest, plugin: Path, has: dict[str, bool]) -> str:
    """Return the text of `in.lammps`; `has` tells which of bond, angle and dihedral the data file contains."""
    temperature = config.temperature_kelvin or manifest.temperature_kelvin
    require(
        temperature is not None,
        "temperature_kelvin: the artifact states no training temperature: give one, for example temperature_kelvin=320",
    )
    ghosts = max(manifest.receptive_field_angstrom, manifest.cutoff_angstrom, BONDED_REACH_ANGSTROM) + config.skin_angstrom
    boundary = "p p p" if config.box_angstrom is not None else "s s s"
    styles = [kind for kind in ("bond", "angle", "dihedral") if has[kind]]
    lines = [
        "# written by cg-export; run with: lmp -in in.lammps",
        f"variable        plugin index {plugin}",
        "variable        model index model",
        f"variable        steps index {config.steps}",
        f"variable        temperature index {temperature:g}",
        f"variable        seed index {config.seed}",
        "",
        "units           real",
        "newton          on off",
        f"boundary        {boundary}",
        "atom_style      molecular",
        "read_data       system.data",
        "",
        "plugin          load ${plugin}",
        f"pair_style      cg {config.runtime}",
        f"pair_coeff      * * ${{model}} {' '.join(manifest.species_names)}",
        "# the model's prior holds the chain together: LAMMPS only supplies the lists",
    ]
    lines += [line for kind in styles for line in (f"{kind}_style".ljust(16) + "zero nocoeff", f"{kind}_coeff".ljust(16) + "*")]
    lines += [
        "special_bonds   lj/coul 1 1 1",
        f"neighbor        {config.skin_angstrom:g} bin",
        "neigh_modify    every 1 delay 0 check yes",
        f"comm_modify     cutoff {ghosts:g}",
        "",
        f"thermo          {config.thermo_every}",
        "thermo_style    custom step time temp pe ke etotal press",
        "thermo_modify   flush yes",
    ]
    if config.minimise_steps:
        lines += ["", f"minimize        0.0 1.0e-3 {config.minimise_steps} {10 * config.minimise_steps}", "reset_timestep  0"]
    lines += ["", "velocity        all create ${temperature} ${seed} mom yes rot yes dist gaussian", "fix             integrate all nve"]
    if config.ensemble == "langevin":
        lines += [
            f"fix             thermostat all langevin ${{temperature}} ${{temperature}} {config.damping_femtoseconds:g} ${{seed}}",
            "# the thermostat also moves the centre of mass: count its degrees of freedom",
            "compute_modify  thermo_temp extra/dof 0",
        ]
    lines += [
        f"timestep        {config.timestep_femtoseconds:g}",
        f"dump            trajectory all custom {config.dump_every} trajectory.lammpstrj id mol type xu yu zu",
        "dump_modify     trajectory sort id",
    ]
    if config.restart_every:
        lines.append(f"restart         {config.restart_every} restart.1 restart.2")
    lines += ["run             ${steps}", "write_restart   final.restart", ""]
    return "\n".join(lines)


def batch_file(config: LammpsConfig) -> str:
    """Return the text of `run.sbatch`."""
    template = (resources.files("cg_export.lammps") / "run.sbatch").read_text()
    return template.replace("@RANKS@", str(config.ranks)).replace("@HOURS@", str(config.slurm_hours))
