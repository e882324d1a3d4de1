import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_data.mapping import RESIDUE_MASSES_AMU, RESIDUE_SPECIES, residue_species
from cg_data.split import SPLITS, SplitConfig, assign_segments, check_segments, is_held_out, read_superfamilies
from cg_data.store import open_dataset, write_dataset
from cg_data.verify import verify


def make_frames(n_frames=40, n_beads=6, n_trajectories=2, seed=0):
    random = np.random.default_rng(seed)
    return BeadFrames(
        positions=random.normal(size=(n_frames, n_beads, 3)).astype(np.float32),
        forces=random.normal(size=(n_frames, n_beads, 3)).astype(np.float32),
        species=np.arange(n_beads, dtype=np.int32),
        residue_index=np.arange(n_beads, dtype=np.int32),
        chain_index=np.zeros(n_beads, np.int32),
        temperature=np.full(n_frames, 348, np.float32),
        trajectory=np.sort(np.arange(n_frames) % n_trajectories).astype(np.int32),
    )


@pytest.fixture
def dataset(tmp_path):
    domains = {"a": make_frames(), "b": make_frames(n_trajectories=1, seed=1), "c": make_frames(seed=2)}
    return write_dataset(tmp_path / "dataset", domains, split=SplitConfig(held_out_domains=("c",)))


def test_a_written_dataset_reads_back_the_same_and_is_memory_mapped(dataset):
    frames = dataset.frames("a")
    assert isinstance(frames.positions, np.memmap)
    for name in ("positions", "forces", "species", "temperature", "trajectory"):
        np.testing.assert_array_equal(getattr(frames, name), getattr(make_frames(), name))
    assert dataset.domain("a").residue_names == RESIDUE_SPECIES[:6]
    assert verify(dataset.path) == []


def test_weights_and_errors_of_labels_are_stored_and_verified_where_there_are_any(tmp_path):
    weight, error = np.linspace(1, 2, 40).astype(np.float32), np.full((40, 6, 3), 0.5, np.float32)
    labelled = dataclasses.replace(make_frames(), weight=weight, force_error=error)
    dataset = write_dataset(tmp_path / "dataset", {"a": labelled, "b": make_frames(seed=1)})
    np.testing.assert_array_equal(dataset.frames("a").weight, weight)
    np.testing.assert_array_equal(dataset.frames("a").force_error, error)
    assert (dataset.frames("b").weight, dataset.frames("b").force_error) == (None, None)
    assert not (dataset.path / "domains" / "b" / "weight.npy").exists()
    assert verify(dataset.path) == []
    np.save(dataset.path / "domains" / "a" / "weight.npy", np.ones(40, np.float32))
    assert any("weight.npy: checksum differs" in problem for problem in verify(dataset.path))


def test_two_writes_of_the_same_data_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_dataset(tmp_path / name, {"b": make_frames(), "a": make_frames(seed=1)})
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file())
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_no_frame_is_in_two_splits_and_held_out_domains_are_whole(dataset):
    for domain in dataset.domains:
        counts = np.zeros(dataset.domain(domain).n_frames, int)
        for name in SPLITS:
            counts[dataset.split(name).get(domain, [])] += 1
        assert counts.max() <= 1
    assert {name: sorted(dataset.split(name)) for name in SPLITS} == {
        "train": ["a", "b"],
        "validation": ["a", "b"],
        "held_out_trajectories": ["a", "b"],
        "held_out_domains": ["c"],
    }
    np.testing.assert_array_equal(dataset.split("held_out_domains")["c"], np.arange(40))


def test_the_last_replica_is_held_out_where_there_are_several():
    segments = assign_segments([0, 1, 0], [320, 320, 348], [100, 100, 100], False, SplitConfig())
    assert segments[1] == {"held_out_trajectories": (0, 100)}
    assert "held_out_trajectories" not in segments[0]
    assert segments[2]["held_out_trajectories"] == (80, 100)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 50, 450, 1000])
def test_blocks_of_a_trajectory_are_apart_in_time(length):
    config = SplitConfig(gap_fraction=0.03)
    (segments,) = assign_segments([0], [348], [length], False, config)
    check_segments([segments], [length], "here")
    blocks = sorted(segments.values())
    for (_, end), (start, _) in itertools.pairwise(blocks):
        assert start - end >= max(1, round(0.03 * length))
    if length >= 50:
        assert set(segments) == {"train", "validation", "held_out_trajectories"}
        assert segments["held_out_trajectories"] == (length - round(0.2 * length), length)


