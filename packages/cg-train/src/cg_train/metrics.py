"""The record of a run: `metrics.jsonl`, one line per logged step, and the plot made of it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.atomic import atomic_file
from cg_data.errors import UserError
from cg_train.trackers import Trackers


class Journal:
    """Appends lines of metrics to a file; each step has one line.

    Opening it for a run that stands at `step` drops later lines (written after the checkpoint) and a torn last one.
    """

    def __init__(self, path: Path, step: int, history: Path | None = None, trackers: Trackers | None = None):
        """Open `path` at `step`; lines up to it are taken from `history` (another run's file) where that is given.

        trackers: where lines go besides.
        """
        self._trackers = trackers
        self.path = path
        kept = [record for record in read_metrics(history or path) if record["step"] <= step]
        with atomic_file(path) as aside:
            aside.write_text("".join(_line(record) for record in kept))
        self._file = open(path, "a")  # noqa: SIM115 (held for the length of the run)

    def write(self, record: dict[str, Any]) -> None:
        """Append a line; it is handed to the operating system at once, so a killed process loses nothing written.

        Raises `UserError` where it cannot be written.
        """
        try:
            self._file.write(_line(record))
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}): make room, then go on with --resume auto") from None
        if self._trackers is not None:
            self._trackers.write(record)

    def close(self) -> None:
        """Flush to disk and close."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if self._trackers is not None:
                self._trackers.close()


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, in order; a torn last line and a missing file count as nothing."""
    path = Path(path)
    records: list[dict[str, Any]] = []
    if not path.exists():
        return records
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def plot_losses(metrics: Path, path: Path) -> None:
    """Draw training and validation mean square force errors against the step, beside the prior's, into a PNG."""
    from matplotlib.figure import Figure

    records = read_metrics(metrics)
    training = [(r["step"], r["train_mse"]) for r in records if "train_mse" in r]
    validation = [(r["step"], r["validation_mse"]) for r in records if "validation_mse" in r]
    reference = next((r for r in records if "train_zero_mse" in r), {})
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if training:
        axes.plot(*np.array(training, float).T, color="0.6", lw=1, label="training (mean since the last point)")
    if validation:
        axes.plot(*np.array(validation, float).T, color="C0", marker="o", ms=3, lw=1.5, label="validation")
        best = min(validation, key=lambda point: point[1])
        axes.plot(*best, color="C3", marker="*", ms=11, ls="none", label=f"best validation: {best[1]:.4g}")
    prior = reference.get("validation_prior_mse", reference.get("train_prior_mse"))
    if prior is not None:
        axes.axhline(prior, color="C1", ls="--", lw=1, label=f"prior alone: {prior:.4g}")
    values = [value for _, value in training + validation if np.isfinite(value)] + ([prior] if prior is not None else [])
    if values:
        low, high = min(values), float(np.percentile(values, 98))
        pad = 0.05 * max(high - low, 1e-3 * abs(high), 1e-12)
        axes.set_ylim(low - pad, high + 4 * pad)
    axes.set_xlabel("step")
    axes.set_ylabel("mean square force error, (kcal/mol/Å)²")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    with atomic_file(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
