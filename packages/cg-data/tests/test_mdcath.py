import numpy as np
import pytest

from cg_data.config import PrepareConfig
from cg_data.errors import UserError
from cg_data.mdcath import open_mdcath
from cg_data.pipeline import prepare


def run(path, output, **options):
    return prepare(PrepareConfig.parse({"inputs": [str(path)], **options}, "test"), output)


def test_atoms_come_as_strings_and_the_caps_belong_to_the_outer_residues(chignolin_file):
    with open_mdcath(chignolin_file) as opened:
        atoms = opened.source("5awlA00").atoms
    assert atoms.n_atoms == 175
    assert atoms.residue_names.tolist() == ["TYR", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "TYR"]
    assert {"CAY", "CA"} <= set(atoms.names[atoms.residues == 0])
    assert (atoms.find("CA", 6) >= 0).sum() == 10


def test_a_calcium_ion_named_ca_is_no_residue(parts, write_mdcath, tmp_path):
    anchor = np.flatnonzero(np.array(atom_names(parts)) == "CA")[3]
    parts["atoms"]["z"][anchor] = 20
    with pytest.raises(UserError, match="numResidues says 10, but 9 residues have a CA atom"):
        run(write_mdcath(tmp_path / "calcium.h5", parts), tmp_path / "out")


def atom_names(parts):
    lines = parts["atoms"]["pdbProteinAtoms"].decode().splitlines()
    return [line[12:16].strip() for line in lines if line.startswith("ATOM")]


def test_lines_before_and_after_the_atoms_of_the_pdb_do_not_matter(parts, write_mdcath, tmp_path):
    atoms = b"\n".join(line for line in parts["atoms"]["pdbProteinAtoms"].splitlines() if line.startswith(b"ATOM"))
    header = b"REMARK CA CA CA\nCRYST1   90.000   90.000   90.000  90.00  90.00  90.00 P 1\nMODEL        1\n"
    for i, text in enumerate((atoms, header + atoms, atoms + b"\nTER\nENDMDL\nEND\n\n", header + atoms + b"\nCONECT    1    2\nEND")):
        parts["atoms"]["pdbProteinAtoms"] = text
        dataset = run(write_mdcath(tmp_path / "lines.h5", parts), tmp_path / str(i), force_map={"kind": "slice"})
        assert dataset.domain("5awlA00").residue_names[:4] == ("TYR", "TYR", "ASP", "PRO")


def test_older_group_names_and_empty_replicas_are_read(parts, write_mdcath, tmp_path):
    parts["runs"] = {"sims348K/0": parts["runs"]["348/0"], "sims348K/1": {}, "sims320K/2": parts["runs"]["348/1"]}
    with open_mdcath(write_mdcath(tmp_path / "old.h5", parts)) as opened:
        source = opened.source("5awlA00")
        assert [(t.temperature_kelvin, t.replica, t.n_frames) for t in source.trajectories] == [(320.0, 2, 30), (348.0, 0, 30)]


def test_units_are_taken_from_magnitudes_not_from_attributes(parts, write_mdcath, tmp_path):
    import h5py

    path = write_mdcath(tmp_path / "plain.h5", parts)
    with h5py.File(path, "a") as file:
        for name in ("coords", "forces"):
            del file["5awlA00/348/0"][name].attrs["unit"]
        file["5awlA00/348/1/coords"].attrs["unit"] = "kcal/mol/Angstrom"
    assert run(path, tmp_path / "out").domain("5awlA00").n_frames == 60


def test_residue_numbers_may_be_negative_and_a_gap_is_a_chain_break(parts, write_mdcath, tmp_path):
    parts["atoms"]["resid"] = parts["atoms"]["resid"] - 4
    parts["atoms"]["resid"][parts["atoms"]["resid"] > 1] += 5
    dataset = run(write_mdcath(tmp_path / "gap.h5", parts), tmp_path / "out")
    frames = dataset.frames("5awlA00")
    assert dataset.domain("5awlA00").residue_numbers == (-3, -2, -1, 0, 1, 7, 8, 9, 10, 11)
    assert frames.chain_index.tolist() == [0] * 5 + [1] * 5


def test_a_long_peptide_bond_is_a_chain_break_and_rejects_nothing(parts, write_mdcath, tmp_path):
    del parts["atoms"]["psf"]
    second_half = parts["atoms"]["resid"] > 5
    for arrays in parts["runs"].values():
        arrays["coords"][:, second_half] += 8.0
    dataset = run(write_mdcath(tmp_path / "loop.h5", parts), tmp_path / "out")
    assert dataset.frames("5awlA00").chain_index.tolist() == [0] * 5 + [1] * 5
    assert dataset.info.rejected == {}


