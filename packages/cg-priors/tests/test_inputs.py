"""Coordinates in: what the files say of residues and chains is kept, what cannot be used is named in one line."""

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_data.mapping import RESIDUE_SPECIES as SPECIES
from cg_data.topology import bonded_tuples
from cg_priors.config import PriorConfig
from cg_priors.fit import fit
from cg_priors.inputs import frames_from_arrays, read_frames

STEP_ANGSTROM = 3.8
mdanalysis_warns = pytest.mark.filterwarnings("ignore")


def line(n_beads, n_frames=3):
    """Return a straight chain, [n_frames, n_beads, 3] angstrom."""
    positions = np.zeros((n_frames, n_beads, 3), np.float32)
    positions[..., 0] = STEP_ANGSTROM * np.arange(n_beads) + 0.01 * np.arange(n_frames)[:, None]
    return positions


def write_pdb(path, positions, residues, chains, codes=None, names=None):
    """Write CA atoms, of alanine by default, one model a frame."""
    codes = codes or " " * len(residues)
    names = names or ["ALA"] * len(residues)
    lines = []
    for frame, xyz in enumerate(positions):
        lines.append(f"MODEL     {frame + 1:4d}")
        for bead, (x, y, z) in enumerate(xyz):
            residue = f"{names[bead]} {chains[bead]}{residues[bead]:4d}{codes[bead]}"
            lines.append(f"ATOM  {bead + 1:5d}  CA  {residue}   {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C")
        lines.append("ENDMDL")
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def write_trajectory(path, positions):
    analysis = pytest.importorskip("MDAnalysis")
    universe = analysis.Universe.empty(positions.shape[1], trajectory=True)
    with analysis.Writer(str(path), positions.shape[1]) as writer:
        for frame in positions:
            universe.atoms.positions = frame
            writer.write(universe.atoms)
    return path


def bonds(frames):
    return bonded_tuples(frames.residue_index, frames.chain_index, 2).tolist()


@mdanalysis_warns
def test_chains_of_a_topology_stay_apart_where_their_ends_touch(tmp_path):
    positions = line(8)
    topology = write_pdb(tmp_path / "two.pdb", positions[:1], [1, 2, 3, 4] * 2, "AAAABBBB")
    (frames,), _ = read_frames(write_trajectory(tmp_path / "two.dcd", positions), topology=topology, temperature_kelvin=300.0)
    assert frames.chain_index.tolist() == [0] * 4 + [1] * 4
    assert frames.residue_index.tolist() == [1, 2, 3, 4] * 2
    assert [3, 4] not in bonds(frames)
    assert len(bonds(frames)) == 6


@mdanalysis_warns
def test_missing_residues_of_a_topology_are_not_bridged(tmp_path):
    positions = line(6)
    topology = write_pdb(tmp_path / "gap.pdb", positions[:1], [1, 2, 3, 6, 7, 8], "A" * 6)
    (frames,), _ = read_frames(write_trajectory(tmp_path / "gap.dcd", positions), topology=topology, temperature_kelvin=300.0)
    assert frames.residue_index.tolist() == [1, 2, 3, 6, 7, 8]
    assert frames.chain_index.tolist() == [0] * 6
    assert bonds(frames) == [[0, 1], [1, 2], [3, 4], [4, 5]]


@mdanalysis_warns
def test_a_pdb_alone_gives_its_own_models(tmp_path):
    pytest.importorskip("MDAnalysis")
    positions = line(5)
    (frames,), names = read_frames(write_pdb(tmp_path / "alone.pdb", positions, [1, 2, 3, 1, 2], "AAABB"), temperature_kelvin=300.0)
    np.testing.assert_allclose(frames.positions, positions, atol=1e-3)
    assert [names[s] for s in frames.species] == ["ALA"] * 5
    assert frames.chain_index.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(UserError, match="do not state their temperature"):
        read_frames(tmp_path / "alone.pdb")


