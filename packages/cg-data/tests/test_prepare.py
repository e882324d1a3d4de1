import copy
import logging
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from cg_data.config import PrepareConfig
from cg_data.errors import UserError
from cg_data.pipeline import merge, prepare
from cg_data.report import describe, measure, plot
from cg_data.verify import verify


def options(*inputs, **changes):
    return PrepareConfig.parse({"inputs": [str(path) for path in inputs], **changes}, "test")


def tree(folder):
    """Return every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def corpus(parts, write_mdcath, tmp_path):
    """Three good files of different domains."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i, domain in enumerate(("1aaaA00", "2bbbA00", "3cccA00")):
        changed = {**parts, "domain": domain, "runs": copy.deepcopy(parts["runs"])}
        for arrays in changed["runs"].values():
            arrays["forces"] = arrays["forces"] * np.float32(1 + 0.1 * i)
        write_mdcath(folder / f"mdcath_dataset_{domain}.h5", changed)
    return folder


def test_rejected_frames_are_counted_by_reason_and_named(parts, write_mdcath, tmp_path, caplog):
    first, second = parts["runs"]["348/0"], parts["runs"]["348/1"]
    first["coords"][3, 5, 1] = np.nan
    first["forces"][4, 5, 1] = np.inf
    first["coords"][5] = 0.0
    first["forces"][6] = 0.0
    first["coords"][28:] = 2.1e7
    second["coords"][0, 20:] += 30.0
    second["coords"][1, 26] += 4.0
    second["forces"][2, 0, 0] = 5e4
    dataset = prepare(options(write_mdcath(tmp_path / "bad.h5", parts)), tmp_path / "out")
    assert dataset.info.rejected == {
        "non_finite": 2,
        "all_zero": 2,
        "out_of_range": 2,
        "neighbour_distance": 1,
        "broken_bond": 1,
        "large_force": 1,
    }
    assert dataset.domain("5awlA00").n_frames == 60 - 9
    assert sorted(set(range(60)) - set(dataset.source_frame("5awlA00")[:24].tolist()))[:6] == [3, 4, 5, 6, 28, 29]
    assert np.isfinite(dataset.frames("5awlA00").forces).all()