def test_two_chains_are_two_segments(parts, write_mdcath, tmp_path):
    parts["atoms"]["chain"] = np.where(parts["atoms"]["resid"] > 5, b"1", b"0").astype(object)
    assert run(write_mdcath(tmp_path / "two.h5", parts), tmp_path / "out").frames("5awlA00").chain_index.tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("psf", [True, False])
def test_molecules_cut_by_the_box_are_made_whole(parts, write_mdcath, tmp_path, psf):
    if not psf:
        del parts["atoms"]["psf"]
    whole = run(write_mdcath(tmp_path / "whole.h5", parts), tmp_path / "a", force_map={"kind": "slice"})
    box = np.array([[3.2, 0, 0], [0.4, 3.1, 0], [0.3, 0.2, 3.3]], np.float32)
    for arrays in parts["runs"].values():
        fractional = arrays["coords"].astype(np.float64) @ np.linalg.inv(box * 10.0)
        arrays["coords"] = ((fractional % 1.0) @ (box * 10.0)).astype(np.float32)
        arrays["box"] = box
    wrapped = run(write_mdcath(tmp_path / "wrapped.h5", parts), tmp_path / "b", force_map={"kind": "slice"})
    assert wrapped.info.rejected == {}
    expected = whole.frames("5awlA00").positions
    positions = wrapped.frames("5awlA00").positions
    np.testing.assert_allclose(np.diff(positions, axis=1), np.diff(expected, axis=1), atol=2e-5)


def test_atoms_that_no_bond_holds_are_brought_to_their_residue(parts, write_mdcath, tmp_path):
    lines = parts["atoms"]["psf"].decode().splitlines()
    at, first = (next(i for i, line in enumerate(lines) if word in line) for word in ("!NATOM", "!NBOND"))
    names = [line.split()[4] for line in lines[at + 1 : at + 1 + len(parts["atoms"]["z"])]]
    numbers = [int(word) for line in lines[first + 1 : lines.index("", first)] for word in line.split()]
    pairs = [(i, j) for i, j in zip(numbers[::2], numbers[1::2], strict=True) if {names[i - 1], names[j - 1]} != {"CZ", "OH"}]
    bonds = [f"{i} {j}" for i, j in pairs]
    parts["atoms"]["psf"] = "\n".join([*lines[:first], f"{len(pairs)} !NBOND: bonds", *bonds, ""]).encode()
    (tmp_path / "map.yaml").write_text("beads: {OH: {atoms: {OH: 1}, residues: [TYR]}}")
    select = {"mapping": {"beads": str(tmp_path / "map.yaml")}, "force_map": {"kind": "slice"}}
    whole = run(write_mdcath(tmp_path / "whole.h5", parts), tmp_path / "a", **select)
    loose = np.isin(names, ["OH", "HH"])
    for arrays in parts["runs"].values():
        arrays["box"] = np.eye(3, dtype=np.float32) * 3
        arrays["coords"][7:12, loose] += np.float32([30, 0, -30])
    moved = run(write_mdcath(tmp_path / "moved.h5", parts), tmp_path / "b", **select)
    np.testing.assert_allclose(moved.frames("5awlA00").positions, whole.frames("5awlA00").positions, atol=1e-5)


def test_a_psf_of_the_solvated_system_gives_the_same_bonds_as_the_distances(chignolin_file):
    from cg_data.constraints import find_bonds

    with open_mdcath(chignolin_file) as opened:
        source = opened.source("5awlA00")
        positions, _ = source.read(source.trajectories[0], 0, 9)
    from_psf = find_bonds(source.atoms, positions)
    object.__setattr__(source.atoms, "bonds", None)
    np.testing.assert_array_equal(find_bonds(source.atoms, positions), from_psf)
    assert len(from_psf) == 180


def test_frames_are_read_in_kcal_and_angstrom_as_stored(chignolin_file, tmp_path):
    import h5py

    dataset = run(chignolin_file, tmp_path / "out", force_map={"kind": "slice"})
    with h5py.File(chignolin_file) as file:
        with open_mdcath(chignolin_file) as opened:
            anchors = opened.source("5awlA00").atoms.find("CA", 6)
        for replica, frames in (("0", slice(0, 160)), ("1", slice(160, 220))):
            group = file[f"5awlA00/348/{replica}"]
            np.testing.assert_array_equal(dataset.frames("5awlA00").positions[frames], group["coords"][:][:, anchors])
            np.testing.assert_array_equal(dataset.frames("5awlA00").forces[frames], group["forces"][:][:, anchors])


