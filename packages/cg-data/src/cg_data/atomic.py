"""Files and folders that appear complete or not at all."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cg_data.errors import UserError


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`, on failure remove it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield aside
        _flush(aside)
        os.replace(aside, path)
        _flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, on failure remove it.

    Raises `UserError` where `path` exists and is not an empty folder, unless `overwrite`.
    """
    path = Path(path)
    if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: already exists; expected a new or empty folder: choose another or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            _flush(file)
        replaced = None
        if path.exists():
            replaced = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
            os.replace(path, replaced)
        os.replace(aside, path)
        _flush(path.parent)
        if replaced is not None:
            shutil.rmtree(replaced)
    finally:
        if aside.exists():
            shutil.rmtree(aside)


@contextlib.contextmanager
def hold(folder: Path, name: str) -> Iterator[None]:
    """Hold a name in a folder against other processes; what a killed one left there half-written under the name is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.lock"
    while True:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_open_at(path, file):
                continue  # the holder before us removed this file, so a newcomer would lock another one
            for left in folder.glob(f".{name}.*"):
                if left.suffix in (".tmp", ".old"):
                    shutil.rmtree(left, ignore_errors=True)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_open_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
