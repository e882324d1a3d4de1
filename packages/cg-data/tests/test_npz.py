import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_data.npz import from_npz, to_npz
from cg_data.store import open_dataset, write_dataset
from cg_data.verify import verify


def frames(n_frames, n_beads, seed):
    random = np.random.default_rng(seed)
    chain = (np.arange(n_beads) >= 3).astype(np.int32)
    return BeadFrames(
        positions=random.normal(size=(n_frames, n_beads, 3)).astype(np.float32),
        forces=random.normal(size=(n_frames, n_beads, 3)).astype(np.float32),
        species=random.integers(0, 20, n_beads).astype(np.int32),
        residue_index=np.arange(n_beads, dtype=np.int32) + chain,
        chain_index=chain,
        temperature=np.repeat([320, 348], [n_frames // 2, n_frames - n_frames // 2]).astype(np.float32),
        trajectory=np.repeat([0, 1], [n_frames // 2, n_frames - n_frames // 2]).astype(np.int32),
    )


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset", {"a": frames(10, 4, 0), "b": frames(14, 7, 1)})


@pytest.mark.parametrize("per_domain", [False, True])
def test_a_dataset_comes_back_the_same_from_npz(dataset, tmp_path, per_domain):
    files = to_npz(dataset, tmp_path / "exchange.npz", per_domain)
    assert len(files) == (2 if per_domain else 1)
    back = from_npz(files, tmp_path / "back")
    assert (back.domains, back.species_names) == (dataset.domains, dataset.species_names)
    for domain in back.domains:
        for name in ("positions", "forces", "species", "residue_index", "chain_index", "temperature", "trajectory"):
            np.testing.assert_array_equal(getattr(back.frames(domain), name), getattr(dataset.frames(domain), name))
    assert verify(back.path) == []


def test_weights_and_errors_of_labels_go_through_npz_where_a_domain_has_them(tmp_path):
    labelled = frames(14, 7, 1)
    labelled = dataclasses.replace(labelled, weight=np.linspace(1, 2, 14).astype(np.float32), force_error=np.abs(labelled.forces))
    dataset = write_dataset(tmp_path / "dataset", {"a": frames(10, 4, 0), "b": labelled})
    back = from_npz(to_npz(dataset, tmp_path / "all.npz"), tmp_path / "back")
    np.testing.assert_array_equal(back.frames("b").weight, labelled.weight)
    np.testing.assert_array_equal(back.frames("b").force_error, labelled.force_error)
    assert (back.frames("a").weight, back.frames("a").force_error) == (None, None)


def test_the_padded_layout_is_as_documented(dataset, tmp_path):
    (file,) = to_npz(dataset, tmp_path / "exchange.npz")
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["R"].shape == arrays["F"].shape == (24, 7, 3)
        assert arrays["N_max"] == 7
        np.testing.assert_array_equal(arrays["Z"], [4] * 10 + [7] * 14)
        np.testing.assert_array_equal(arrays["mask"].sum(axis=1), arrays["Z"])
        assert (arrays["species"][~arrays["mask"]] == -1).all()
        assert (arrays["R"][~arrays["mask"]] == 0).all()
        assert arrays["aa_to_id"][0] == "ALA"


def plain(**changes):
    arrays = {
        "R": np.zeros((5, 4, 3), np.float32),
        "F": np.zeros((5, 4, 3), np.float32),
        "species": np.zeros((5, 4), np.int32),
        "mask": np.ones((5, 4), bool),
    }
    return {**arrays, **changes}


def test_the_bare_layout_is_read_where_the_temperature_is_stated(tmp_path):
    species = np.array([[0, 1, 2, 3]] * 3 + [[4, 5, 6, 0]] * 2)
    mask = np.ones((5, 4), bool)
    mask[3:, 3] = False
    np.savez(tmp_path / "bare.npz", **plain(species=species, mask=mask))
    with pytest.raises(UserError, match="state it with temperature_kelvin"):
        from_npz([tmp_path / "bare.npz"], tmp_path / "out")
    dataset = from_npz([tmp_path / "bare.npz"], tmp_path / "out", temperature_kelvin=300)
    assert [(d, dataset.domain(d).n_frames, dataset.domain(d).n_beads) for d in dataset.domains] == [("bare-0", 3, 4), ("bare-1", 2, 3)]
    assert dataset.info.temperatures_kelvin == (300.0,)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_text("text"), "not an NPZ file"),
        (lambda p: np.savez(p, R=np.zeros(3)), "no array F, species, mask"),
        (lambda p: np.savez(p, **plain(F=np.zeros((5, 3, 3)))), r"F: expected shape \[5, 4, 3\], received \[5, 3, 3\]"),
        (lambda p: np.savez(p, **plain(species=np.full((5, 4), 20))), "species outside 0 to 19"),
        (lambda p: np.savez(p, **plain(R=np.full((5, 4, 3), np.nan))), "positions must be finite; frame 0"),
        (lambda p: np.savez(p, aa_to_id=np.array({"ALA": 0}, dtype=object), **plain()), "plain arrays"),
    ],
)
def test_files_in_another_layout_are_refused_by_name(tmp_path, write, message):
    write(tmp_path / "bad.npz")
    with pytest.raises(UserError, match=message):
        from_npz([tmp_path / "bad.npz"], tmp_path / "out", temperature_kelvin=300)
    assert not (tmp_path / "out").exists()


def test_the_verbs_write_and_read_npz(dataset, tmp_path):
    def call(*arguments):
        return subprocess.run([sys.executable, "-m", "cg_data.cli", *arguments], capture_output=True, text=True, check=True)

    call("to-npz", dataset.path, "-o", tmp_path / "all.npz")
    call("from-npz", tmp_path / "all.npz", "-o", tmp_path / "back", "split.held_out_domains=[b]")
    assert list(open_dataset(tmp_path / "back").split("held_out_domains")) == ["b"]
