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


def test_energies_cells_and_stress_go_through_npz_where_a_domain_has_them(tmp_path):
    """Without its cell a periodic frame would have come back as one in free space, without a word."""
    periodic = dataclasses.replace(
        frames(14, 7, 1),
        energy=np.where(np.arange(14) == 3, np.nan, -1e5 - np.arange(14) / 3),
        cell=np.broadcast_to(20 * np.eye(3, dtype=np.float32), (14, 3, 3)).copy(),
        stress=np.full((14, 6), 0.25, np.float32),
    )
    dataset = write_dataset(tmp_path / "dataset", {"a": frames(10, 4, 0), "b": periodic})
    back = from_npz(to_npz(dataset, tmp_path / "all.npz"), tmp_path / "back")
    for name in ("energy", "cell", "stress"):
        np.testing.assert_array_equal(getattr(back.frames("b"), name), getattr(periodic, name))
        assert getattr(back.frames("a"), name) is None


def test_a_dataset_is_not_written_over_by_its_own_export(dataset):
    before = (dataset.path / "dataset.json").read_bytes()
    with pytest.raises(UserError, match=r"dataset.json: is in the dataset itself: choose another place"):
        to_npz(dataset, dataset.path / "dataset.json")
    assert (dataset.path / "dataset.json").read_bytes() == before


CHANGES = {
    "a domain number that is none": (
        {"domain_index": np.r_[np.full(5, 7), np.zeros(19, int)]},
        "domain_index: expected 0 to 1, received 0 to 7",
    ),
    "a short domain_index": ({"domain_index": np.zeros(23, int)}, r"domain_index: expected shape \[24\], received \[23\]"),
    "a short temperature": ({"temperature": np.full(23, 300.0)}, r"temperature: expected shape \[24\]"),
    "one number for trajectory": ({"trajectory": np.array(1)}, r"trajectory: expected shape \[24\]"),
    "one row of residue_index": ({"residue_index": np.arange(7)}, r"residue_index: expected shape \[24, 7\]"),
    "one name of species": ({"aa_to_id": np.array("ALA")}, "aa_to_id: expected a list of names"),
    "one name of domains": ({"domains": np.array("a")}, "domains: expected a list of names"),
    "species that are no integers": ({"species": np.full((24, 7), 0.5)}, "species: expected integers, received float64"),
    "positions that are text": ({"R": np.full((24, 7, 3), "1.0")}, "R: expected numbers, received <U3"),
    "no bead": ({"mask": np.zeros((24, 7), bool)}, "a: no bead; expected mask to be true for some"),
    "temperatures that change": ({"temperature": np.linspace(300, 400, 24)}, "a: temperature changes along trajectory 0"),
    "residues that do not follow": (
        {"residue_index": np.tile(2 * np.arange(7), (24, 1))},
        "a: residue_index must rise by one along a segment",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_arrays_that_do_not_fit_are_one_line(name, dataset, tmp_path):
    changes, message = CHANGES[name]
    (file,) = to_npz(dataset, tmp_path / "all.npz")
    with np.load(file) as arrays:
        np.savez(tmp_path / "changed.npz", **{**arrays, **changes})
    with pytest.raises(UserError, match=message):
        from_npz([tmp_path / "changed.npz"], tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_frames_of_several_temperatures_without_trajectories_are_one_trajectory_each(dataset, tmp_path):
    (file,) = to_npz(dataset, tmp_path / "all.npz")
    with np.load(file) as arrays:
        np.savez(tmp_path / "bare.npz", **{key: arrays[key] for key in ("R", "F", "species", "mask", "aa_to_id", "temperature")})
    back = from_npz([tmp_path / "bare.npz"], tmp_path / "back")
    assert back.info.temperatures_kelvin == (320.0, 348.0)
    assert verify(back.path) == []
