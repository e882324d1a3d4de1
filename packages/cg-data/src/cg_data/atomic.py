"""Files and folders that appear complete or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cg_data.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Failures of a path that is right: whoever wrote there says what to do."""
PIECES, PIECE_BYTES = 16, 65_536
LOCK_FILE = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer, as Lustre does where it is mounted without them."""


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`, on failure remove it.

    Raises `UserError` where `path` is a folder, or its parent is none and cannot be made one, or cannot be written to.
    """
    path = Path(path)
    with _one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path.parent)
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

    Raises `UserError` where `path` exists and is not an empty folder, unless `overwrite`, and where no folder can be made there.
    """
    path = Path(path)
    with _one_line(path):
        if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path}: already exists; expected a new or empty folder: choose another or remove it")
        aside = _new_folder_beside(path)
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
def room_at(path: Path | str, then: str = "run again") -> Iterator[None]:
    """Turn a full disk into a `UserError` naming `path`, and what to do then."""
    try:
        yield
    except OSError as error:
        # NumPy says how many numbers it wrote, and not why no more.
        unsaid = error.errno is None and "requested and" in str(error)
        if not unsaid and error.errno not in NO_ROOM:
            raise
        raise UserError(f"{path}: cannot be written ({os.strerror(error.errno or errno.ENOSPC)}): make room; {then}") from None


def check_place(path: Path | str) -> None:
    """Raise `UserError` where nothing can be written at `path`: what to do before work whose result goes there; makes its parent."""
    path = Path(path)
    with _one_line(path):
        _new_folder_beside(path).rmdir()


@contextlib.contextmanager
def hold(folder: Path, name: str) -> Iterator[None]:
    """Hold a name in a folder against other processes; what a killed one left there half-written under the name is removed.

    Raises `UserError` where the folder cannot be made or written to.
    """
    path = folder / f".{name}.lock"
    left_under = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}\.(tmp|old)")
    with _one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path, fcntl.LOCK_EX)
    with lock:
        for left in folder.iterdir():
            if left_under.fullmatch(left.name):
                shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def keep_out(folder: Path | str) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder; a killed process keeps nobody out.

    Raises `UserError` where another one is in it. On a file system without locks nobody is kept out.
    """
    path = Path(folder) / LOCK_FILE
    try:
        lock: IO[str] | None = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder}: another process is at work in it: wait until it has ended, or choose another folder") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        lock = None
    with lock or contextlib.nullcontext():
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_sha256(path: Path | str) -> str:
    """Return a digest of a file's length and of 16 pieces of 64 kB spread over it, which are all of a file below 1 MB.

    For files too large to be read again only to know them: another file of the same length has another digest, unless they differ in
    a few places only.
    """
    path = Path(path)
    length = path.stat().st_size
    digest = hashlib.sha256(str(length).encode())
    with open(path, "rb") as file:
        for piece in range(PIECES):
            file.seek(piece * max(length - PIECE_BYTES, 0) // (PIECES - 1) if length > PIECES * PIECE_BYTES else piece * PIECE_BYTES)
            digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def _new_folder_beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside.mkdir()
    return aside


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn what is wrong with a path into a `UserError`; a full disk passes."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        # What `mkdir` found to exist is no folder.
        reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        place = Path(error.filename or path)
        where = "" if place.parent == path.parent else f"{place}: "
        raise UserError(f"{path}: cannot be written ({where}{reason}): choose another place") from None


def _locked(path: Path, how: int) -> IO[str]:
    """Return the open file at a path, which no other process holds; how: of `fcntl.flock`."""
    while True:
        with contextlib.ExitStack() as unless_returned:
            file = unless_returned.enter_context(open(path, "w"))
            fcntl.flock(file, how)
            # Else the holder before us removed this file, so that a newcomer would lock another one.
            if _is_open_at(path, file):
                unless_returned.pop_all()  # closed by the caller, which gives the lock up
                return file


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
