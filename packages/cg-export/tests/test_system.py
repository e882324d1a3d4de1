from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_data.mapping import RESIDUE_MASSES_AMU, RESIDUE_SPECIES
from cg_export.lammps.data_file import bonded_kinds, data_file
from cg_export.lammps.run import read_dump
from cg_export.lammps.system import System, combine, make_system, read_pdb

MASSES = [RESIDUE_MASSES_AMU[name] for name in RESIDUE_SPECIES]


def _pdb_line(serial: int, atom: str, residue: str, chain: str, number: int, x: float, alternate: str = " ") -> str:
    return f"ATOM  {serial:>5}  {atom:<3}{alternate}{residue} {chain}{number:>4}    {x:8.3f}{0.0:8.3f}{0.0:8.3f}  1.00  0.00           C"


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def _section(text: str, title: str) -> list[list[str]]:
    lines = text.split(f"\n{title}\n\n")[1].split("\n\n")[0].strip().splitlines()
    return [line.split() for line in lines]


def test_pdb_segments_end_at_chains_gaps_and_long_bonds(tmp_path: Path) -> None:
    places = [("A", 1, 0.0), ("A", 2, 3.8), ("A", 4, 7.6), ("A", 5, 11.4), ("B", 6, 15.2), ("B", 7, 25.0)]
    lines = [_pdb_line(i, "CA", "ALA", chain, number, x) for i, (chain, number, x) in enumerate(places)]
    system = read_pdb(_write(tmp_path / "x.pdb", lines))
    assert system.chain_index.tolist() == [0, 0, 1, 1, 2, 3]


def test_pdb_reads_ca_of_the_first_model_and_location_and_maps_residue_names(tmp_path: Path) -> None:
    lines = [
        _pdb_line(1, "N", "MSE", "A", 1, -1.0),
        _pdb_line(2, "CA", "MSE", "A", 1, 0.0),
        _pdb_line(3, "CA", "HSD", "A", 2, 3.8, "A"),
        _pdb_line(4, "CA", "HSD", "A", 2, 4.0, "B"),
        "ENDMDL",
        _pdb_line(5, "CA", "GLY", "A", 3, 7.6),
    ]
    system = read_pdb(_write(tmp_path / "x.pdb", lines))
    assert system.names == ("MET", "HIS")
    np.testing.assert_allclose(system.positions[:, 0], [0.0, 3.8])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["HEADER"], "expected CA atoms, found none"),
        ([_pdb_line(1, "CA", "LIG", "A", 1, 0.0)], "LIG"),
        ([_pdb_line(1, "CA", "ALA", "A", 1, 0.0).replace("0.000", "  abc", 1)], "line 1: expected three coordinates"),
    ],
)
def test_bad_pdb_is_one_line(lines: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read_pdb(_write(tmp_path / "x.pdb", lines))


def test_data_file_numbers_atoms_along_segments_and_breaks_tuples_at_breaks(chain_system: Callable[..., System]) -> None:
    shuffled = np.random.default_rng(0).permutation(9)
    system = chain_system([5, 4])
    mixed = make_system(
        [system.names[i] for i in shuffled], system.positions[shuffled], system.residue_index[shuffled], system.chain_index[shuffled]
    )
    text = data_file(mixed, RESIDUE_SPECIES, MASSES, None)
    assert [row[1] for row in _section(text, "Atoms # molecular")] == ["1"] * 5 + ["2"] * 4
    assert [row[2:] for row in _section(text, "Bonds")] == [[str(i), str(i + 1)] for i in (1, 2, 3, 4, 6, 7, 8)]
    assert len(_section(text, "Angles")) == 5
    assert [row[2:] for row in _section(text, "Dihedrals")] == [list("1234"), list("2345"), list("6789")]
    names = [RESIDUE_SPECIES[int(row[2]) - 1] for row in _section(text, "Atoms # molecular")]
    assert tuple(names) == system.names


def test_data_file_of_single_beads_has_no_bonded_section(chain_system: Callable[..., System]) -> None:
    system = chain_system([1, 1])
    text = data_file(system, RESIDUE_SPECIES, MASSES, None)
    assert bonded_kinds(system) == {"bond": False, "angle": False, "dihedral": False}
    assert "0 bonds" in text
    assert "bond types" not in text


def test_beads_beyond_a_periodic_box_are_wrapped_with_image_flags(chain_system: Callable[..., System]) -> None:
    system = chain_system([8])
    text = data_file(system, RESIDUE_SPECIES, MASSES, 60.0)
    bounds = np.array([line.split()[:2] for line in text.splitlines() if line.endswith("hi")], float)
    rows = np.array([row[3:9] for row in _section(text, "Atoms # molecular")], float)
    assert np.all((rows[:, :3] >= bounds[:, 0]) & (rows[:, :3] < bounds[:, 1]))
    np.testing.assert_allclose(rows[:, :3] + rows[:, 3:] * 60.0, system.positions, atol=1e-9)


def test_box_smaller_than_the_beads_is_refused(chain_system: Callable[..., System]) -> None:
    with pytest.raises(UserError, match="box_angstrom: expected more than"):
        data_file(chain_system([20]), RESIDUE_SPECIES, MASSES, 5.0)


def test_species_that_the_model_lacks_is_refused(chain_system: Callable[..., System]) -> None:
    with pytest.raises(UserError, match="is not in the model"):
        data_file(chain_system([4]), ("GLY",), [57.0], None)


def test_copies_keep_their_distance_and_their_chains(chain_system: Callable[..., System]) -> None:
    system = chain_system([6, 3])
    copies = combine([system] * 5, 20.0)
    assert copies.n_beads == 45
    assert np.bincount(copies.chain_index).tolist() == [6, 3] * 5
    owner = copies.chain_index // 2
    distance = np.linalg.norm(copies.positions[:, None] - copies.positions[None], axis=-1)
    assert distance[owner[:, None] != owner[None]].min() > 19.9


def test_gap_inside_a_segment_is_refused() -> None:
    with pytest.raises(UserError, match="rise by one"):
        make_system(["ALA"] * 3, np.zeros((3, 3)), [0, 1, 3], [0, 0, 0])


DUMP = "ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS ss ss ss\n0 1\n0 1\n0 1\nITEM: ATOMS id x\n2 1.25\n1 0.125\n"


def test_dump_that_a_kill_cut_off_is_read_up_to_its_last_whole_snapshot(tmp_path: Path) -> None:
    first, second = DUMP.format(step=0), DUMP.format(step=10)
    path = tmp_path / "cut.dump"
    for kept in range(len(second)):
        path.write_text(first + second[:kept])
        snapshots = read_dump(path, ["x"])
        assert [step for step, _ in snapshots] == [0]
        np.testing.assert_array_equal(snapshots[0][1], [[0.125], [1.25]])
    path.write_text(first + second)
    assert [step for step, _ in read_dump(path, ["x"])] == [0, 10]


def test_dump_without_a_column_or_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.dump").write_text(DUMP.format(step=0))
    with pytest.raises(UserError, match=r"a\.dump: expected columns id vx, received id x: add them to the dump command"):
        read_dump(tmp_path / "a.dump", ["vx"])
    with pytest.raises(UserError, match=r"b\.dump: no such file"):
        read_dump(tmp_path / "b.dump", ["x"])
