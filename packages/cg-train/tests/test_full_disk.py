"""A disk that is full is one line, and what was written before is kept."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from cg_train.config import TrainConfig

# The limit of a file's size fails like a full disk, without one: no file may outgrow a few kilobytes once training has begun.
LIMITED = """
import resource, signal
import cg_train.gradient_stage as stage
before = stage.GradientStage.begin
def begin(self, state):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
    return before(self, state)
stage.GradientStage.begin = begin
from cg_train.cli import main; main()
"""


def test_a_full_disk_is_one_line(
    start: Callable[..., subprocess.Popen[str]], only_prior: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    only_prior("stages=[{train: prior, steps: 3000}]").save(tmp_path / "config.yaml")
    process = start(LIMITED, "run", tmp_path / "config.yaml", "-o", tmp_path / "run")
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 2, text
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "Traceback" not in text
    assert "make room" in errors[0]
