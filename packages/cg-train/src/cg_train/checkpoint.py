"""Checkpoints: asynchronous, atomic, kept by number and by best validation (orbax), and what may change between runs.

checkpoints/<step>/state      arrays of `TrainState`, as seen from one process
checkpoints/<step>/progress   JSON: `Progress`, configuration, fingerprints of the inputs, versions
"""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from cg_data.errors import UserError
from cg_train.config import DataConfig
from cg_train.state import Progress

logger = logging.getLogger(__name__)

CHECKPOINT_VERSION = 3
NO_METRIC = float("inf")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Restored:
    """A checkpoint as read: host arrays and what is written beside them."""

    path: Path
    state: Any
    progress: Progress
    config: dict[str, Any]
    inputs: dict[str, str]


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder.absolute()
        # A preempted save leaves a temporary folder; orbax never lists it, and removes it when the manager opens.
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_metric_of,
                best_mode="min",
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [
                        preservation_policy.LatestN(keep),
                        preservation_policy.BestN(get_metric_fn=_metric_of, reverse=True, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
            ),
        )

    def latest(self) -> int | None:
        """Return the newest complete checkpoint's step."""
        return self._manager.latest_step()

    def save(self, state: Any, progress: Progress, config: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        """Begin to save host arrays; returns once they are copied. Saving a step again does nothing."""
        if progress.step in self._manager.all_steps():
            return
        about = {
            "version": CHECKPOINT_VERSION,
            "progress": progress.model_dump(mode="json"),
            "config": dict(config),
            "inputs": dict(inputs),
        }
        is_best = progress.best_mse is not None and progress.best_step == progress.step
        try:
            self._manager.save(
                progress.step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(about)),
                metrics={"validation_mse": progress.best_mse if is_best else NO_METRIC},
                force=True,
            )
        except (OSError, ValueError) as error:
            raise self._not_written(error) from None

    def wait(self) -> None:
        """Return when everything is on disk; `UserError` where it could not be written."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except (OSError, ValueError) as error:
            raise self._not_written(error) from None

    def _not_written(self, error: Exception) -> UserError:
        # What fails may be an earlier save, which was still being written.
        reason = _no_room(error) or " ".join(str(error).split())[:300]
        return UserError(f"{self.folder}: a checkpoint could not be written ({reason}): make room; older ones are kept")

    def close(self) -> None:
        """Finish writing and release threads."""
        self._manager.close()


def read_about(folder: Path, step: int) -> Restored:
    """Return what stands beside a checkpoint's arrays (its `state` is None)."""
    path = folder.absolute() / str(step)
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            about = reader.restore(path / "progress")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a readable checkpoint ({' '.join(str(error).split())[:120]}): remove it or resume from another"
        ) from None
    version = about.get("version") if isinstance(about, dict) else None
    if version in (1, 2):
        # Batches had one shape, and once a table with a fixed number of neighbours; the same frames in others differ by rounding alone.
        about["config"]["data"].pop("edge_layout", None)
        about["config"]["data"]["most_shapes"] = DataConfig().most_shapes
        del about["progress"]["budget"]
    elif version != CHECKPOINT_VERSION:
        raise UserError(
            f"{path}: checkpoint version {version}, this cg-train reads {CHECKPOINT_VERSION}: train anew or use the version that wrote it"
        )
    return Restored(path, None, Progress.model_validate(about["progress"]), about["config"], about["inputs"])


def read_state(path: Path, like: Any) -> Any:
    """Return a checkpoint's arrays on the host; `like` is a tree of arrays of the same shapes and dtypes."""
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            found = reader.restore(path / "state", args=ocp.args.StandardRestore(template))
        # orbax restores whatever shapes it finds.
        shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (template, found)]
        if shapes[0] != shapes[1]:
            raise TypeError("arrays of other shapes")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = " ".join(str(error).split())[:160]
        reason = "arrays are missing or others" if isinstance(error, KeyError | TypeError) or "structure" in words else words
        raise UserError(
            f"{path}: the checkpoint does not fit this configuration or is damaged ({reason}): resume with the one it was made with"
        ) from None


def read_parts(path: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Return some parts of a checkpoint's state by name; `like` has trees of arrays of the same shapes."""
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(like))
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            found = reader.restore(path / "state", args=ocp.args.PyTreeRestore(item=template, partial_restore=True))
        shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (template, found)]
        if shapes[0] != shapes[1]:
            raise ValueError("arrays of other shapes")
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: its {', '.join(like)} do not fit this configuration ({reason}): keep model and optimizer") from None


def resolve(resume: str | None, output: Path) -> Path | None:
    """Return the checkpoint folder (`.../checkpoints/<step>`) to resume from, or None.

    resume: None, "auto" (the newest of `output`, or none), a run's folder, its checkpoints folder, or one checkpoint.
    """
    if resume is None:
        return None
    folder = output if resume == "auto" else Path(resume)
    if resume != "auto" and not folder.is_dir():
        raise UserError(f"--resume {resume}: no such folder; expected auto, a run's output folder or one of its checkpoints")
    if (folder / "state").is_dir() and folder.name.isdigit():
        return folder.absolute()
    steps = folder if folder.name == "checkpoints" else folder / "checkpoints"
    found = sorted((int(entry.name) for entry in steps.glob("*") if entry.name.isdigit()), reverse=True) if steps.is_dir() else []
    if not found and resume != "auto":
        raise UserError(f"--resume {resume}: no checkpoint in it; expected auto, a run's output folder or one of its checkpoints")
    return steps.absolute() / str(found[0]) if found else None


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return lines 'key: old -> new' for two configurations as plain values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        missing = "(not set)"
        return [
            line for key in keys for line in differences(old.get(key, missing), new.get(key, missing), f"{prefix}.{key}" if prefix else key)
        ]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        return [line for i, (a, b) in enumerate(zip(old, new, strict=True)) for line in differences(a, b, f"{prefix}.{i}")]
    return [] if old == new else [f"{prefix}: {old} -> {new}"]


@contextlib.contextmanager
def full_disk_is_one_line(output: Path) -> Iterator[None]:
    """Turn the failure to write for want of room into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _no_room(error)
        if reason is None:
            raise
        raise UserError(f"{output}: cannot be written ({reason}): make room, then go on with --resume auto") from None


def _no_room(error: Exception) -> str | None:
    """Return the system's words for want of room where that is what an error is about; libraries put them into errors of their own."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in NO_ROOM else None
    return next((words for words in map(os.strerror, NO_ROOM) if words in str(error)), None)


def silence_orbax() -> None:
    """Keep orbax's running commentary out of the log, also of failures in its threads: they are raised here and said once."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def quiet_failed_writes() -> None:
    """Keep tracebacks of a failed save's other writes off standard error: when the first fails, they find their event loop closed."""
    before = sys.unraisablehook

    def hook(found: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
            before(found)

    sys.unraisablehook = hook


def _metric_of(metrics: Any) -> float:
    return float(metrics["validation_mse"])