def test_the_warning_names_file_temperature_replica_and_frame(parts, write_mdcath, tmp_path, capsys):
    parts["runs"]["348/1"]["coords"][7, 5, 1] = np.nan
    code = subprocess.run(
        [sys.executable, "-m", "cg_data.cli", "prepare", write_mdcath(tmp_path / "nan.h5", parts), "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert code.returncode == 0
    assert "nan.h5: /5awlA00/348/1: frame 7 rejected: non finite" in code.stderr


def test_a_share_of_bad_frames_above_the_limit_refuses_the_domain(parts, write_mdcath, tmp_path):
    parts["runs"]["348/0"]["coords"][0] = np.nan
    path = write_mdcath(tmp_path / "nan.h5", parts)
    with pytest.raises(UserError, match=r"1 of 60 frames are rejected \(1 non_finite\); accepted at most a share of 0"):
        prepare(options(path, quality={"max_rejected_fraction": 0}), tmp_path / "out")


def remove(*names):
    def change(parts):
        for name in names:
            for arrays in parts["runs"].values():
                arrays.pop(name, None)
            parts["atoms"].pop(name, None)

    return change


def scale(name, factor):
    def change(parts):
        for arrays in parts["runs"].values():
            arrays[name] = (arrays[name] * factor).astype(np.float32)

    return change


def fill(name, value):
    def change(parts):
        for arrays in parts["runs"].values():
            arrays[name][:] = value

    return change


def fewer_force_frames(parts):
    parts["runs"]["348/0"]["forces"] = parts["runs"]["348/0"]["forces"][:-1]


def fewer_atoms(parts):
    parts["atoms"]["z"] = parts["atoms"]["z"][:-1]


def flat_coordinates(parts):
    parts["runs"]["348/0"]["coords"] = parts["runs"]["348/0"]["coords"].reshape(30, -1)
    parts["runs"]["348/0"]["forces"] = parts["runs"]["348/0"]["forces"].reshape(30, -1)


def integer_coordinates(parts):
    parts["runs"]["348/0"]["coords"] = parts["runs"]["348/0"]["coords"].astype(np.int32)


def unknown_residue(parts):
    parts["atoms"]["resname"][parts["atoms"]["resid"] == 3] = b"XYZ"


def lost_anchor(parts):
    text = parts["atoms"]["pdbProteinAtoms"]
    parts["atoms"]["pdbProteinAtoms"] = text.replace(b"  CA  PRO", b"  CX  PRO")


def residue_number_text(parts):
    text = parts["atoms"]["pdbProteinAtoms"]
    parts["atoms"]["pdbProteinAtoms"] = text.replace(b"PRO 0   4 ", b"PRO 0   x ")


def no_temperatures(parts):
    parts["runs"] = {}


def only_empty_replicas(parts):
    parts["runs"] = {"348/0": {}, "348/1": {}}


def lone_hydrogen(parts):
    del parts["atoms"]["psf"]
    hydrogen = int(np.flatnonzero(parts["atoms"]["z"] == 1)[5])
    for arrays in parts["runs"].values():
        arrays["coords"][:, hydrogen] += 50.0


DAMAGE = {
    "forces missing": (remove("forces"), r"348/0: no forces; expected a data set 'forces'"),
    "coordinates missing": (remove("coords"), "no trajectory found"),
    "no temperature groups": (no_temperatures, "no trajectory found"),
    "only empty replicas": (only_empty_replicas, "no trajectory found"),
    "fewer force than coordinate frames": (fewer_force_frames, r"forces: expected the shape of coords \[30, 175, 3\], received \[29"),
    "fewer atoms in z": (fewer_atoms, "pdbProteinAtoms: 175 atoms, but z .or element. has 174"),
    "flattened coordinates": (flat_coordinates, r"coords: expected floats \[frames, 175, 3\], received float32 \[30, 525\]"),
    "integer coordinates": (integer_coordinates, r"coords: expected floats .* received int32"),
    "coordinates in nm": (scale("coords", 0.1), r"348/0/coords: median CA-CA distance of neighbours 0.38.; .* they look like nm"),
    "coordinates in bohr": (scale("coords", 1.89), "median CA-CA distance of neighbours 7.* convert them to angstrom"),
    "forces in kJ/mol/nm": (scale("forces", 41.84), r"348/0/forces: rms 8\d\d.*; expected 10-40 .* look like kJ/mol/nm"),
    "forces in kJ/mol/angstrom": (scale("forces", 4.184), r"forces: rms 8\d.*look like kJ/mol/angstrom"),
    "forces in eV/angstrom": (scale("forces", 1 / 23.06), r"forces: rms 0\.8.*look like eV/angstrom"),
    "all frames not a number": (fill("coords", np.nan), "no usable frame"),
    "all forces zero": (fill("forces", 0.0), "no usable frame"),
    "all frames at 2e7": (fill("coords", 2.1e7), "no usable frame"),
    "unknown residue": (unknown_residue, "residue XYZ 3: residue .XYZ. is not an amino acid"),
    "a residue without CA": (lost_anchor, "numResidues says 10, but 9 residues have a CA atom"),
    "no atom names": (remove("pdbProteinAtoms"), "no pdbProteinAtoms"),
    "no elements": (remove("z", "element"), "neither z nor element"),
    "a residue number that is none": (residue_number_text, "is not an integer"),
    "a hydrogen far from its atom": (lone_hydrogen, "is bonded to nothing|no usable frame|all 60 frames are rejected"),
}


def cut_short(path):
    path.write_bytes(path.read_bytes()[:40_000])


def overwrite_chunks(path):
    with h5py.File(path) as file:
        coords = file["5awlA00/348/0/coords"].id
        spans = [(coords.get_chunk_info(i).byte_offset, coords.get_chunk_info(i).size) for i in range(coords.get_num_chunks())]
    data = bytearray(path.read_bytes())
    for start, size in spans[1:]:
        data[start : start + size] = b"\xff" * size
    path.write_bytes(data)


def empty_hdf5(path):
    with h5py.File(path, "w"):
        pass


FILE_DAMAGE = {
    "truncated": (cut_short, "the HDF5 file is truncated: download it again"),
    "text": (lambda path: path.write_text("<html>404</html>"), "not an HDF5 file"),
    "empty file": (lambda path: path.write_bytes(b""), "not an HDF5 file|cannot be opened"),
    "empty HDF5": (empty_hdf5, "no domain found"),
    "overwritten chunks": (overwrite_chunks, r"coords: frames \d+-\d+ cannot be read; the file is damaged"),
    "missing": (lambda path: path.unlink(), "no such file"),
}


@pytest.mark.parametrize("name", [*DAMAGE, *FILE_DAMAGE])
def test_input_that_cannot_be_used_is_one_clear_line_naming_the_file(name, parts, write_mdcath, tmp_path):
    change, message = {**DAMAGE, **FILE_DAMAGE}[name]
    path = tmp_path / "mdcath_dataset_5awlA00.h5"
    if name in DAMAGE:
        change(parts)
    write_mdcath(path, parts)
    if name in FILE_DAMAGE:
        change(path)
    with pytest.raises(UserError, match=message) as caught:
        prepare(options(path), tmp_path / "out")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_every_damaged_file_is_reported_and_none_stops_the_good_ones(parts, write_mdcath, corpus, tmp_path):
    expected = {}
    for i, (change, message) in enumerate([*DAMAGE.values(), *FILE_DAMAGE.values()]):
        path = corpus / f"mdcath_dataset_{i:04d}X00.h5"
        broken = copy.deepcopy(parts)
        if i < len(DAMAGE):
            change(broken)
        write_mdcath(path, broken)
        if i >= len(DAMAGE):
            change(path)
        if path.exists():
            expected[path.name] = message
    assert len(expected) >= 25
    dataset = prepare(options(corpus), tmp_path / "out")
    assert dataset.domains == ("1aaaA00", "2bbbA00", "3cccA00")
    assert set(dataset.info.refused) == set(expected)
    assert verify(dataset.path) == []


def test_the_command_line_says_one_line_and_exits_with_code_2(tmp_path):
    (tmp_path / "no.h5").write_text("text")
    done = subprocess.run(
        [sys.executable, "-m", "cg_data.cli", "prepare", tmp_path / "no.h5", "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_an_unknown_option_is_refused_with_the_nearest_known_one():
    with pytest.raises(UserError, match=r"unknown key 'force_map.knd'; did you mean 'kind'"):
        PrepareConfig.load(None, ["force_map.knd=slice"])


def test_preparing_again_changes_nothing_and_new_files_are_added(corpus, tmp_path):
    files = sorted(corpus.iterdir())
    out = tmp_path / "out"
    prepare(options(*files[:2]), out)
    before = tree(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    prepare(options(*files[:2]), out)
    assert tree(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")} == stamps
    assert prepare(options(*files), out).domains == ("1aaaA00", "2bbbA00", "3cccA00")
    assert verify(out) == []


def test_a_folder_prepared_with_other_options_is_not_mixed(corpus, tmp_path):
    prepare(options(corpus), tmp_path / "out")
    with pytest.raises(UserError, match=r"prepared with other options \(force_map.kind: 'optimal' then, 'slice' now\)"):
        prepare(options(corpus, force_map={"kind": "slice"}), tmp_path / "out")


def test_a_changed_file_is_prepared_again_and_a_repaired_one_is_no_longer_refused(corpus, parts, write_mdcath, tmp_path):
    out = tmp_path / "out"
    bad = corpus / "mdcath_dataset_1aaaA00.h5"
    good = bad.read_bytes()
    bad.write_bytes(good[:1000])
    assert prepare(options(corpus), out).info.refused.keys() == {"mdcath_dataset_1aaaA00.h5"}
    bad.write_bytes(good)
    dataset = prepare(options(corpus), out)
    assert (dataset.info.refused, len(dataset.domains)) == ({}, 3)


def test_shares_merged_equal_one_run_and_so_do_workers(corpus, tmp_path):
    whole = tmp_path / "whole"
    prepare(options(corpus), whole)
    shared = tmp_path / "shared"
    for index in (1, 0):
        prepare(options(corpus, share=[index, 2]), shared)
    merge(shared)
    assert tree(shared) == tree(whole)
    parallel = tmp_path / "parallel"
    prepare(options(corpus, workers=2), parallel)
    assert {name: data for name, data in tree(parallel).items() if name != "config.yaml"} == {
        name: data for name, data in tree(whole).items() if name != "config.yaml"
    }


def test_a_run_killed_at_any_moment_continues_to_the_same_bytes(corpus, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    prepare(options(corpus), whole)
    command = [sys.executable, "-m", "cg_data.cli", "prepare", str(corpus), "-o", killed]
    n_kills = 0
    for n_domains in (0, 1):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The first kill comes while the first domain is being written, the other right after one has appeared.
        while process.poll() is None and len(list(killed.glob("domains/[!.]*" if n_domains else "domains/.*"))) < max(n_domains, 1):
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            n_kills += 1
        process.wait()
    prepare(options(corpus), killed)
    assert n_kills >= 1
    assert tree(killed) == tree(whole)


def test_writers_of_the_same_data_set_at_the_same_time_leave_what_one_would(corpus, tmp_path):
    prepare(options(corpus), tmp_path / "alone")
    out, start = tmp_path / "together", threading.Barrier(4)

    def write(share):
        start.wait()
        return prepare(options(corpus, share=[share, 2] if share < 2 else [0, 1]), out).domains

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(write, (0, 1, 2, 3)))
    assert results[2:] == [("1aaaA00", "2bbbA00", "3cccA00")] * 2
    assert verify(out) == []
    assert tree(out) == tree(tmp_path / "alone")


def test_a_changed_table_of_superfamilies_moves_its_domains_and_a_leak_is_an_error(corpus, tmp_path):
    table, out = tmp_path / "cath.csv", tmp_path / "out"
    changed = options(corpus, split={"superfamilies": str(table), "held_out_domains": ["1aaaA00"]})
    table.write_text("1aaaA00,1.10.8.10\n2bbbA00,1.10.8.10\n3cccA00,3.40.50.300\n")
    assert sorted(prepare(changed, out).split("held_out_domains")) == ["1aaaA00", "2bbbA00"]
    table.write_text("1aaaA00,1.10.8.10\n2bbbA00,2.60.40.10\n3cccA00,1.10.8.10\n")
    dataset = prepare(changed, out)
    assert sorted(dataset.split("held_out_domains")) == ["1aaaA00", "3cccA00"]
    assert verify(out) == []
    record = out / "domains" / "2bbbA00" / "domain.json"
    record.write_text(record.read_text().replace("2.60.40.10", "1.10.8.10"))
    with pytest.raises(UserError, match=r"domain 2bbbA00: in training, but its superfamily 1.10.8.10 is held out: prepare again"):
        merge(out)


def test_a_half_written_domain_is_removed_and_written_again(corpus, tmp_path):
    out = tmp_path / "out"
    prepare(options(corpus), out)
    before = tree(out)
    shutil.rmtree(out / "domains" / "2bbbA00")
    left = out / "domains" / ".2bbbA00.0123abcd.tmp"
    left.mkdir()
    (left / "positions.npy").write_bytes(b"half")
    prepare(options(corpus), out)
    assert tree(out) == before


def test_forces_read_twice_equal_forces_kept_in_memory(chignolin_file, tmp_path, monkeypatch):
    import cg_data.mdcath

    monkeypatch.setattr(cg_data.mdcath, "BLOCK_ATOMS", 175 * 20)
    kept = prepare(options(chignolin_file), tmp_path / "kept")
    twice = prepare(options(chignolin_file, memory_megabytes=0), tmp_path / "twice")
    np.testing.assert_array_equal(kept.frames("5awlA00").forces, twice.frames("5awlA00").forces)


def test_one_map_per_temperature_is_fitted_on_that_temperature_alone(parts, write_mdcath, tmp_path):
    both = copy.deepcopy(parts)
    both["runs"] = {"320/0": parts["runs"]["348/1"], "348/0": parts["runs"]["348/0"]}
    path = write_mdcath(tmp_path / "both.h5", both)
    each = prepare(options(path, force_map={"per": "temperature"}), tmp_path / "each")
    alone = prepare(options(path, select={"temperatures_kelvin": [348]}), tmp_path / "alone")
    hot = each.frames("5awlA00").temperature == 348
    np.testing.assert_array_equal(each.frames("5awlA00").forces[hot], alone.frames("5awlA00").forces)
    pooled = prepare(options(path), tmp_path / "pooled")
    assert not np.array_equal(pooled.frames("5awlA00").forces, each.frames("5awlA00").forces)


def test_the_report_counts_frames_and_measures_geometry(chignolin_file, tmp_path):
    dataset = prepare(options(chignolin_file), tmp_path / "out")
    measured = measure(dataset)
    assert measured.bonds.mean() == pytest.approx(3.85, abs=0.05)
    assert measured.neighbours[8.0].mean() < measured.neighbours[12.0].mean() <= 9
    text = describe(dataset, measured)
    assert "1 domain, 220 frames, beads 'ca', 20 species, with forces" in text
    assert "rejected frames: none" in text
    plot(dataset, measured, tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"ending in \.png"):
        plot(dataset, measured, tmp_path / "page.txt")


def test_constraints_assumed_are_checked_against_the_frames(parts, write_mdcath, chignolin_file, tmp_path):
    assert prepare(options(chignolin_file), tmp_path / "a").domain("5awlA00").notes == ()
    notes = prepare(options(chignolin_file, force_map={"constraints": "none"}), tmp_path / "c").domain("5awlA00").notes
    assert notes == ("constraints: 0 of 0 bonds assumed rigid fluctuate; 78 bonds assumed flexible are constant",)


def test_the_detector_works_on_coordinates_rounded_as_in_xtc(parts, write_mdcath, chignolin_file, tmp_path):
    with h5py.File(chignolin_file) as file:
        for name in ("coords", "forces"):
            parts["runs"]["348/0"][name] = file[f"5awlA00/348/0/{name}"][()]
    parts["runs"]["348/0"]["coords"] = parts["runs"]["348/0"]["coords"].round(2)
    del parts["runs"]["348/1"], parts["runs"]["348/0"]["dssp"]
    dataset = prepare(options(write_mdcath(tmp_path / "xtc.h5", parts)), tmp_path / "out")
    assert dataset.domain("5awlA00").notes == ()


def test_one_process_at_a_time_holds_a_lock_although_its_file_is_removed(tmp_path):
    held, counted = tmp_path / "held", tmp_path / "counted"
    code = (
        "import sys, time; from pathlib import Path; from cg_data.atomic import hold\n"
        "held, counted = Path(sys.argv[2]), Path(sys.argv[3])\n"
        "for _ in range(40):\n"
        "    with hold(Path(sys.argv[1]), 'name'):\n"
        "        held.mkdir(); time.sleep(0.001); held.rmdir()\n"
        "counted.with_suffix(f'.{sys.argv[4]}').touch()\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "locks", held, counted, str(n)]) for n in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0, 0]
    assert len(list(tmp_path.glob("counted.*"))) == 4


def test_a_file_with_other_numbers_and_the_same_length_is_prepared_again(parts, write_mdcath, tmp_path):
    path, slices = write_mdcath(tmp_path / "mdcath_dataset_5awlA00.h5", parts), {"kind": "slice"}
    with h5py.File(path, "r+") as file:
        for run in parts["runs"]:
            # As mdCATH's own files: not compressed, so that their length does not depend on the numbers.
            del file[f"5awlA00/{run}/forces"]
            file[f"5awlA00/{run}/forces"] = parts["runs"][run]["forces"]
    length = path.stat().st_size
    before = np.array(prepare(options(path, force_map=slices), tmp_path / "out").frames("5awlA00").forces)
    with h5py.File(path, "r+") as file:
        for run in parts["runs"]:
            file[f"5awlA00/{run}/forces"][:] *= np.float32(1.25)
    assert path.stat().st_size == length
    after = prepare(options(path, force_map=slices), tmp_path / "out").frames("5awlA00").forces
    np.testing.assert_allclose(after, 1.25 * before, rtol=1e-5)


def test_the_same_file_elsewhere_or_touched_is_not_prepared_again(corpus, tmp_path):
    prepare(options(corpus), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}
    shutil.copytree(corpus, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    prepare(options(tmp_path / "elsewhere"), tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")} == before


@pytest.mark.parametrize("key", ["beads", "species"])
def test_a_map_whose_file_has_changed_is_not_mixed_with_what_it_made_before(key, corpus, tmp_path):
    """Under a changed table, indices of species written before would have been read as other species."""
    texts = {
        "beads": ("beads:\n  CA: {atoms: {CA: 1}}\n", "beads:\n  CA: {atoms: {C: 1}}\n"),
        "species": ("GLY: a\n'*': b\n", "TYR: a\nPRO: c\n'*': b\n"),
    }
    table, out = tmp_path / "table.yaml", tmp_path / "out"
    table.write_text(texts[key][0])
    changed = {"mapping": {key: str(table)}, "force_map": {"kind": "slice"}}
    first, *rest = sorted(corpus.iterdir())
    names = prepare(options(first, **changed), out).species_names
    table.write_text(texts[key][1])
    with pytest.raises(UserError, match=rf"out: was prepared with another table.yaml \(mapping.{key}\)"):
        prepare(options(*rest, **changed), out)
    assert merge(out).species_names == names
    table.unlink()
    assert merge(out).species_names == names


def test_one_domain_from_two_inputs_is_refused_before_either_is_read(parts, write_mdcath, tmp_path):
    """The later one used to replace the earlier one without a word, and with workers whichever came last."""
    paths = [tmp_path / name / "mdcath_dataset_5awlA00.h5" for name in ("old", "new")]
    for path in paths:
        path.parent.mkdir()
        write_mdcath(path, parts)
    with pytest.raises(UserError, match=r"domain 5awlA00 is in two inputs, .*new/mdcath.* and .*old/mdcath.*: give one of them"):
        prepare(options(*paths), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    paths[0].rename(paths[0].with_name("renamed.h5"))
    with pytest.raises(UserError, match="domain 5awlA00 is in two inputs"):
        prepare(options(paths[0].with_name("renamed.h5"), paths[1]), tmp_path / "out")


def test_names_of_domains_that_are_not_there_are_warned_of(corpus, tmp_path, caplog, monkeypatch):
    """A misspelt name would hold out nothing, and the domain would be trained on."""
    monkeypatch.setattr(logging.getLogger("cg_data"), "propagate", True)
    chosen = {"select": {"domains": ["1aaaA00", "2bbbA0"]}, "split": {"held_out_domains": ["1aaaA0"]}}
    prepare(options(corpus, **chosen), tmp_path / "out")
    assert "select.domains: 2bbbA0 is in none of the inputs" in caplog.text
    told = "split.held_out_domains: 1aaaA0 is in none of the inputs: nothing is held out by that name"
    assert told in caplog.text

    caplog.clear()
    table = tmp_path / "cath.csv"
    table.write_text("1aaaA00,1.10.8.10\n9zzzA00,1.10.8.10\n")
    split = {"held_out_domains": ["1aaaA0", "9zzzA00"], "superfamilies": str(table)}
    prepare(options(corpus, split=split, share=(0, 2)), tmp_path / "share")
    assert [record.getMessage() for record in caplog.records if "held_out" in record.getMessage()] == [told]


def test_a_temperature_without_a_good_frame_leaves_the_others_their_maps(parts, write_mdcath, tmp_path):
    parts["runs"]["320/0"] = copy.deepcopy(parts["runs"]["348/1"])
    parts["runs"]["320/0"]["coords"][:] = np.nan
    path = write_mdcath(tmp_path / "half.h5", parts)
    for kind in ("optimal", "uniform", "slice"):
        dataset = prepare(options(path, force_map={"per": "temperature", "kind": kind}), tmp_path / kind)
        assert dataset.domain("5awlA00").n_frames == 60
        assert all(score > 0 for score in dataset.domain("5awlA00").force_map.scores.values())


def test_forces_that_are_not_asked_for_are_not_looked_at(parts, write_mdcath, tmp_path):
    for arrays in parts["runs"].values():
        arrays["forces"][:] = 0.0
    dataset = prepare(options(write_mdcath(tmp_path / "zero.h5", parts), force_map={"kind": "none"}), tmp_path / "out")
    assert (dataset.domain("5awlA00").n_frames, dataset.info.has_forces) == (60, False)


LIMITED = """
import resource, signal, sys
from cg_data.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
main()
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_is_one_line_and_the_same_command_continues(workers, corpus, tmp_path):
    """The limit of a file's size fails like a full disk, without one."""
    arguments = ["prepare", str(corpus), "-o", str(tmp_path / "out"), "--workers", workers]
    done = subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'out'}: cannot be written (")
    assert "make room; the same command continues" in done.stderr
    assert prepare(options(corpus, workers=int(workers)), tmp_path / "out").info.refused == {}


def replaced(name, value):
    def change(group):
        del group[name]
        if value is None:
            group.create_group(name)
        else:
            group[name] = value

    return change


MALFORMED = {
    "coords are a group": (replaced("348/0/coords", None), "348/0/coords: expected an array, found a group"),
    "forces are a group": (replaced("348/0/forces", None), "348/0/forces: expected an array, found a group"),
    "the PDB is a group": (replaced("pdbProteinAtoms", None), "pdbProteinAtoms: expected an array, found a group"),
    "elements are text": (replaced("z", np.full(175, b"C")), "z: expected a list of integers"),
    "one element": (replaced("z", 6), "z: expected a list of integers"),
    "residue names are numbers": (replaced("resname", np.zeros(175, int)), "resname: expected texts, received int64"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_an_array_of_another_kind_is_one_line_and_does_not_stop_the_others(name, parts, write_mdcath, corpus, tmp_path):
    change, message = MALFORMED[name]
    path = write_mdcath(corpus / "mdcath_dataset_0bad.h5", parts)
    with h5py.File(path, "r+") as file:
        change(file["5awlA00"])
    dataset = prepare(options(corpus, force_map={"kind": "slice"}), tmp_path / "out")
    assert len(dataset.domains) == 3
    (reason,) = dataset.info.refused.values()
    assert re.search(message, reason), reason


def test_damaged_metadata_of_a_file_is_one_line(parts, write_mdcath, tmp_path):
    whole = write_mdcath(tmp_path / "mdcath_dataset_5awlA00.h5", parts).read_bytes()
    random, damaged = np.random.default_rng(0), tmp_path / "damaged.h5"
    refused = []
    for attempt, at in enumerate(random.integers(0, 12_000, 60)):
        damaged.write_bytes(whole[:at] + random.bytes(64) + whole[at + 64 :])
        try:
            prepare(options(damaged, force_map={"kind": "slice"}), tmp_path / f"out{attempt}")
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert not any("\n" in line for line in refused), refused


def test_texts_where_numbers_are_only_looked_at_do_not_matter(parts, write_mdcath, tmp_path):
    path = write_mdcath(tmp_path / "texts.h5", parts)
    with h5py.File(path, "r+") as file:
        group = file["5awlA00"]
        group.attrs["numResidues"] = "ten"
        group["348/0"].attrs["numFrames"] = "thirty"
        psf = bytes(group["psf"][()]).replace(b"!NBOND", b"x !NBOND")
        replaced("psf", psf.replace(b"x !NBOND", b"!NBOND").replace(b"!NBOND: bonds", b"!NBOND: bonds\n one two"))(group)
    assert prepare(options(path), tmp_path / "out").domain("5awlA00").n_frames == 60


def test_the_report_counts_residues_of_chains_and_insertion_codes_that_share_a_number(parts, write_mdcath, tmp_path):
    for name in ("resid",):
        parts["atoms"][name] = (parts["atoms"][name] - 1) % 5 + 1
    dataset = prepare(options(write_mdcath(tmp_path / "chains.h5", parts), mapping={"beads": "backbone"}), tmp_path / "out")
    assert "residues per domain: 10 to 10" in describe(dataset, measure(dataset))


def test_paths_with_any_character_are_inputs(corpus, tmp_path):
    """A path that Python writes with a backslash was read as another one."""
    odd = tmp_path / 'no\u00a0break \\ "é" it\'s'
    corpus.rename(odd)
    done = subprocess.run(
        [sys.executable, "-m", "cg_data.cli", "prepare", odd, "-o", tmp_path / "out", "force_map.kind=slice"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "3 domains" in done.stdout) == (0, True), done.stderr
