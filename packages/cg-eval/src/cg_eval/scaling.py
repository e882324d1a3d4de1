"""How training time falls with devices: speed-up, efficiency, and the laws of Amdahl and Gustafson with intervals."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from cg_data.atomic import atomic_folder
from cg_data.configuration import read_yaml
from cg_data.errors import UserError, require
from cg_eval.json_text import to_json


@dataclass(frozen=True)
class Fraction:
    """A serial fraction with its confidence interval; low and high are None where there are no points to spare for one."""

    estimate: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        interval = "no interval: as many points as parameters" if self.low is None else f"[{self.low:.4f}, {self.high:.4f}]"
        return f"{self.estimate:.4f} {interval}"


@dataclass(frozen=True)
class Scaling:
    """Times of the same work on several numbers of devices.

    amdahl: s of the speed-up over one device S(n) = 1 / (s + (1 - s) / n); gustafson: s of S(n) = n - s (n - 1), of the same times.
    """

    devices: tuple[int, ...]
    times: tuple[float, ...]
    amdahl: Fraction
    gustafson: Fraction
    level: float

    @property
    def speedup(self) -> np.ndarray:
        """Return [n] mean time on the fewest devices over time, times the fewest devices."""
        return _speedup(np.asarray(self.devices), np.asarray(self.times))

    @property
    def efficiency(self) -> np.ndarray:
        """Return [n] speed-up over devices."""
        return self.speedup / np.asarray(self.devices)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"speedup": self.speedup.tolist(), "efficiency": self.efficiency.tolist()}

    def caption(self) -> str:
        """Return what was measured, in a line."""
        return f"{len(self.devices)} runs on {min(self.devices)} to {max(self.devices)} devices"

    def table(self) -> str:
        """Return the scaling as text."""
        lines = [f"{'devices':>8} {'time':>12} {'speed-up':>9} {'efficiency':>11}"]
        for n, t, s, e in zip(self.devices, self.times, self.speedup, self.efficiency, strict=True):
            lines.append(f"{n:>8} {t:>12.4g} {s:>9.2f} {100 * e:>9.1f} %")
        lines.append(f"Amdahl's serial fraction {self.amdahl} ({100 * self.level:g} %)")
        lines.append(f"Gustafson's serial fraction {self.gustafson} ({100 * self.level:g} %)")
        return "\n".join(lines)

    def save(self, folder: Path | str, overwrite: bool = False) -> None:
        """Write scaling.txt, scaling.json and scaling.png, atomically."""
        from cg_eval.plots import plot_scaling

        with atomic_folder(folder, overwrite=overwrite) as aside:
            (aside / "scaling.txt").write_text(self.table() + "\n")
            (aside / "scaling.json").write_text(to_json(self.to_dict()))
            plot_scaling(self, aside / "scaling.png")


def fit_scaling(devices: Sequence[int], times: Sequence[float], level: float = 0.95) -> Scaling:
    """Return the scaling of times of equal work on numbers of devices, in any unit of time; repeated counts are repeats.

    Amdahl: T(n) = a + b / n, s = a / (a + b). Gustafson: 1 / T(n) = a + b n, s = a / (a + b). Both by least squares of relative
    errors, with intervals by Student's t and the delta method. Raises `UserError` for fewer than two numbers of devices.
    """
    order = np.argsort(np.asarray(devices), kind="stable")
    n, t = np.asarray(devices, np.float64)[order], np.asarray(times, np.float64)[order]
    require(
        len(n) == len(t) and len(np.unique(n)) >= 2, f"scaling: expected times on two or more numbers of devices, received {n.tolist()}"
    )
    usable = (n >= 1) & (t > 0) & np.isfinite(t)
    first_bad = "" if usable.all() else f"{n[~usable][0]:g} and {t[~usable][0]:g}"
    require(not first_bad, f"scaling: devices must be at least 1 and times positive and finite, received {first_bad}: leave that run out")
    amdahl, gustafson = (
        _serial_fraction(np.stack([1 / t, 1 / (n * t)], axis=1), level),
        _serial_fraction(np.stack([t, n * t], axis=1), level),
    )
    return Scaling(tuple(int(value) for value in n), tuple(map(float, t)), amdahl, gustafson, level)


def _serial_fraction(design: np.ndarray, level: float) -> Fraction:
    """Return a / (a + b) of the a, b that make design [n, 2] times them 1 by least squares, with its interval where there are points."""
    (a, b), *_ = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)
    estimate, to_spare = float(a / (a + b)), len(design) - 2
    if to_spare < 1:
        return Fraction(estimate, None, None)
    residual = design @ np.array([a, b]) - 1
    gradient = np.array([b, -a]) / (a + b) ** 2
    covariance = np.linalg.inv(design.T @ design) * (residual**2).sum() / to_spare
    spread = float(np.sqrt(gradient @ covariance @ gradient)) * stats.t.ppf(0.5 + level / 2, to_spare)
    return Fraction(estimate, float(estimate - spread), float(estimate + spread))


def read_timings(paths: Sequence[Path | str]) -> tuple[list[int], list[float]]:
    """Return (devices, times) of output folders of `cg-train run` (`read_runs`), or of CSV files, one after another (`read_times`)."""
    folders = [path for path in paths if Path(path).is_dir()]
    if len(folders) == len(paths):
        return read_runs(folders)
    # A run's times are in minutes, a file's in any unit.
    if folders:
        raise UserError(f"scaling: expected all folders or all CSV files, received the folder {folders[0]} among files: give one kind")
    found = [read_times(path) for path in paths]
    return [n for devices, _ in found for n in devices], [t for _, times in found for t in times]


def read_times(path: Path | str) -> tuple[list[int], list[float]]:
    """Return (devices, times) of a CSV with the columns `devices` and `time`, one line per run."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        found = [(int(row["devices"]), float(row["time"])) for row in rows]
    except OSError:
        raise UserError(f"{path}: cannot be read; expected a CSV with the columns devices and time") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: expected a CSV with the columns devices and time, a whole number and a number on each line") from None
    for devices, duration in found:
        expected = "a whole number from 1 and a positive, finite time on each line"
        require(
            devices >= 1 and 0 < duration < np.inf, f"{path}: expected {expected}, received {devices} and {duration:g}: remove that line"
        )
    return [devices for devices, _ in found], [duration for _, duration in found]