@mdanalysis_warns
def test_a_gro_alone_starts_a_segment_where_residues_are_numbered_anew(tmp_path):
    pytest.importorskip("MDAnalysis")
    rows = [f"{residue:5d}ALA     CA{i + 1:5d}{0.38 * i:8.3f}{0:8.3f}{0:8.3f}" for i, residue in enumerate([1, 2, 3, 1, 2])]
    (tmp_path / "alone.gro").write_text("\n".join(["title", "    5", *rows, "   5.0   5.0   5.0", ""]))
    (frames,), _ = read_frames(tmp_path / "alone.gro", temperature_kelvin=300.0)
    np.testing.assert_allclose(frames.positions, line(5, 1), atol=1e-3)
    assert frames.chain_index.tolist() == [0, 0, 0, 1, 1]


@mdanalysis_warns
def test_inserted_residues_are_counted_on(tmp_path):
    pytest.importorskip("MDAnalysis")
    path = write_pdb(tmp_path / "codes.pdb", line(5), [51, 52, 52, 53, 54], "A" * 5, codes="  A  ")
    (frames,), _ = read_frames(path, temperature_kelvin=300.0)
    assert frames.residue_index.tolist() == [51, 52, 53, 54, 55]
    assert len(bonds(frames)) == 4


@mdanalysis_warns
def test_alternative_locations_give_one_bead(tmp_path):
    pytest.importorskip("MDAnalysis")
    positions = line(5, 1)
    positions[0, 2:, 0] -= STEP_ANGSTROM - 0.5
    path = write_pdb(tmp_path / "twice.pdb", positions, [1, 2, 2, 3, 4], "A" * 5)
    (frames,), _ = read_frames(path, temperature_kelvin=300.0)
    assert frames.residue_index.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(frames.positions[0], positions[0, [0, 1, 3, 4]], atol=1e-3)


@mdanalysis_warns
def test_modified_residues_are_beads_as_they_are_in_a_data_set(tmp_path):
    """MDAnalysis does not count phosphoserine as protein; calcium has atoms of the same name."""
    pytest.importorskip("MDAnalysis")
    names = ["ALA", "SEP", "MSE", "HSD", "GLY", " CA"]
    (frames,), species = read_frames(write_pdb(tmp_path / "sep.pdb", line(6), range(1, 7), "A" * 6, names=names), temperature_kelvin=300.0)
    assert [species[s] for s in frames.species] == ["ALA", "SER", "MET", "HIS", "GLY"]
    assert len(bonds(frames)) == 4


def test_a_data_file_of_charmm_is_read_without_warnings_of_mdanalysis_to_its_own_users(tmp_path, recwarn):
    topology = write_pdb(tmp_path / "top.pdb", line(4, 1), range(1, 5), "A" * 4)
    trajectory = write_trajectory(tmp_path / "run.dcd", line(4))
    recwarn.clear()
    read_frames(trajectory, topology=topology, temperature_kelvin=300.0)
    assert not [one for one in recwarn if issubclass(one.category, DeprecationWarning)]


@mdanalysis_warns
def test_files_mdanalysis_cannot_use_give_one_line(tmp_path):
    trajectory = write_trajectory(tmp_path / "run.dcd", line(4))
    topology = write_pdb(tmp_path / "top.pdb", line(5, 1), range(1, 6), "A" * 5)
    unknown = tmp_path / "top.foo"
    unknown.write_text("text\n")
    for files in ((trajectory, topology), (trajectory, unknown), (unknown, topology)):
        with pytest.raises(UserError, match=r"MDAnalysis cannot read it with the topology .*: give files of one system") as error:
            read_frames(files[0], topology=files[1], temperature_kelvin=300.0)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600


