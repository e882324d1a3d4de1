import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from cg_train.config import TrackersConfig
from cg_train.trackers import Trackers


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    trackers = Trackers(TrackersConfig(tensorboard=True), tmp_path, {})
    trackers.write({"step": 3, "loss": 2.5, "validation_mse_of_members": [1.0, 2.0]})
    trackers.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in file.read_bytes()


def test_tensorboard_shows_no_line_twice_where_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class SummaryWriter:
        def __init__(self, folder: str, **options: Any):
            asked.update(options)

    fake = types.ModuleType("tensorboardX")
    fake.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    Trackers(TrackersConfig(tensorboard=True), tmp_path, {}, step=40)
    assert asked["purge_step"] == 41


def test_wandb_is_offline_unless_asked_and_its_failures_are_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: dict[str, Any] = {}
    logged: list[int] = []

    class Run:
        def log(self, numbers: dict[str, float], step: int) -> None:
            logged.append(step)
            if step == 2:
                raise OSError("disk full")

        def finish(self) -> None:
            raise AssertionError("must have been left out")

    def init(**options: Any) -> Run:
        asked.update(options)
        return Run()

    fake = types.ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(logging.getLogger("cg_train"), "propagate", True)
    trackers = Trackers(TrackersConfig(wandb_project="proteins"), tmp_path, {"seed": 1})
    for step in (1, 2, 3):
        trackers.write({"step": step, "loss": 1.0})
    trackers.close()
    assert asked["mode"] == "offline"
    assert logged == [1, 2]
    assert "disk full" in caplog.text


def test_a_run_that_goes_on_is_the_same_at_wandb_and_one_that_begins_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: asked.append(options["id"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    first, moved = tmp_path / "first", tmp_path / "moved"
    first.mkdir()
    config = TrackersConfig(wandb_project="proteins")
    Trackers(config, first, {})
    first.rename(moved)
    Trackers(config, moved, {}, step=40)
    Trackers(config, moved, {})
    assert asked[0] == asked[1] != asked[2]


def test_a_missing_tracker_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(logging.getLogger("cg_train"), "propagate", True)
    Trackers(TrackersConfig(wandb_project="proteins"), tmp_path, {}).write({"step": 1})
    assert "cg-train[wandb]" in caplog.text