def test_frames_are_chosen_evenly_or_at_random_and_first_only_where_asked(chignolin_file, tmp_path):
    def chosen(**select):
        dataset = run(chignolin_file, tmp_path / str(len(list(tmp_path.iterdir()))), select={"replicas": [0], **select})
        return dataset.source_frame("5awlA00").tolist()

    assert chosen(stride=40) == [0, 40, 80, 120]
    assert chosen(max_frames=4) == [0, 53, 106, 159]
    assert chosen(max_frames=4, choose="first") == [0, 1, 2, 3]
    drawn = chosen(max_frames=20, choose="random")
    assert len(set(drawn)) == 20
    assert drawn == sorted(drawn)
    assert max(drawn) > 80
    assert drawn == chosen(max_frames=20, choose="random")
    assert drawn != chosen(max_frames=20, choose="random", seed=1)


def test_frames_are_filtered_by_radius_of_gyration_and_dssp(parts, write_mdcath, tmp_path):
    run_0 = parts["runs"]["348/0"]
    run_0["gyrationRadius"] = np.linspace(0.5, 0.8, 30)
    run_0["dssp"][:] = b" "
    run_0["dssp"][10:, :5] = b"E"
    run_0["dssp"][25:, 6:9] = b"H"
    path = write_mdcath(tmp_path / "filters.h5", parts)
    helical = run(path, tmp_path / "helical", select={"replicas": [0], "helix_fraction": [0.3, 1.0]})
    assert helical.source_frame("5awlA00").tolist() == list(range(25, 30))
    select = {"replicas": [0], "gyration_radius_angstrom": [0.0, 7.0], "strand_fraction": [0.4, 1.0]}
    kept = run(path, tmp_path / "out", select=select).source_frame("5awlA00")
    assert kept.tolist() == list(range(10, 20))


def test_temperatures_and_replicas_are_chosen_and_trajectories_may_differ_in_length(parts, write_mdcath, tmp_path):
    first, second = parts["runs"]["348/0"], parts["runs"]["348/1"]
    short = {name: values[:12] if len(values) == 30 else values for name, values in second.items()}
    parts["runs"] = {"320/0": first, "320/1": short, "413/0": short, "450/1": first}
    path = write_mdcath(tmp_path / "many.h5", parts)
    select = {"temperatures_kelvin": [320, 413], "replicas": [0]}
    trajectories = run(path, tmp_path / "out", select=select).domain("5awlA00").trajectories
    assert [(t.temperature_kelvin, t.replica, t.n_frames) for t in trajectories] == [(320.0, 0, 30), (413.0, 0, 12)]
    assert run(path, tmp_path / "all").domain("5awlA00").n_frames == 84


def test_temperatures_that_are_not_there_are_refused(chignolin_file, tmp_path):
    with pytest.raises(UserError, match="no trajectory at the temperatures"):
        run(chignolin_file, tmp_path / "out", select={"temperatures_kelvin": [320]})
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_hydrogens_is_refused_where_a_map_needs_them(parts, write_mdcath, tmp_path):
    heavy = parts["atoms"]["z"] != 1
    lines = parts["atoms"]["pdbProteinAtoms"].decode().splitlines()
    atom_lines = [line for line in lines if line.startswith("ATOM")]
    parts["atoms"]["pdbProteinAtoms"] = "\n".join(np.array(atom_lines)[heavy]).encode()
    del parts["atoms"]["psf"], parts["atoms"]["pdb"]
    for name in ("chain", "element", "resname", "resid", "z"):
        parts["atoms"][name] = parts["atoms"][name][heavy]
    for arrays in parts["runs"].values():
        arrays["coords"], arrays["forces"] = arrays["coords"][:, heavy], arrays["forces"][:, heavy]
    path = write_mdcath(tmp_path / "mdcath_noh_dataset_5awlA00.h5", parts)
    with pytest.raises(UserError, match=r"no hydrogen atoms; a force map needs all atoms"):
        run(path, tmp_path / "out")
    assert run(path, tmp_path / "out", force_map={"kind": "slice"}).domain("5awlA00").n_frames == 60


def test_coordinates_alone_are_accepted_only_where_asked_for(parts, write_mdcath, tmp_path):
    for arrays in parts["runs"].values():
        del arrays["forces"]
    path = write_mdcath(tmp_path / "coords.h5", parts)
    with pytest.raises(UserError, match=r"/348/0: no forces"):
        run(path, tmp_path / "out")
    dataset = run(path, tmp_path / "out", force_map={"kind": "none"})
    assert dataset.frames("5awlA00").forces is None
    assert not dataset.info.has_forces
