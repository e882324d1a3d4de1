"""TensorBoard and Weights & Biases beside `metrics.jsonl`: what fails there is said once and never stops a run."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cg_data.atomic import atomic_file
from cg_train.config import TrackersConfig

logger = logging.getLogger(__name__)

Log = Callable[[int, dict[str, float]], None]
Sink = tuple[str, Log, Callable[[], None]]

WANDB_ID_FILE = "wandb-id"
"""In the output folder: by it a run that goes on finds itself at Weights & Biases."""


class Trackers:
    """The trackers of a run; each that fails is left out from then on."""

    def __init__(self, config: TrackersConfig, output: Path, settings: Mapping[str, Any], step: int = -1):
        """Open the trackers of a run that stands at `step` (before its first line: -1)."""
        self._sinks: list[Sink] = []
        if config.tensorboard:
            self._open("tensorboard", lambda: _tensorboard(output, step))
        if config.wandb_project is not None:
            project = config.wandb_project
            self._open("wandb", lambda: _wandb(project, output, settings, step))

    def write(self, record: Mapping[str, Any]) -> None:
        """Hand on the numbers of a line of metrics."""
        numbers = {name: float(value) for name, value in record.items() if name != "step" and isinstance(value, int | float)}
        for sink in list(self._sinks):
            self._guard(sink[0], lambda sink=sink: sink[1](int(record["step"]), numbers))  # type: ignore[misc]

    def close(self) -> None:
        """Finish writing."""
        for sink in list(self._sinks):
            self._guard(sink[0], sink[2])
        self._sinks = []

    def _open(self, name: str, make: Callable[[], tuple[Log, Callable[[], None]]]) -> None:
        try:
            self._sinks.append((name, *make()))
        except Exception as error:  # noqa: BLE001 (a tracker of any kind must not cost a run)
            logger.warning("%s is not used: %s", name, _line(error))

    def _guard(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 (as above)
            logger.warning("%s failed and is not used from here on: %s", name, _line(error))
            self._sinks = [sink for sink in self._sinks if sink[0] != name]


def _tensorboard(output: Path, step: int) -> tuple[Log, Callable[[], None]]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ImportError('install it with pip install "cg-train[tensorboard]"') from None
    # What was written after the checkpoint that a run goes on from is written again.
    writer = SummaryWriter(str(output / "tensorboard"), purge_step=step + 1)

    def log(step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def _wandb(project: str, output: Path, settings: Mapping[str, Any], step: int) -> tuple[Log, Callable[[], None]]:
    # Offline, so that a node without network neither waits nor fails; WANDB_MODE=online is the user's own choice.
    mode = os.environ.get("WANDB_MODE", "offline")
    try:
        import wandb
    except ImportError:
        raise ImportError('install it with pip install "cg-train[wandb]"') from None
    run = wandb.init(
        project=project,
        dir=str(output),
        name=output.name,
        id=_wandb_id(output, step),
        resume="allow",
        mode=mode,
        config=dict(settings),
    )
    return (lambda step, numbers: run.log(numbers, step=step)), run.finish


def _wandb_id(output: Path, step: int) -> str:
    """Return the identity of the run in a folder, another one for each run that begins: it would add to the curves of an older one."""
    file = output / WANDB_ID_FILE
    if step < 0 or not file.is_file():
        with atomic_file(file) as aside:
            aside.write_text(secrets.token_hex(6))
    return file.read_text().strip()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
