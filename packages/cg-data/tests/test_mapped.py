import sys
from pathlib import Path

import numpy as np
import pytest

from cg_data import mapped


@pytest.fixture
def file(tmp_path):
    values = np.arange(3_000_000, dtype=np.float32).reshape(1000, -1)
    values[700, 5] = np.nan
    np.save(tmp_path / "values.npy", values)
    return tmp_path / "values.npy"


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_released_pages_leave_the_process_and_are_read_again(file):
    values = np.load(file, mmap_mode="r")
    assert np.isnan(values.sum())
    before = resident_bytes()
    mapped.release_pages(values[500:])
    assert 0.4 * values.nbytes < before - resident_bytes() < 0.8 * values.nbytes
    mapped.release_pages(values)
    assert before - resident_bytes() > 0.8 * values.nbytes
    assert values[999, -1] == 2_999_999


def test_arrays_that_hold_their_own_data_are_left_alone():
    values = np.ones(1000)
    mapped.release_pages(values)
    assert (values == 1).all()


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
