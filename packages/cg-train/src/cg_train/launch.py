"""From the command line to a run: joining the other processes, and how each way of ending leaves the process."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, cast, get_args

from cg_data.errors import UserError, require
from cg_train.checkpoint import quiet_failed_writes
from cg_train.config import TrainConfig
from cg_train.distributed import Processes, connect, end_all, slurm_processes
from cg_train.ensemble import Keep, run_ensemble
from cg_train.preemption import Stopped
from cg_train.run import RunResult, run


def launch(
    config: Path,
    output: Path,
    overrides: Sequence[str],
    resume: str | None,
    allow_changes: bool,
    load: str,
    coordinator: str | None,
    processes: int,
    process: int,
) -> None:
    """Run, and print the result; exit with `Stopped.exit_code` after a signal.

    With several processes any error ends this one at once (code 2 for a `UserError`, else 1), so that the others need not wait.
    """
    quiet_failed_writes()
    settings = TrainConfig.load(config, overrides)
    require(
        coordinator is not None or (processes, process) == (1, 0),
        f"--processes {processes} --process {process}: expected --coordinator HOST:PORT beside them, without which each process would "
        "train by itself in the same folder",
    )
    others = slurm_processes()
    if coordinator is not None:
        require(process < processes, f"--process {process}: expected less than --processes {processes}")
        others = Processes(coordinator, processes, process)
    if others is None or others.count == 1:
        try:
            report(run(settings, output, resume, allow_changes, load))
        except Stopped as stopped:
            leave(stopped)
        return
    connect(others)
    try:
        result = run(settings, output, resume, allow_changes, load)
    except Stopped as stopped:
        leave(stopped, speak=others.index == 0)
    except UserError as error:
        end_all(error, 2)
    except BaseException as error:  # noqa: BLE001 (whatever it is, the other processes must not wait for this one)
        end_all(error, 1)
    else:
        if others.index == 0:
            report(result)


def launch_ensemble(
    config: Path, output: Path, overrides: Sequence[str], members: int, keep: str, resume: str | None, allow_changes: bool, load: str
) -> None:
    """Train an ensemble, and print what `ensemble.json` says; exit with `Stopped.exit_code` after a signal."""
    quiet_failed_writes()
    settings = TrainConfig.load(config, overrides)
    require(keep in get_args(Keep), f"--keep {keep}: expected all or best")
    tasks = slurm_processes()
    require(
        tasks is None,
        f"ensemble: expected one process, which uses all devices of its node, received a step of {tasks.count if tasks else 1} tasks, each "
        "of which would train all members in the same folder: use srun --ntasks=1",
    )
    try:
        result = run_ensemble(settings, output, members, cast(Keep, keep), resume, allow_changes, load)
    except Stopped as stopped:
        leave(stopped)
    split = "validation" if "validation_mse" in result.about else "train"
    for index, mse in enumerate(result.about[f"{split}_mse"]):
        sys.stdout.write(f"member {index} {split}_mse {mse:g}{' (best)' if index == result.about['best'] else ''}\n")
    for name in (f"{split}_mse_of_mean", f"{split}_force_variance"):
        sys.stdout.write(f"{name} {result.about[name]:g}\n")
    sys.stdout.write(f"ensemble {result.output / 'ensemble.json'}\n")


def report(result: RunResult) -> None:
    """Print a run's final numbers and where its bundle is."""
    for name, value in result.metrics.items():
        sys.stdout.write(f"{name} {value:g}\n")
    sys.stdout.write(f"bundle {result.bundle}\n")


def leave(stopped: Stopped, speak: bool = True) -> NoReturn:
    """Say how to go on, and exit."""
    if speak:
        sys.stderr.write(f"{stopped}\n")
    sys.exit(stopped.exit_code)