def read_runs(folders: Sequence[Path | str]) -> tuple[list[int], list[float]]:
    """Return (devices, minutes per epoch) of output folders of `cg-train run`, from their metrics.jsonl and config.yaml."""
    found = [_read_run(Path(folder)) for folder in folders]
    return [devices for devices, _ in found], [minutes for _, minutes in found]


def _read_run(folder: Path) -> tuple[int, float]:
    """Return the devices of a run and its minutes per epoch: all frames over the rate, without the first line (compilation)."""
    path = folder / "metrics.jsonl"
    try:
        # The last line of a run that was killed may be torn.
        lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        frames_per_batch = int(read_yaml(folder / "config.yaml")["frames_per_batch"])
        timed = [line for line in lines if "frames_per_second" in line and "epoch" in line]
        devices = {int(line["devices"]) for line in timed}
        if len(timed) < 2:
            raise ValueError("the time of the first line has the compilation in it")
        epoch_frames = timed[-1]["step"] * frames_per_batch / timed[-1]["epoch"]
        steps = np.diff([line["step"] for line in timed])
        rate = steps.sum() / (steps / np.array([line["frames_per_second"] for line in timed[1:]])).sum()
    except OSError:
        raise UserError(f"{folder}: expected the output folder of cg-train run, with metrics.jsonl and config.yaml") from None
    except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError):
        raise UserError(f"{path}: expected two or more lines with step, epoch, frames_per_second and devices: log more often") from None
    require(len(devices) == 1, f"{path}: the run was on {sorted(devices)} devices in turn: give runs on one number each")
    return devices.pop(), float(epoch_frames / rate / 60)


def _speedup(devices: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return [n]: the mean of the times on the fewest devices over each time, times the fewest devices."""
    fewest = devices.min()
    return times[devices == fewest].mean() * fewest / times
