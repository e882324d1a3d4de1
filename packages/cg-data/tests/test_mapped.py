import sys
from pathlib import Path

import numpy as np
import pytest

from cg_data import mapped
from cg_data.errors import UserError


@pytest.fixture
def file(tmp_path):
    values = np.arange(3_000_000, dtype=np.float32).reshape(1000, -1)
    values[700, 5] = np.nan
    np.save(tmp_path / "values.npy", values)
    return tmp_path / "values.npy"


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_what_is_read_from_a_mapped_file_is_what_its_pages_hold_and_none_of_them_becomes_memory(file):
    values = np.load(file, mmap_mode="r")
    before = resident_bytes()
    copy = mapped.in_memory(values)
    assert resident_bytes() - before < 1.1 * values.nbytes
    assert type(copy) is np.ndarray
    assert not np.shares_memory(copy, values)
    for some in (values, values[300:450], values[300:450][20:30], values[999], values[::3], values[:, 4], values[:0]):
        np.testing.assert_array_equal(mapped.in_memory(some), some)
    further_on = np.memmap(file, np.float32, "r", offset=128 + 8192, shape=(5000,))
    np.testing.assert_array_equal(mapped.in_memory(further_on[7:]), further_on[7:])


def test_a_mapped_file_that_became_shorter_is_refused(file):
    values = np.load(file, mmap_mode="r")
    with file.open("r+b") as opened:
        opened.truncate(4000)
    with pytest.raises(UserError, match=r"values\.npy: expected 3000000 numbers from byte 128, received 968"):
        mapped.in_memory(values)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_rows_that_are_not_a_run_leave_no_pages_with_the_process(file):
    values = np.load(file, mmap_mode="r")
    before = resident_bytes()
    assert np.isnan(mapped.Rows(values, np.arange(0, 1000, 2))[:].sum())
    assert resident_bytes() - before < 0.3 * values.nbytes


def test_arrays_that_hold_their_own_data_are_left_alone():
    values = np.ones(1000)
    assert mapped.in_memory(values) is values


def test_the_first_part_with_a_number_that_is_not_finite_is_found_whatever_the_pieces(file, monkeypatch):
    monkeypatch.setattr(mapped, "CHUNK_BYTES", 500_000)
    values = np.load(file, mmap_mode="r")
    assert mapped.first_not_finite(values) == 700
    assert mapped.first_not_finite(values[:700]) is None
    assert mapped.first_not_finite(values[701:]) is None


def test_chosen_rows_are_those_of_a_copy_and_read_when_asked_for(file):
    values = np.load(file, mmap_mode="r")
    chosen = np.concatenate([np.arange(100, 200), np.arange(400, 900, 3)])
    rows = mapped.Rows(values, chosen)
    copy = np.asarray(values)[chosen]
    assert (rows.shape, rows.ndim, rows.dtype, len(rows), Path(rows.filename)) == (copy.shape, 2, copy.dtype, len(copy), file)
    assert np.shares_memory(rows[10:50], values)
    assert not np.shares_memory(rows[90:110], values)
    for key in (3, slice(10, 50), slice(90, 110), slice(None, None, 7), np.array([5, 120, 2]), (slice(None), 4)):
        np.testing.assert_array_equal(rows[key], copy[key])
    np.testing.assert_array_equal(mapped.Rows(rows, np.array([1, 110]))[:], copy[[1, 110]])
    np.testing.assert_array_equal(np.asarray(rows, np.float64), copy)
    assert mapped.first_not_finite(rows) == list(chosen).index(700)
