import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from cg_data.errors import UserError
from cg_data.store import write_dataset
from cg_priors.cli import app
from cg_priors.inputs import frames_from_arrays, read_frames
from cg_priors.parameters import load_prior


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def prior_file(trp_cage_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "prior.yaml"
    done = call("fit", trp_cage_file, "-o", path, "bootstrap_samples=2", "angle.order=4", "dihedral.order=2")
    assert done.exit_code == 0
    assert "force_constant" in done.stdout
    assert "JS 0.0" in done.stdout
    return path


def test_fit_writes_a_prior_with_the_resolved_configuration(prior_file):
    prior = load_prior(prior_file)
    assert prior.provenance["configuration"]["angle"]["order"] == 4
    assert prior.provenance["data"] == "2jofA00.npz"
    assert prior_file.read_text().startswith("# Prior of a coarse-grained protein")


def test_fit_reads_the_training_split_of_a_dataset(trp_cage, tmp_path):
    frames, species = trp_cage
    write_dataset(tmp_path / "dataset", {"2jofA00": frames}, species)
    train, _ = read_frames(tmp_path / "dataset")
    held, _ = read_frames(tmp_path / "dataset", split="held_out_trajectories")
    assert train[0].n_frames + held[0].n_frames < frames.n_frames
    done = call("fit", tmp_path / "dataset", "-o", tmp_path / "prior.yaml", "bootstrap_samples=0", "angle.order=3", "dihedral.order=1")
    assert done.exit_code == 0
    assert load_prior(tmp_path / "prior.yaml").provenance["n_frames"] == train[0].n_frames


def test_check(prior_file):
    assert "sound" in call("check", prior_file).stdout


def test_plot(prior_file, trp_cage_file, tmp_path):
    pytest.importorskip("matplotlib")
    done = call("plot", prior_file, trp_cage_file, "-o", tmp_path / "page.png")
    assert done.exit_code == 0
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert call("plot", prior_file, "-o", tmp_path / "alone.svg").exit_code == 0
    with pytest.raises(UserError, match=r"expected a name ending in \.png"):
        call("plot", prior_file, "-o", tmp_path / "page.doc")


def test_export_writes_a_folder_for_lammps(prior_file, trp_cage_file, tmp_path):
    done = call("export", prior_file, trp_cage_file, "-o", tmp_path / "lammps", "--format", "lammps", "--temperature", "300")
    assert done.exit_code == 0
    names = {path.name for path in (tmp_path / "lammps").iterdir()}
    assert {"prior.settings", "prior.data", "in.prior", "angle.table", "repulsion.table", "excluded_volume.table"} <= names
    assert "prior at 300 K" in (tmp_path / "lammps" / "prior.settings").read_text()


def error_line(*arguments):
    """Run the program as a user does; return its one line of error, having checked that it is one and that the code is 2."""
    program = Path(sys.executable).parent / "cg-priors"
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("to", ["lammps", "openmm"])
def test_export_replaces_nothing(to, prior_file, trp_cage_file, tmp_path):
    if to == "openmm":
        pytest.importorskip("openmm")
    (tmp_path / "old").mkdir()
    for path in (tmp_path / "old" / "system.xml", tmp_path / "file"):
        path.write_text("mine")
    for output in ("old", "file"):
        line = error_line("export", prior_file, trp_cage_file, "-o", tmp_path / output, "--format", to)
        assert f"{tmp_path / output}: already exists; expected a new or empty folder" in line
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["system.xml"]
    assert (tmp_path / "old" / "system.xml").read_text() == (tmp_path / "file").read_text() == "mine"


def test_fit_refuses_a_folder_as_its_output(tmp_path):
    (tmp_path / "prior.yaml").mkdir()
    assert f"{tmp_path / 'prior.yaml'}: expected a file, found a folder" in error_line("fit", "none.npz", "-o", tmp_path / "prior.yaml")


def test_plots_that_cannot_be_written_are_refused_before_anything_is_fitted(trp_cage_file, tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("cg_priors.report.read_frames", lambda *_: pytest.fail("read the data"))
    for name, message in (("page.gif", r"expected a name ending in \.png"), ("folder.png", "expected a file, found a folder")):
        with pytest.raises(UserError, match=message):
            call("fit", trp_cage_file, "-o", tmp_path / "prior.yaml", "--plots", tmp_path / name)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="plots need matplotlib"):
        call("fit", trp_cage_file, "-o", tmp_path / "prior.yaml", "--plots", tmp_path / "page.png")
    assert not (tmp_path / "prior.yaml").exists()


def test_template_is_a_configuration(tmp_path):
    text = call("template").stdout
    assert yaml.safe_load(text)["bond"]["form"] == "harmonic"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["temperature_kelvn=300"], "did you mean 'temperature_kelvin'?"),
        (["bond.frm=spline"], "did you mean 'form'?"),
        (["bond.form=quadratic"], "'harmonic', 'cis_trans' or 'spline'"),
        (["temperature_kelvin=300"], "expected one of 348 K"),
        (["temperature_kelvin=[]"], "temperature_kelvin: expected at least one temperature"),
        (["temperature_kelvin=[348,348]"], "expected temperatures at least 1 K apart, found 348 and 348 K"),
        (["seed=-1"], "seed: Input should be greater than or equal to 0"),
    ],
)
def test_bad_options_give_one_line_and_code_2(arguments, message, trp_cage_file, tmp_path):
    program = Path(sys.executable).parent / "cg-priors"
    done = subprocess.run([program, "fit", trp_cage_file, "-o", tmp_path / "p.yaml", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_bad_arrays_are_named(tmp_path):
    positions = np.zeros((2, 3, 3), np.float32)
    with pytest.raises(UserError, match=re.escape("positions: expected shape [n_frames, 2, 3] for 2 residue names, received [2, 3, 3]")):
        frames_from_arrays(positions, ["ALA", "GLY"], 300)
    with pytest.raises(UserError, match="residue 'XXX'"):
        frames_from_arrays(positions, ["ALA", "GLY", "XXX"], 300)
    np.savez(tmp_path / "a.npz", positions=positions, residue_names=np.array(["ALA", "GLY", "ALA"]))
    with pytest.raises(UserError, match="temperature_kelvin"):
        read_frames(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", residue_names=np.array(["ALA"]))
    with pytest.raises(UserError, match="expected an array 'positions'"):
        read_frames(tmp_path / "b.npz")


def test_a_gap_between_beads_starts_a_new_segment():
    positions = np.zeros((1, 4, 3), np.float32)
    positions[0, :, 0] = [0, 3.8, 12.0, 15.8]
    assert frames_from_arrays(positions, ["ALA"] * 4, 300).chain_index.tolist() == [0, 0, 1, 1]


@pytest.mark.filterwarnings("ignore")
def test_a_trajectory_that_mdanalysis_reads_gives_the_same_frames(trp_cage, tmp_path):
    analysis = pytest.importorskip("MDAnalysis")
    frames, species = trp_cage
    universe = analysis.Universe.empty(21, 21, atom_resindex=np.arange(21), residue_segindex=np.zeros(21, int), trajectory=True)
    universe.add_TopologyAttr("names", ["CA"] * 20 + ["O"])
    universe.add_TopologyAttr("resnames", [species[s] for s in frames.species] + ["HOH"])
    universe.add_TopologyAttr("resids", np.arange(1, 22))
    universe.atoms.positions = np.concatenate([frames.positions[0], np.zeros((1, 3))])
    universe.atoms.write(tmp_path / "topology.pdb")
    with analysis.Writer(str(tmp_path / "run.dcd"), 21) as writer:
        for x in frames.positions[:5]:
            universe.atoms.positions = np.concatenate([x, np.zeros((1, 3))])
            writer.write(universe.atoms)
    (read,), names = read_frames(tmp_path / "run.dcd", topology=tmp_path / "topology.pdb", temperature_kelvin=348.0)
    np.testing.assert_allclose(read.positions, frames.positions[:5], atol=1e-5)
    assert [names[s] for s in read.species] == [species[s] for s in frames.species]
    assert (read.temperature == 348).all()
    done = call("fit", tmp_path / "run.dcd", "--topology", tmp_path / "topology.pdb", "-o", tmp_path / "prior.yaml",
                "temperature_kelvin=348", "bootstrap_samples=0", "angle.order=2", "dihedral.order=1")  # fmt: skip
    assert done.exit_code == 0, done.output
    done = call("fit", tmp_path / "run.dcd", "--topology", tmp_path / "topology.pdb", "-o", tmp_path / "one.yaml",
                "temperature_kelvin=[348]", "bootstrap_samples=0", "angle=null", "dihedral=null")  # fmt: skip
    assert load_prior(tmp_path / "one.yaml").temperatures_kelvin == (348,)
    done = call("export", tmp_path / "prior.yaml", tmp_path / "run.dcd", "--topology", tmp_path / "topology.pdb", "-o", tmp_path / "lammps")
    assert done.exit_code == 0, done.output
    assert "20 atoms" in (tmp_path / "lammps" / "prior.data").read_text()
    with pytest.raises(UserError, match="do not state their temperature"):
        read_frames(tmp_path / "run.dcd", topology=tmp_path / "topology.pdb")
