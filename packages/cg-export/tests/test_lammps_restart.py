"""A simulation that is killed goes on by the same `run.sbatch`, in real LAMMPS: no step is missing, no file is written again."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_export.lammps.input import LammpsConfig
from cg_export.lammps.run import find_lmp, find_mpirun, read_dump, read_trajectory, run_lammps
from cg_export.lammps.system import System
from cg_models.bundle import Bundle

STEPS, EVERY = 6000, 200
OPTIONS = {"steps": STEPS, "restart_every": EVERY, "dump_every": 100, "thermo_every": 100}
COLUMNS = ["xu", "yu", "zu"]


def _submit(folder: Path, launch: str = "") -> subprocess.CompletedProcess[str]:
    program, environment = find_lmp()
    environment = {name: value for name, value in environment.items() if not name.startswith("SLURM_")}
    environment |= {"LMP": program[0], "LAUNCH": launch}
    return subprocess.run(["bash", "run.sbatch"], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)


def _kill_once(folder: Path, restart_files: list[str], options: list[str] | None = None, launch: list[str] | None = None) -> None:
    """Start LAMMPS, and kill it once restart files are there."""
    program, environment = find_lmp()
    command = [*(launch or []), *program, *(options or []), "-in", "in.lammps", "-screen", "none"]
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 200
    while not all((folder / name).exists() for name in restart_files):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.1)
    assert process.poll() is None, "the run ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    if launch:
        _wait_for_the_end_in(folder)


def _wait_for_the_end_in(folder: Path) -> None:
    """Wait for LAMMPS processes that work in a folder: those that a launcher started may outlive it by a moment."""
    for _ in range(500):
        at = [path for path in Path("/proc").glob("[0-9]*/cwd") if _link(path) == str(folder)]
        if not at:
            return
        for path in at:
            os.kill(int(path.parent.name), signal.SIGKILL)
        time.sleep(0.02)


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _start_of(folder: Path, part: int, done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(rf"part {part} (?:goes on from \S+, step|begins at step) (\d+) of", done.stdout)
    assert found, done.stdout
    assert (folder / f"log.part{part}.lammps").is_file()
    return int(found[1])


def _thermo_steps(log: Path) -> list[int]:
    return [int(line.split()[0]) for line in log.read_text().splitlines() if re.match(r"^ +\d+ +\S+ +\S+ +-?\d", line)]


@pytest.mark.parametrize("priors", ["embedded", "native"])
def test_killed_run_goes_on_from_its_newest_restart_file_to_the_total_of_steps(
    priors: str, bundle: Bundle, write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    folder = write(chain_system([8, 6]), None, bundle, priors=priors, minimise_steps=20, **OPTIONS)
    _kill_once(folder, ["restart.1", "restart.2"])
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    start = _start_of(folder, 2, _submit(folder))
    assert 0 < start < STEPS
    assert start % EVERY == 0
    for name, content in before.items():
        assert (folder / name).read_bytes() == content, f"{name} was written again"
    assert _thermo_steps(folder / "log.part2.lammps") == list(range(start, STEPS + 1, 100))
    first = dict(read_dump(folder / "trajectory.lammpstrj", COLUMNS))
    second = dict(read_dump(folder / "trajectory.part2.lammpstrj", COLUMNS))
    assert sorted({*first, *second}) == list(range(0, STEPS + 1, 100))
    assert list(second) == list(range(start, STEPS + 1, 100))
    # A dump of text has six digits.
    np.testing.assert_allclose(second[start], first[start], atol=1e-3)
    assert np.abs(second[start] - second[start + 100]).max() > 0.01

    done = _submit(folder)
    assert done.returncode == 0
    assert f"finished: final.restart holds step {STEPS} of the {STEPS} of in.lammps" in done.stdout
    assert not (folder / "log.part3.lammps").exists()

    text = (folder / "in.lammps").read_text()
    (folder / "in.lammps").write_text(text.replace(f"steps index {STEPS}", f"steps index {STEPS + 300}"))
    assert _start_of(folder, 3, _submit(folder)) == STEPS
    third = dict(read_dump(folder / "trajectory.part3.lammpstrj", COLUMNS))
    assert list(third) == [STEPS, STEPS + 100, STEPS + 200, STEPS + 300]
    np.testing.assert_allclose(third[STEPS], second[STEPS], atol=1e-3)
    whole = read_trajectory(folder, COLUMNS)
    assert [step for step, _ in whole] == list(range(0, STEPS + 301, 100))
    np.testing.assert_array_equal(dict(whole)[start], second[start])


def test_restart_file_torn_by_a_kill_leaves_the_other_and_without_any_the_run_begins_anew_beside_its_files(
    write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    folder = write(chain_system([8]), **OPTIONS, replacements={"steps index 6000": "steps index 600"})
    run_lammps(folder)
    (folder / "final.restart").unlink()
    # 600 steps: restart.1 holds 200, then 600, and restart.2 holds 400.
    torn = (folder / "restart.1").read_bytes()[-40:]
    _tear(folder / "restart.1")
    assert _start_of(folder, 2, _submit(folder)) == 400
    for path in [*folder.glob("restart*"), folder / "final.restart"]:
        _tear(path)
    (folder / "restart.1").write_bytes(b"LammpS RestartT\0")
    whole = (folder / "restart.2").read_bytes() + torn
    (folder / "restart.2").write_bytes(whole.replace(b"real\0\5", b"real\0\6"))
    done = _submit(folder)
    assert done.returncode == 1
    assert done.stderr.startswith("run.sbatch: restart.2: expected a restart file whose step can be read")
    assert done.stderr.count("\n") == 1
    _tear(folder / "restart.2")
    done = _submit(folder)
    assert _start_of(folder, 3, done) == 0
    assert "no restart file is whole" in done.stdout
    steps = [step for step, _ in read_dump(folder / "trajectory.part3.lammpstrj", COLUMNS)]
    assert steps == list(range(0, 601, 100))


def test_parts_of_a_run_have_different_random_numbers(write: Callable[..., Path], chain_system: Callable[..., System]) -> None:
    folder = write(chain_system([8]), steps=100, restart_every=100, dump_every=10)
    run_lammps(folder)
    one, again = ({"restart": "restart.1", "part": part, "steps": 150} for part in (2, 3))
    run_lammps(folder, variables=one)
    run_lammps(folder, variables=again)
    second, third = (dict(read_dump(folder / f"trajectory.part{part}.lammpstrj", COLUMNS)) for part in (2, 3))
    np.testing.assert_array_equal(second[100], third[100])
    assert np.abs(second[150] - third[150]).max() > 1e-3


def test_input_does_not_write_over_a_trajectory(write: Callable[..., Path], chain_system: Callable[..., System]) -> None:
    folder = write(chain_system([6]), steps=10)
    done = _submit(folder)
    assert done.returncode == 0, done.stdout
    assert (folder / "log.lammps").is_file()
    before = (folder / "trajectory.lammpstrj").read_bytes()
    with pytest.raises(UserError, match=r"trajectory\.lammpstrj: expected none, a run began here: go on with bash run\.sbatch"):
        run_lammps(folder)
    assert (folder / "trajectory.lammpstrj").read_bytes() == before


def test_killed_replica_exchange_goes_on_with_each_replicas_temperature(
    write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    # So near that half of the exchanges are tried and nearly all accepted.
    options = OPTIONS | {"ensemble": "tempering", "tempering_kelvin": (320.0, 325.0), "exchange_every": 40, "steps": 4000}
    folder = write(chain_system([6]), **options)
    names = [f"restart.{k}.{j}" for k in (0, 1) for j in (1, 2)]
    _kill_once(folder, names, ["-partition", "2x1"], [find_mpirun(), "-np", "2"])
    log = (folder / "log.lammps").read_text()
    start = _start_of(folder, 2, _submit(folder, f"{find_mpirun()} -np 2"))
    assert start > 0
    rows = {int(line.split()[0]): line.split()[1:] for line in log.splitlines() if re.match(r"^ *\d+ +[01] +[01] *$", line)}
    again = (folder / "log.part2.lammps").read_text()
    table = [line.split() for line in again.splitlines() if re.match(r"^ *\d+ +[01] +[01] *$", line)]
    # The restart file is of before the exchange of its step.
    assert table[0] == [str(start), *rows[start - 40]]
    assert [int(row[0]) for row in table] == list(range(start, 4001, 40))
    for k in (0, 1):
        first, second = (dict(read_dump(folder / f"trajectory.{k}{part}.lammpstrj", COLUMNS)) for part in ("", ".part2"))
        assert list(second) == list(range(start, 4001, 100))
        np.testing.assert_allclose(second[start], first[start], atol=1e-3)
        assert [step for step, _ in read_trajectory(folder, COLUMNS, k)] == list(range(0, 4001, 100))
    assert "finished: final.0.restart" in _submit(folder).stdout

    # Replicas whose files are of different steps do not go on together.
    (folder / "final.1.restart").write_bytes((folder / "restart.1.1").read_bytes())
    for path in folder.glob("restart.1.part2.*"):
        _tear(path)
    assert _start_of(folder, 3, _submit(folder, f"{find_mpirun()} -np 2")) == start


def test_restart_files_of_replicas_between_exchanges_are_refused() -> None:
    values = {"ensemble": "tempering", "tempering_kelvin": [300, 320], "exchange_every": 2000, "steps": 4000}
    with pytest.raises(UserError, match="restart_every must be a multiple of exchange_every"):
        LammpsConfig.parse(values, "test")