def test_a_gap_in_residue_index_starts_no_chain_and_restarted_numbers_do():
    positions = line(6)
    positions[:, 3:] += 20.0
    arrays = {"positions": positions, "residue_names": ["ALA"] * 6, "temperature_kelvin": 300}
    gap = frames_from_arrays(**arrays, residue_index=[0, 1, 2, 5, 6, 7])
    stated = frames_from_arrays(**arrays, residue_index=[0, 1, 2, 5, 6, 7], chain_index=[0] * 6)
    assert gap.chain_index.tolist() == stated.chain_index.tolist()
    assert frames_from_arrays(**arrays, residue_index=np.arange(6)).chain_index.tolist() == [0, 0, 0, 1, 1, 1]
    anew = frames_from_arrays(line(6), ["ALA"] * 6, 300, residue_index=[0, 1, 2, 0, 1, 2])
    assert anew.chain_index.tolist() == [0, 0, 0, 1, 1, 1]
    backwards = frames_from_arrays(line(6), ["ALA"] * 6, 300, residue_index=np.arange(6)[::-1])
    assert backwards.chain_index.tolist() == [0] * 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"temperature_kelvin": np.full(7, 300.0)},
            r"temperature_kelvin: expected one number or one for each of 3 frames, received shape \[7\]",
        ),
        ({"temperature_kelvin": np.array("hot")}, "temperature_kelvin: expected an array of numbers, received dtype <U3"),
        ({"positions": np.array("x")}, "positions: expected an array of numbers, received dtype <U1"),
        ({"positions": np.full((3, 4, 3), None)}, "'positions': expected numbers or text"),
        ({"residue_names": np.array("ALA")}, "residue_names: expected a list of three-letter names, one a bead, received a single value"),
        ({"residue_names": np.array(["ALA"] * 4, object)}, "'residue_names': expected numbers or text.*: write it with numpy.savez"),
        ({"residue_names": np.array(["ALA", "FOO"] * 2)}, r"a\.npz: residue_names: residue 'FOO' .* such as HSD, CYX, MSE: rename it"),
        ({"residue_index": np.arange(3)}, r"residue_index: expected shape \[4\], received \[3\]"),
        ({"chain_index": np.array(list("AABB"))}, "chain_index: expected an array of numbers, received dtype <U1"),
        ({"trajectory": np.array([0, 0.5, 1])}, "trajectory: expected integers"),
    ],
)
def test_arrays_of_a_wrong_kind_are_named(tmp_path, changed, message):
    np.savez(tmp_path / "a.npz", **{"positions": line(4), "residue_names": np.array(["ALA"] * 4), "temperature_kelvin": 300.0, **changed})
    with pytest.raises(UserError, match=message) as error:
        read_frames(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_weights_of_an_npz_file_count_and_arrays_that_are_not_read_are_told(tmp_path, trp_cage_file, caplog):
    arrays = dict(np.load(trp_cage_file))
    half = np.arange(len(arrays["positions"])) % 2 == 0
    np.savez(tmp_path / "half.npz", **{key: value[half] if np.shape(value)[:1] == half.shape else value for key, value in arrays.items()})
    np.savez(tmp_path / "weighted.npz", **arrays, weight=np.where(half, 1.0, 1e-6))
    config = PriorConfig.parse({"bootstrap_samples": 0, "angle": None, "dihedral": None}, "test")
    half, weighted = (fit(*read_frames(tmp_path / f"{name}.npz")[:1], config, SPECIES) for name in ("half", "weighted"))
    for key, value in half.arrays["bond"].items():
        np.testing.assert_allclose(weighted.arrays["bond"][key], value, rtol=1e-4)
    assert not caplog.records
    np.savez(tmp_path / "other.npz", **arrays, weights=np.ones(3), force=np.ones(3))
    read_frames(tmp_path / "other.npz")
    assert "other.npz: not read: force, weights; arrays that are read: positions, residue_names," in caplog.text
    np.savez(tmp_path / "zero.npz", **arrays, weight=np.zeros(len(arrays["positions"])))
    with pytest.raises(UserError, match=r"zero\.npz: weight must be above 0"):
        read_frames(tmp_path / "zero.npz")


def test_files_that_are_no_npz_give_one_line(tmp_path, trp_cage_file):
    (tmp_path / "short.npz").write_bytes(trp_cage_file.read_bytes()[:5000])
    (tmp_path / "text.npz").write_text("hello\n")
    for name in ("short", "text"):
        with pytest.raises(UserError, match=rf"{name}\.npz: not a readable NPZ file .*: write it with numpy.savez"):
            read_frames(tmp_path / f"{name}.npz")
    np.save(tmp_path / "one.npy", line(4))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(UserError, match="expected an NPZ file of named arrays, received one array"):
        read_frames(tmp_path / "one.npz")
    with pytest.raises(UserError, match=r"nothere\.npz: no such file or folder"):
        read_frames(tmp_path / "nothere.npz")


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(UserError, match="positions: expected an array of numbers, received rows of different lengths"):
        frames_from_arrays([[[0, 0, 0], [1, 1]]], ["ALA", "ALA"], 300)
