import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cg_data.contracts import BeadFrames
from cg_data.mapping import RESIDUE_SPECIES
from cg_data.store import write_dataset
from cg_export.artifact import Errors
from cg_export.cli import app
from cg_export.lammps.input import LammpsConfig
from cg_export.lammps.system import System
from cg_export.parity import ParityRow
from cg_models.bundle import Bundle, save_bundle


def _error(*command: str) -> str:
    program = [sys.executable, "-c", "from cg_export.cli import main; main()"]
    done = subprocess.run([*program, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


def _dataset(path: Path, system: System) -> None:
    n_frames = 12
    positions = np.repeat(system.positions[None].astype(np.float32), n_frames, axis=0)
    frames = BeadFrames(
        positions=positions,
        forces=np.zeros_like(positions),
        species=np.array([RESIDUE_SPECIES.index(name) for name in system.names], np.int32),
        residue_index=system.residue_index.astype(np.int32),
        chain_index=system.chain_index.astype(np.int32),
        temperature=np.full(n_frames, 320.0, np.float32),
        trajectory=np.zeros(n_frames, np.int32),
    )
    write_dataset(path, {"1abcA00": frames})


@pytest.mark.parametrize("verb", ["stablehlo", "build-plugin", "lammps", "template", "parity"])
def test_help_of_each_verb_ends_with_an_example(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0
    assert f"Example: cg-export {verb}" in re.sub(r"\s+", " ", shown.output)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("stablehlo", "nowhere", "-o", "x"), "nowhere: expected a model bundle"),
        (("stablehlo", "nowhere", "-o", "x", "--precision", "float16"), "expected float32 or float64, received 'float16'"),
        (("stablehlo", "nowhere", "-o", "x", "--part", "half"), "expected full, backbone or prior"),
        (("stablehlo", "nowhere", "-o", "x", "--format", "onnx"), "expected artifact or chemtrain, received 'onnx'"),
        (("stablehlo", "nowhere", "-o", "x", "--budget", "64"), "expected BEADS,EDGES such as 512,20000, received '64'"),
        (("stablehlo", "nowhere", "-o", "x", "--budget", "512,x,20000"), "expected BEADS,EDGES such as 512,20000, received '512,x,20000'"),
        (("stablehlo", "nowhere", "-o", "x", "--budget", "512,\u00b2"), "expected BEADS,EDGES such as 512,20000"),
        (("stablehlo", "nowhere", "-o", "x", "--budget", "512,3000000000"), "expected BEADS,EDGES such as 512,20000"),
        (("stablehlo", "nowhere", "-o", "x", "--format", "chemtrain", "--part", "prior"), "--format chemtrain: expected no --part prior"),
        (("stablehlo", "nowhere", "-o", "x", "--format", "chemtrain", "--budget", "64,64"), "--format chemtrain: expected no --budget"),
        (("lammps", ".", "--pdb", "x.pdb", "--domain", "1abc"), "--domain: expected --dataset with it, received --pdb"),
        (("lammps", ".", "--pdb", "x.pdb", "--frame", "3"), "--frame: expected --dataset with it, received --pdb"),
        (("lammps", ".", "--pdb", "x.pdb", "steps=3000000000"), "less than or equal to 2147483647"),
        (("parity", "nowhere", "--dataset", "x", "--precision", "float16"), "expected float32 or float64, received 'float16'"),
        (("parity", "nowhere", "--dataset", "x", "--ranks", "-2"), "--ranks: expected 0 or more, received -2"),
        (("lammps", "nowhere", "stps=3"), "did you mean 'steps'?"),
        (("lammps", ".", "--pdb", "nowhere.pdb"), "nowhere.pdb: no such file"),
        (("lammps", "."), "expected a structure: either --pdb FILE, or --dataset FOLDER with --domain ID"),
        (("build-plugin", "--compiler", "no-such-compiler"), "found no no-such-compiler on PATH"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(command: tuple[str, ...], said: str) -> None:
    assert said in _error(*command)


def test_lammps_verb_writes_a_folder_that_names_everything(
    artifact: Path, plugin: Path, chain_system: Callable[..., System], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cg_export.lammps.write.ensure_plugin", lambda: plugin)
    _dataset(tmp_path / "dataset", chain_system([8]))
    folder = tmp_path / "run"
    where = ["--dataset", str(tmp_path / "dataset"), "--domain", "1abcA00", "--frame", "1", "-o", str(folder)]
    options = ["steps=10", "ensemble=nve", "ranks=4"]
    done = CliRunner().invoke(app, ["lammps", str(artifact), *options, *where], catch_exceptions=False)
    assert done.exit_code == 0
    assert {path.name for path in folder.iterdir()} == {"model", "system.data", "in.lammps", "run.sbatch", "lammps.yaml"}
    assert "langevin" not in (folder / "in.lammps").read_text()
    assert "--ntasks=4" in (folder / "run.sbatch").read_text()
    assert "steps: 10" in (folder / "lammps.yaml").read_text()
    assert subprocess.run(["bash", "-n", folder / "run.sbatch"], check=False).returncode == 0


def test_template_explains_every_option_and_reads_back_as_the_defaults(tmp_path: Path) -> None:
    text = CliRunner().invoke(app, ["template"]).stdout
    (tmp_path / "lammps.yaml").write_text(text)
    assert LammpsConfig.load(tmp_path / "lammps.yaml") == LammpsConfig()
    lines = text.splitlines()
    unexplained = [line for above, line in pairwise(["", *lines]) if not line.startswith("#") and not above.startswith("#")]
    assert unexplained == []


def test_precision_other_than_the_artifacts_is_refused(
    artifact: Path, bundle: Bundle, chain_system: Callable[..., System], tmp_path: Path
) -> None:
    _dataset(tmp_path / "dataset", chain_system([8]))
    save_bundle(tmp_path / "bundle", bundle)
    where = ["--dataset", str(tmp_path / "dataset"), "--precision", "float64"]
    said = "precision float64: expected that of the artifact, float32"
    assert said in _error("lammps", str(artifact), *where, "--domain", "1abcA00", "-o", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert said in _error("parity", str(tmp_path / "bundle"), *where, "--artifact", str(artifact), "--ranks", "0")


def test_chemtrain_file_in_the_place_of_another_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    save_bundle(tmp_path / "bundle", bundle)
    parameters = tmp_path / "bundle" / "params.safetensors"
    before = parameters.read_bytes()
    assert "already exists; expected a new file" in _error(
        "stablehlo", str(tmp_path / "bundle"), "-o", str(parameters), "--format", "chemtrain"
    )
    assert parameters.read_bytes() == before


@pytest.mark.parametrize(("force", "code"), [(1e-9, 0), (1e-3, 1)])
def test_parity_prints_the_worst_case_and_ends_with_its_code(
    force: float, code: int, bundle: Bundle, chain_system: Callable[..., System], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_bundle(tmp_path / "bundle", bundle)
    _dataset(tmp_path / "dataset", chain_system([8]))
    row = ParityRow("1abcA00", "artifact / bundle", 8, 2, Errors(1e-9, force), 1e-6)
    monkeypatch.setattr("cg_export.parity.parity", lambda *_: [row])
    done = CliRunner().invoke(app, ["parity", str(tmp_path / "bundle"), "--dataset", str(tmp_path / "dataset")])
    assert done.exit_code == code
    assert f"worst: 1abcA00, artifact / bundle: {max(force, 1e-9):.1e}, accepted 1e-06" in done.output