def test_the_share_of_held_out_domains_is_drawn_by_superfamily_and_stays_when_domains_are_added():
    names = [f"{i:04d}A00" for i in range(2000)]
    superfamilies = {name: f"1.10.{i % 400}.10" for i, name in enumerate(names)}
    config = SplitConfig(held_out_domain_fraction=0.2)
    held_out = {name for name in names if is_held_out(name, config, superfamilies)}
    assert 0.13 < len(held_out) / len(names) < 0.27
    assert not {superfamilies[n] for n in held_out} & {superfamilies[n] for n in set(names) - held_out}
    assert is_held_out("relative", SplitConfig(held_out_domains=(names[0],)), {**superfamilies, "relative": "1.10.0.10"})


def test_superfamilies_are_read_from_a_table_or_from_caths_own_list(tmp_path):
    (tmp_path / "plain.csv").write_text("1abcA00,1.10.8.10\n2defA01,3.40.50.300\n")
    (tmp_path / "cath.txt").write_text("# CATH list\n1abcA00 1 10 8 10 1 1 1 1 1 59 1.0\n")
    assert read_superfamilies(str(tmp_path / "plain.csv"))["2defA01"] == "3.40.50.300"
    assert read_superfamilies(str(tmp_path / "cath.txt")) == {"1abcA00": "1.10.8.10"}
    with pytest.raises(UserError, match="cannot read the table"):
        read_superfamilies(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ({"train": (0, 6), "validation": (5, 10)}, "share frames"),
        ({"train": (0, 11)}, "of a trajectory of 10"),
        ({"train": (0, 5), "held_out_domains": (5, 10)}, "held-out domain has frames in train"),
        ({"test": (0, 5)}, "unknown split 'test'"),
    ],
)
def test_a_leak_between_splits_is_an_error(segments, message):
    with pytest.raises(UserError, match=message):
        check_segments([segments], [10], "here")


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_dataset_of_another_version_is_refused(dataset):
    edit_json(dataset.path / "dataset.json", lambda values: values.update(version=2))
    with pytest.raises(UserError, match=r"dataset version 2, this cg-data reads version 1"):
        open_dataset(dataset.path)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: (path / "dataset.json").unlink(), "expected a dataset folder"),
        (lambda path: (path / "dataset.json").write_text("{"), "not readable as JSON"),
        (lambda path: (path / "dataset.json").write_text("[]"), "not the index of a dataset"),
        (lambda path: edit_json(path / "dataset.json", lambda v: v.pop("species_names")), "species_names: Field required"),
    ],
)
def test_a_folder_without_a_sound_index_is_refused(dataset, break_it, message):
    break_it(dataset.path)
    with pytest.raises(UserError, match=message):
        open_dataset(dataset.path)


def test_a_dataset_with_a_nan_is_refused_naming_domain_and_frame(dataset):
    path = dataset.path / "domains" / "a" / "forces.npy"
    forces = np.load(path)
    forces[7, 2, 1] = np.nan
    np.save(path, forces)
    with pytest.raises(UserError, match=r"domains/a: forces must be finite; frame 7 is not"):
        open_dataset(dataset.path).frames("a")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def change_record(path, **changes):
    edit_json(path / "domains" / "a" / "domain.json", lambda values: values.update(changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: truncate(path / "domains" / "a" / "positions.npy"), r"a/positions.npy: checksum differs"),
        (lambda path: (path / "domains" / "b" / "species.npy").unlink(), r"b/species.npy: missing"),
        (lambda path: change_record(path, held_out=True), "held_out contradicts its splits"),
        (lambda path: change_record(path, n_frames=41), "expected 41 frames of 6 beads, received 40 of 6"),
        (lambda path: change_record(path, residue_names=1), "residue_names"),
        (lambda path: edit_json(path / "dataset.json", lambda v: v["domains"].pop("b")), "domains/b: not in the index"),
    ],
)
def test_verify_names_what_is_wrong(dataset, damage, message):
    damage(dataset.path)
    problems = verify(dataset.path)
    assert any(message in problem for problem in problems), problems


