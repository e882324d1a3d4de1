"""What a user can do wrong, in real LAMMPS: one line each."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import pytest

from cg_data.atomic import sha256
from cg_data.contracts import Array, BeadGraph
from cg_data.errors import UserError
from cg_export.artifact import Errors, export_artifact
from cg_export.lammps.build import build_plugin
from cg_export.lammps.run import run_lammps
from cg_export.lammps.system import System
from cg_export.manifest import CHECKSUM_FILE, MANIFEST_FILE
from cg_models.bundle import Bundle

SPECIES = "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL"


@pytest.mark.parametrize(
    ("replacements", "said"),
    [
        ({"units           real": "units metal"}, "expected 'units real' (angstrom, kcal/mol), received 'units metal'"),
        ({"on off": "on"}, "expected 'newton on off' (pair on, bond off) before the box is made, received 'newton on on'"),
        ({"on off": "off"}, "received 'newton off off'"),
        ({"ALA ARG": "XYZ ARG"}, "atom type 1 names species 'XYZ', which the artifact lacks; it knows: " + SPECIES),
        ({"ALA ARG": "ALA"}, "expected '* * ARTIFACT' and 20 residue names"),
        ({"model index model": "model index nowhere"}, "nowhere/manifest.json: cannot be read"),
        ({"lj/coul 1 1 1": "lj/coul 0 1 1"}, "special_bonds takes bonded neighbours out of the neighbour list"),
        ({"cg python": "cg tensorrt"}, "unknown runtime 'tensorrt'"),
        ({"dihedral_style  zero nocoeff\ndihedral_coeff  *\n": ""}, "needs bonds, angles and dihedrals"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    replacements: dict[str, str], said: str, write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    folder = write(chain_system([6]), replacements, steps=0)
    with pytest.raises(UserError, match=re.escape(said)):
        run_lammps(folder)


@pytest.mark.parametrize(
    ("title", "said"), [("Bonds", "expected 8 bonds"), ("Angles", "expected 6 angles"), ("Dihedrals", "expected 4 dihedrals")]
)
def test_missing_topology_is_refused_with_the_number(
    title: str, said: str, write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    folder = write(chain_system([6, 4]), steps=0)
    text = (folder / "system.data").read_text()
    kind = title.lower()
    section = text.split(f"\n{title}\n\n")[1].split("\n\n")[0]
    shorter = "\n".join(section.strip().splitlines()[:-1])
    count = len(section.strip().splitlines())
    text = text.replace(section, shorter + "\n").replace(f"{count} {kind}", f"{count - 1} {kind}")
    (folder / "system.data").write_text(text)
    with pytest.raises(UserError, match=f"{said} for the 10 beads of these molecules, received {count - 1}"):
        run_lammps(folder)


def test_topology_missing_from_a_chain_is_refused_although_other_molecules_have_bonds(
    write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    pieces = {
        "pair_style      cg python\npair_coeff      * * ${model}": "pair_style hybrid/overlay cg zero 9.0\n"
        "pair_coeff * * zero\npair_coeff * * cg ${model}",
    }
    folder = write(chain_system([6, 6]), pieces, steps=0)
    # Molecule 2 holds but one bead of a type that the model knows, molecule 1 lacks its last dihedral.
    text = (folder / "in.lammps").read_text()
    (folder / "in.lammps").write_text(text.replace("ALA ARG", "ALA NULL"))
    data = (folder / "system.data").read_text()
    data = re.sub(r"^(\d+ 2) \d+ ", r"\1 2 ", data, flags=re.MULTILINE)
    data = data.replace("1 1 1 2 3 4\n", "1 1 7 8 9 10\n")
    (folder / "system.data").write_text(data)
    with pytest.raises(UserError, match="expected 3 dihedrals for the 6 beads of these molecules, received 2"):
        run_lammps(folder)


def test_negative_molecule_is_refused(write: Callable[..., Path], chain_system: Callable[..., System]) -> None:
    folder = write(chain_system([6, 4]), steps=0)
    text = (folder / "system.data").read_text()
    start = text.index("Atoms # molecular")
    end = text.index("Bonds\n")
    (folder / "system.data").write_text(text[:start] + re.sub(r"(?m)^(\d+) 2 ", r"\1 -3 ", text[start:end]) + text[end:])
    with pytest.raises(UserError, match=r"expected molecule IDs from 0, received -3 of atom \d+: number the segments from 1"):
        run_lammps(folder)


def test_plugin_for_other_integer_sizes_is_refused(write: Callable[..., Path], chain_system: Callable[..., System], tmp_path: Path) -> None:
    plugin = build_plugin(tmp_path / "bigbig.so", extra_flags=["-DLAMMPS_BIGBIG"])
    folder = write(chain_system([6]), steps=0)
    text = (folder / "in.lammps").read_text()
    (folder / "in.lammps").write_text(re.sub("plugin index .*", f"plugin index {plugin}", text))
    with pytest.raises(UserError, match=r"built for atom IDs of 8 bytes .*, this LAMMPS has 4 .*: run cg-export build-plugin"):
        run_lammps(folder)


def test_atoms_numbered_against_the_chain_are_refused(write: Callable[..., Path], chain_system: Callable[..., System]) -> None:
    folder = write(chain_system([6]), steps=0)
    text = (folder / "system.data").read_text()
    (folder / "system.data").write_text(text.replace("1 1 1 2\n2 1 2 3\n", "1 1 1 3\n2 1 2 3\n"))
    with pytest.raises(UserError, match="expected bonds between neighbouring atom IDs"):
        run_lammps(folder)


def test_ghosts_short_of_the_receptive_field_are_refused_with_the_number(
    write: Callable[..., Path], artifact: Path, tmp_path: Path, chain_system: Callable[..., System]
) -> None:
    model = _with_manifest(artifact, tmp_path / "far", receptive_field_angstrom=20.0)
    folder = write(chain_system([6]), {"comm_modify     cutoff 22": "comm_modify     cutoff 16"}, model, steps=0)
    with pytest.raises(
        UserError, match=r"expected ghost atoms out to 22 A with the skin of 2 A, received 16 A: add 'comm_modify cutoff 22'"
    ):
        run_lammps(folder)


def _with_manifest(artifact: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(artifact, folder)
    values = json.loads((folder / MANIFEST_FILE).read_text()) | changes
    (folder / MANIFEST_FILE).write_text(json.dumps(values))
    (folder / CHECKSUM_FILE).write_text(sha256(folder / MANIFEST_FILE))
    return folder


def test_newer_artifact_is_refused(write: Callable[..., Path], artifact: Path, chain_system: Callable[..., System], tmp_path: Path) -> None:
    folder = write(chain_system([6]), steps=0)
    shutil.rmtree(folder / "model")
    _with_manifest(artifact, folder / "model", format_version=2)
    with pytest.raises(UserError, match="artifact format 2 is newer than this plugin, which reads up to 1"):
        run_lammps(folder)


@pytest.mark.parametrize("name", [MANIFEST_FILE, "model.jaxexport"])
def test_artifact_with_one_changed_byte_is_refused(name: str, write: Callable[..., Path], chain_system: Callable[..., System]) -> None:
    folder = write(chain_system([6]), steps=0)
    path = folder / "model" / name
    content = bytearray(path.read_bytes())
    content[content.index(b"10.0") + 1 if name == MANIFEST_FILE else len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: checksum mismatch"):
        run_lammps(folder)


def test_energy_that_is_not_finite_stops_with_step_and_bead(
    write: Callable[..., Path], bundle: Bundle, chain_system: Callable[..., System], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def energy(graph: BeadGraph) -> Array:
        height = graph.positions[:, 2]
        return jnp.where(height > 1000.0, jnp.nan, 0.0 * height)

    monkeypatch.setattr("cg_export.artifact.graph_energy", lambda *_: energy)
    monkeypatch.setattr("cg_export.artifact.self_test", lambda _: Errors(0.0, 0.0))
    export_artifact(bundle, tmp_path / "nan", ladder=())
    jump = "run 3\ngroup one id 4\ndisplace_atoms one move 0 0 2000\nrun 1\n"
    folder = write(
        chain_system([6]),
        {"run             ${steps} upto\n": jump, "fix             integrate all nve\n": ""},
        tmp_path / "nan",
        ensemble="nve",
    )
    with pytest.raises(UserError, match=r"energy -?nan and force .* of bead 4 at step 3 are not finite"):
        run_lammps(folder)


def test_python_environment_that_lost_the_package_asks_for_a_new_build(
    write: Callable[..., Path], chain_system: Callable[..., System], tmp_path: Path
) -> None:
    (tmp_path / "cg_export.py").write_text("raise ImportError('gone')\n")
    with pytest.raises(UserError, match=r"cannot run cg-export any more \(gone\): run cg-export build-plugin again"):
        run_lammps(write(chain_system([6]), steps=0), extra_environment={"PYTHONPATH": str(tmp_path)})


def test_per_atom_stress_is_refused(write: Callable[..., Path], chain_system: Callable[..., System]) -> None:
    stress = "\ncompute stress all stress/atom NULL\ndump s all custom 1 s.dump id c_stress[1]\nvelocity "
    with pytest.raises(UserError, match="per-atom stress is not defined"):
        run_lammps(write(chain_system([6]), {"\nvelocity ": stress}, steps=0))


def test_build_without_a_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"expected a C\+\+17 compiler, found no g\+\+ or clang\+\+ on PATH: install one"):
        build_plugin(tmp_path / "cgplugin.so")


def test_build_without_headers_says_which(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected LAMMPS's header pair\.h in --lammps-include .*, found none"):
        build_plugin(tmp_path / "cgplugin.so", lammps_include=tmp_path)


def test_build_that_fails_leaves_no_library_and_one_line(tmp_path: Path) -> None:
    for header in ("pair.h", "neighbor.h", "json.h"):
        (tmp_path / header).write_text("#error not LAMMPS\n")
    with pytest.raises(UserError, match=r"failed: .*not LAMMPS") as caught:
        build_plugin(tmp_path / "out" / "cgplugin.so", lammps_include=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_build_does_not_replace_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "protein.pdb").write_text("END\n")
    with pytest.raises(UserError, match=r"protein\.pdb: already exists and is no shared library; expected a new file or an older plugin"):
        build_plugin(tmp_path / "protein.pdb")
    assert (tmp_path / "protein.pdb").read_text() == "END\n"
