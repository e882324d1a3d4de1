"""Runs that are killed or asked to stop, in processes of their own, end as if nothing had happened."""

import functools
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cg_train.config import TrainConfig
from cg_train.metrics import read_metrics
from cg_train.preemption import EXIT_INTERRUPTED, EXIT_REQUEUE

Start = Callable[..., subprocess.Popen[str]]

CLI = "import sys; from cg_train.cli import main; main()"
STAGES = (
    "stages=[{train: prior, steps: 100, learning_rate: 0.05}, "
    "{train: prior, steps: 200, optimizer: {kind: adabelief}, learning_rate: 0.02, schedule: {kind: plateau, patience: 1}}]"
)


@pytest.fixture(scope="module")
def config(only_prior: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    only_prior(STAGES, "checkpoints.every_steps=7", "validation.every_steps=15", "log_every_steps=5").save(path)
    return path


@pytest.fixture(scope="module")
def uninterrupted(start: Start, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    finish(start(CLI, "run", config, "-o", output))
    return output


def finish(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def same_end(output: Path, uninterrupted: Path) -> None:
    for name in ("params.safetensors", "metrics.json"):
        assert (output / "bundle" / name).read_bytes() == (uninterrupted / "bundle" / name).read_bytes()
    found, expected = (
        [{name: value for name, value in record.items() if name != "frames_per_second"} for record in read_metrics(run / "metrics.jsonl")]
        for run in (output, uninterrupted)
    )
    assert found == expected


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> bool:
    """Wait until something has happened; False where the process ended before."""
    while process.poll() is None:
        if happened():
            return True
        time.sleep(0.0005)
    return False


def reached(output: Path, step: int) -> bool:
    records = read_metrics(output / "metrics.jsonl")
    return bool(records) and records[-1]["step"] >= step


def saving(output: Path) -> bool:
    return any(output.glob("checkpoints/*tmp*"))


def test_a_run_killed_again_and_again_ends_bit_identical(start: Start, config: Path, uninterrupted: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    chance = random.Random(7)
    moments: list[Callable[[], bool]] = [
        lambda: (output / "metrics.jsonl").exists(),
        lambda: saving(output),
        lambda: reached(output, 90 + chance.randrange(20)),
        lambda: reached(output, 120) and saving(output),
        lambda: reached(output, 200 + chance.randrange(60)),
    ]
    killed = 0
    for moment in moments:
        process = start(CLI, "run", config, "-o", output, "--resume", "auto")
        if wait_for(process, moment):
            time.sleep(chance.random() * 0.01)
            killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed >= 4
    finish(start(CLI, "run", config, "-o", output, "--resume", "auto"))
    same_end(output, uninterrupted)


def test_signals_save_say_how_to_go_on_and_lose_nothing(start: Start, config: Path, uninterrupted: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    for number, code, step in (
        (signal.SIGTERM, EXIT_REQUEUE, 40),
        (signal.SIGUSR1, EXIT_REQUEUE, 120),
        (signal.SIGINT, EXIT_INTERRUPTED, 210),
    ):
        process = start(CLI, "run", config, "-o", output, "--resume", "auto")
        assert wait_for(process, functools.partial(reached, output, step))
        process.send_signal(number)
        text, _ = process.communicate(timeout=120)
        assert process.returncode == code, text
        assert f"cg-train run {output}/config.yaml -o {output} --resume auto" in text
    finish(start(CLI, "run", config, "-o", output, "--resume", "auto"))
    same_end(output, uninterrupted)


def test_a_damaged_or_foreign_checkpoint_is_one_line(start: Start, config: Path, uninterrupted: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign" / "checkpoints" / "5"
    (foreign / "state").mkdir(parents=True)
    process = start(CLI, "run", config, "-o", tmp_path / "run", "--resume", tmp_path / "foreign")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert str(foreign) in errors[0]
    assert "Traceback" not in text