def test_unknown_domains_and_splits_are_named(dataset):
    with pytest.raises(UserError, match="no domain 'z'; it has a, b, c"):
        dataset.frames("z")
    with pytest.raises(UserError, match="split 'test': expected one of train, validation"):
        dataset.split("test")


def test_an_existing_dataset_is_not_overwritten_unless_asked(dataset):
    with pytest.raises(UserError, match="already exists"):
        write_dataset(dataset.path, {"a": make_frames()})
    assert write_dataset(dataset.path, {"z": make_frames()}, overwrite=True).domains == ("z",)


def test_variants_take_the_species_of_their_residue():
    variants = {"HSD": "HIS", "HSE": "HIS", "HSP": "HIS", "HID": "HIS", "HIP": "HIS", "MSE": "MET", "CYX": "CYS", "ASH": "ASP"}
    variants |= {"GLH": "GLU", "LYN": "LYS", " hie ": "HIS"}
    assert {name: residue_species(name) for name in variants} == variants
    with pytest.raises(UserError, match="residue 'LIG' is not an amino acid"):
        residue_species("LIG")


def test_there_are_twenty_species_in_alphabetical_order_with_masses():
    assert len(RESIDUE_SPECIES) == 20
    assert list(RESIDUE_SPECIES) == sorted(RESIDUE_SPECIES)
    # Insulin, 51 residues: 5807.6 amu with three disulfide bonds (six hydrogens fewer) and one water for each of two chains.
    one_letter = dict(zip("ARNDCQEGHILKMFPSTWYV", RESIDUE_SPECIES, strict=True))
    chains = "GIVEQCCTSICSLYQLENYCN" + "FVNQHLCGSHLVEALYLVCGERGFFYTPKT"
    mass = sum(RESIDUE_MASSES_AMU[one_letter[letter]] for letter in chains) + 2 * 18.0153 - 6 * 1.00794
    assert mass == pytest.approx(5807.6, abs=0.2)


def test_a_dataset_written_by_the_first_release_of_the_format_is_read(tmp_path):
    old = Path(__file__).parent / "data" / "dataset-v1"
    assert verify(old) == []
    dataset = open_dataset(old)
    assert dataset.domains == ("5awlA00",)
    assert dataset.frames("5awlA00").positions.shape == (24, 10, 3)
    assert dataset.domain("5awlA00").residue_names[:4] == ("TYR", "TYR", "ASP", "PRO")


MANY_FILES = """
import resource, sys
from pathlib import Path
from cg_data.errors import UserError
from cg_data.store import open_dataset
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))
dataset = open_dataset(sys.argv[1])
try:
    kept = [dataset.frames(domain) for domain in dataset.domains]
    print(len(kept), float(sum(frames.forces[0, 0, 0] for frames in kept)))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")
@pytest.mark.parametrize("hard_limit", [4096, 64])
def test_more_domains_than_files_may_be_open_are_read_or_the_limit_is_named(hard_limit, tmp_path):
    """Each mapped array keeps a file open: with all of them, 146 domains were the most under the usual limit of 1024."""
    path = write_dataset(tmp_path / "dataset", {f"d{i:03d}": make_frames(4) for i in range(100)}).path
    script = [sys.executable, "-c", MANY_FILES, str(path), str(hard_limit)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    if hard_limit == 4096:
        assert done.stdout.startswith("100 ")
    else:
        assert "too many open files: raise the limit (ulimit -n)" in done.stdout
        assert "remove the domain" not in done.stdout


def test_arrays_are_written_as_numpy_writes_them(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", {"a": make_frames(), "none": make_frames(0)})
    for domain in ("a", "none"):
        for file in (dataset.path / "domains" / domain).glob("*.npy"):
            np.save(tmp_path / "again.npy", np.load(file))
            assert file.read_bytes() == (tmp_path / "again.npy").read_bytes()


def test_an_empty_array_file_is_one_line_and_an_unreadable_one_is_not_called_damaged(dataset, monkeypatch):
    (dataset.path / "domains" / "a" / "forces.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"forces.npy: is truncated or not a NumPy array"):
        open_dataset(dataset.path).frames("a")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)(?!.*remove)"):
        open_dataset(dataset.path).frames("b")
