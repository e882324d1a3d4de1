"""What a person sees while training: a progress bar on a terminal, plain lines in a log."""

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

from cg_data.command_line import progress_bar

logger = logging.getLogger("cg_train")


class Display:
    """Shows where a stage is."""

    def __init__(self, bar: Any, task: Any, stage: str, n_steps: int, speaks: bool):
        self._bar, self._task, self._stage, self._n_steps, self._speaks = bar, task, stage, n_steps, speaks
        self._validated = ""

    def show(self, record: dict[str, Any], stage_step: int) -> None:
        """Show a line of metrics; the bar takes it on a terminal, the log elsewhere."""
        if not self._speaks:
            return
        text = summary(record)
        if "validation_mse" in record:
            self._validated = f"\nvalidation mse {record['validation_mse']:.4f} at step {record['step']}"
        self._bar.line = summary({name: value for name, value in record.items() if name != "validation_mse"}) + self._validated
        self._bar.update(self._task, completed=stage_step)
        if self._bar.disable:
            logger.info("%s step %d/%d %s", self._stage, stage_step, self._n_steps, text)
        elif "validation_mse" in record:
            logger.info("step %d validation %.5g", record["step"], record["validation_mse"])


@contextlib.contextmanager
def display(stage: str, n_steps: int, done: int, show: bool) -> Iterator[Display]:
    """Yield the display of a stage of `n_steps`, of which `done` are done; it is mute unless `show`."""
    bar = progress_bar()
    bar.disable = bar.disable or not show
    with bar:
        yield Display(bar, bar.add_task(stage, total=n_steps, completed=done), stage, n_steps, show)


def summary(record: dict[str, Any]) -> str:
    """Return a line of metrics in words."""
    parts = [f"epoch {record['epoch']:.2f}"]
    if "train_mse" in record:
        parts.append(f"mse {record['train_mse']:.4f} rmse {math.sqrt(record['train_mse']):.4f}")
    if "validation_mse" in record:
        parts.append(f"validation mse {record['validation_mse']:.4f} rmse {math.sqrt(record['validation_mse']):.4f}")
    for term in ("energy", "stress"):
        if f"train_{term}_mse" in record:
            parts.append(f"{term} rmse {math.sqrt(record[f'train_{term}_mse']):.4g}")
    if "learning_rate" in record:
        parts.append(f"lr {record['learning_rate']:.2e}")
    if "frames_per_second" in record:
        parts.append(f"{record['frames_per_second']:.0f} frames/s")
    return " ".join(parts)
