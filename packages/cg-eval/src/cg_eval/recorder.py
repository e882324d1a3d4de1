"""What a running simulation leaves on disk, so that one that was killed goes on as if nothing had happened.

A folder beside the result, gone once that is written: `rows_00000.npz`, ... with the frames saved since the last checkpoint, and
`state.npz` with all that the dynamics carry on, which is written last. Each file appears complete or not at all.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cg_data.atomic import atomic_file, keep_out
from cg_data.errors import UserError, counted

if TYPE_CHECKING:
    from cg_eval.dynamics import Motion

logger = logging.getLogger("cg_eval")

RECORD_VERSION = 3


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder of a simulation while it runs; what was recorded there goes once it has run to its end.

    Raises `UserError` where another process is at work in it. A folder without a checkpoint is not left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with keep_out(folder):
            yield
            shutil.rmtree(folder)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


class Recorder:
    """Holds the saved rows of a simulation, and writes them where there is a folder."""

    def __init__(self, folder: Path | None, every_frames: int, n_devices: int = 1):
        """Record into `folder` (None: memory alone), one checkpoint after each `every_frames` saved rows, of a run on `n_devices`."""
        self.folder, self.every_frames, self.n_devices = folder, every_frames, n_devices
        self.rows: list[dict[str, np.ndarray]] = []
        self.n_written = self.n_files = 0

    def restore(self, identity: str) -> "tuple[Motion, dict[str, Any]] | None":
        """Return (motion, counts) of the last checkpoint and take its rows; None where there is none.

        identity: what must be the same for the run to be the same. Raises `UserError` where the folder holds another simulation, or
        one of another number of devices: that would add up in another order.
        """
        if self.folder is None or not (self.folder / "state.npz").is_file():
            return None
        from cg_eval.dynamics import Motion

        try:
            arrays = _read(self.folder / "state.npz")
            about = json.loads(str(arrays.pop("about")))
            current = about["version"] == RECORD_VERSION
            known = current and about["identity"] == identity
            if known and about["n_devices"] == self.n_devices:
                for number in range(about["n_files"]):
                    columns = _read(self._rows_file(number))
                    self.rows += [{name: values[row] for name, values in columns.items()} for row in range(len(columns["time_ps"]))]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.folder}: cannot be read ({error}): remove it to simulate from the start") from None
        if not current:
            raise UserError(
                f"{self.folder}: holds an unfinished simulation of another version of cg-eval: remove it to simulate from the start"
            )
        if not known:
            raise UserError(
                f"{self.folder}: holds an unfinished simulation with other options, another model or another start: "
                "give the same ones to go on, or remove it"
            )
        if about["n_devices"] != self.n_devices:
            raise UserError(
                f"{self.folder}: holds an unfinished simulation on {counted(about['n_devices'], 'device')}, and now there are "
                f"{self.n_devices}, which round differently: give it as many cores (taskset) or GPUs (CUDA_VISIBLE_DEVICES), or remove it"
            )
        self.n_written, self.n_files = len(self.rows), about["n_files"]
        logger.info("%s: going on from step %d", self.folder, int(arrays["step"]))
        return Motion(**{name: arrays[name] for name in Motion._fields}), about["counts"]

    def save(self, row: dict[str, np.ndarray]) -> None:
        """Take in one row of arrays."""
        self.rows.append(row)

    def checkpoint(self, motion: "Motion", identity: str, counts: Mapping[str, Any]) -> None:
        """Write the new rows, then the motion, where it is time."""
        if self.folder is None or len(self.rows) - self.n_written < self.every_frames:
            return
        new = self.rows[self.n_written :]
        _write(self._rows_file(self.n_files), {name: np.stack([row[name] for row in new]) for name in new[0]})
        about = {"version": RECORD_VERSION, "identity": identity, "n_devices": self.n_devices, "n_files": self.n_files + 1}
        about["counts"] = dict(counts)
        state = {name: np.asarray(value) for name, value in motion._asdict().items()}
        _write(self.folder / "state.npz", state | {"about": np.array(json.dumps(about))})
        self.n_written, self.n_files = len(self.rows), self.n_files + 1

    def columns(self) -> dict[str, np.ndarray]:
        """Return all rows, each array with a leading axis [n_saved]."""
        return {name: np.stack([row[name] for row in self.rows]) for name in self.rows[0]}

    def _rows_file(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"rows_{number:05d}.npz"


def identity_of(values: Any) -> str:
    """Return a checksum of plain values and arrays in any nesting of mappings and sequences."""
    digest = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, Mapping):
            for key in sorted(item):
                digest.update(str(key).encode())
                add(item[key])
        elif isinstance(item, list | tuple):
            for entry in item:
                add(entry)
        elif isinstance(item, str | float | int | bool | None):
            digest.update(repr(item).encode())
        else:
            array = np.asarray(item)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())

    add(values)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic_file(path) as aside, open(aside, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
