import errno
import os
from pathlib import Path

import pytest

from cg_data.atomic import atomic_file, atomic_folder, check_place, hold, keep_out, sha256
from cg_data.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_write_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_file(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_a_failed_folder_does_not_appear(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as aside:
        (aside / "part").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content_is_not_overwritten_unless_asked(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(UserError, match="already exists"), atomic_folder(out):
        pass
    assert (out / "mine").read_text() == "keep"
    with atomic_folder(out, overwrite=True) as aside:
        (aside / "theirs").write_text("new")
    assert [p.name for p in out.iterdir()] == ["theirs"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_sha256_is_the_published_digest_of_abc(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path in ("file/x", "file/x/y", "/proc/none/x"):
        for place in (atomic_file, atomic_folder):
            with pytest.raises(UserError, match=r"x.*: cannot be written .*: choose another place"), place(tmp_path / path):
                pass
        with pytest.raises(UserError, match="cannot be written"):
            check_place(tmp_path / path)
    with pytest.raises(UserError, match=r"folder: cannot be written .Is a directory"), atomic_file(tmp_path / "folder") as aside:
        aside.write_text("whole")
    with pytest.raises(UserError, match="/proc/none: cannot be written"):
        check_place("/proc/none")
    check_place(tmp_path / "new/file")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "new"]


def test_a_full_disk_is_left_to_the_caller(tmp_path, monkeypatch):
    def no_room(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", no_room)
    for place in (atomic_file, atomic_folder):
        with pytest.raises(OSError, match="No space left"), place(tmp_path / "new/x"):
            pass


def test_what_cannot_be_held_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in ("file/x", "/proc/none"):
        with pytest.raises(UserError, match="cannot be written"), hold(tmp_path / folder, "a"):
            pass


def test_holding_a_name_leaves_what_others_write_under_longer_names(tmp_path):
    """A worker at `a` used to remove the folder that another one was writing for `a.b`."""
    with atomic_folder(tmp_path / "a.b") as aside:
        (tmp_path / ".a.0123abcd.tmp").mkdir()
        with hold(tmp_path, "a"):
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".a.lock", aside.name])


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    with keep_out(tmp_path), pytest.raises(UserError, match="another process is at work in it"), keep_out(tmp_path):
        pass

    def none_here(file, what):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none_here)
    with keep_out(tmp_path), keep_out(tmp_path):
        pass
