import pytest

from cg_data.atomic import atomic_file, atomic_folder, sha256
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
