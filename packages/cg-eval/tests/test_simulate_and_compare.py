"""From a bundle to a simulation folder to a comparison, and through the command line."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_eval.bootstrap import time_blocks
from cg_eval.cli import app
from cg_eval.compare import CompareConfig, _mean, compare_distributions, reference_frames, split_in_halves
from cg_eval.json_text import to_json
from cg_eval.observables import radius_of_gyration
from cg_eval.simulate import SimulateConfig, dataset_start, pdb_start, simulate
from cg_eval.simulation import load_simulation
from cg_eval.trajectory_files import read_dcd, write_dcd, write_pdb

CONFIG = SimulateConfig(n_replicas=3, n_steps=200, save_every_steps=20, part="prior")


@pytest.fixture(scope="module")
def simulation(prior_bundle, dataset):
    return simulate(prior_bundle, dataset_start(prior_bundle, dataset, "one", CONFIG), CONFIG)


def test_a_simulation_starts_at_frames_of_the_data_set_at_the_priors_temperature_and_says_how_it_ran(simulation, dataset):
    start = np.asarray(dataset.frames("one").positions[0])
    np.testing.assert_allclose(simulation.positions[0, 0], start - start.mean(axis=0), atol=1e-5)
    assert simulation.positions.shape == (11, 3, 8, 3)
    assert simulation.time_ps[-1] == pytest.approx(2.0)
    for text in ("3 replicas of 8 beads", "friction 1/ps", "300 K", "time step 10 fs"):
        assert text in simulation.table()


def test_a_model_without_a_prior_must_be_told_the_temperature(prior_bundle, dataset):
    bundle = dataclasses.replace(prior_bundle, prior=None)
    with pytest.raises(UserError, match="temperature_kelvin: the model has no prior to state one; give it"):
        dataset_start(bundle, dataset, "one", CONFIG)


def test_a_force_field_without_its_prior_shows_as_failing_in_the_survival_curve(hybrid_bundle, simulation, dataset):
    without = dataclasses.replace(
        hybrid_bundle,
        config=hybrid_bundle.config.model_copy(update={"mode": "backbone"}),
        params={"backbone": hybrid_bundle.params["backbone"]},
        prior=None,
    )
    config = CONFIG.model_copy(update={"part": "full", "n_steps": 2000, "save_every_steps": 100, "temperature_kelvin": 300.0})
    alone = simulate(without, dataset_start(without, dataset, "one", config), config)
    assert simulation.survival()[-1] == 1.0
    assert alone.survival()[-1] == 0.0
    assert (np.diff(alone.survival()) <= 0).all()
    assert all(outcome.reason for outcome in alone.outcomes)
    assert "stopped at" in alone.table()


def test_a_saved_simulation_is_read_back_as_it_was(simulation, tmp_path):
    simulation.save(tmp_path / "run")
    back = load_simulation(tmp_path / "run")
    for field in dataclasses.fields(simulation):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(simulation, field.name))
    assert to_json(back.to_dict()) == to_json(simulation.to_dict())


@pytest.mark.parametrize("lost", ["valid", "outcomes"])
def test_a_simulation_that_lacks_something_is_refused(lost, simulation, tmp_path):
    simulation.save(tmp_path / "run")
    with h5py.File(tmp_path / "run/simulation.h5", "a") as file:
        del (file if lost == "valid" else file.attrs)[lost]
    with pytest.raises(UserError, match=f"is not whole .*{lost}.*: simulate again"):
        load_simulation(tmp_path / "run")


def test_files_of_a_simulation_hold_the_positions_in_standard_formats(simulation, tmp_path):
    simulation.save(tmp_path / "run")
    positions, interval = read_dcd(tmp_path / "run/replica_001.dcd")
    np.testing.assert_array_equal(positions, simulation.positions[:, 1])
    assert interval == pytest.approx(0.2, rel=1e-5)
    atoms = [line for line in (tmp_path / "run/topology.pdb").read_text().splitlines() if line.startswith("ATOM")]
    assert [line[17:20] for line in atoms] == list(simulation.residue_names)
    assert float(atoms[3][30:38]) == pytest.approx(simulation.positions[0, 0, 3, 0], abs=1e-3)
    assert json.loads((tmp_path / "run/summary.json").read_text())["n_replicas"] == 3
    assert all((tmp_path / f"run/simulation.{kind}").stat().st_size > 0 for kind in ("png", "pdf"))


def test_mdanalysis_and_mdtraj_open_the_trajectory(simulation, tmp_path):
    mdanalysis, mdtraj = pytest.importorskip("MDAnalysis"), pytest.importorskip("mdtraj")
    simulation.save(tmp_path / "run")
    topology, trajectory = str(tmp_path / "run/topology.pdb"), str(tmp_path / "run/replica_001.dcd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = mdanalysis.Universe(topology, trajectory)
        theirs = np.array([frame.positions.copy() for frame in universe.trajectory])
        other = mdtraj.load(trajectory, top=topology)
    np.testing.assert_array_equal(theirs, simulation.positions[:, 1])
    assert universe.trajectory.dt == pytest.approx(0.2, rel=1e-5)
    assert universe.residues.resnames.tolist() == list(simulation.residue_names)
    np.testing.assert_allclose(10 * other.xyz, simulation.positions[:, 1], atol=1e-4)
    assert [residue.name for residue in other.topology.residues] == list(simulation.residue_names)
    assert mdtraj.compute_rg(other)[3] * 10 == pytest.approx(radius_of_gyration(simulation.positions[3:4, 1])[0], rel=1e-4)


KILLED_AFTER_ROWS = """
import os, signal, sys
import cg_eval.recorder
write = cg_eval.recorder._write
def write_then_die(path, arrays):
    if path.name == "state.npz" and path.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, arrays)
cg_eval.recorder._write = write_then_die
from cg_eval.cli import main
main()
"""


def test_a_killed_simulation_goes_on_bit_for_bit_and_a_finished_one_is_not_repeated(
    prior_bundle, bundle_folder, dataset, tmp_path, quick_compilation
):
    """Killed between the two writes of its second checkpoint: the first one counts, and what was written since does not."""
    options = ["n_steps=100", "save_every_steps=10", "n_replicas=4", "part=prior", "checkpoint_every_frames=3"]
    options += ["ensemble=tempering", "tempering_kelvin=[280,320]"]
    arguments = ["simulate", str(bundle_folder), str(dataset.path), "-o", str(tmp_path / "md"), "--domain", "one", *options]
    environment = {**os.environ, **quick_compilation(1), "JAX_ENABLE_X64": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_ROWS, *arguments], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {path.name for path in (tmp_path / "md").iterdir()} == {"one.unfinished"}
    assert len(list((tmp_path / "md/one.unfinished").glob("rows_*.npz"))) == 2

    with pytest.raises(UserError, match="other options"):
        CliRunner().invoke(app, [*arguments, "seed=1"], catch_exceptions=False)
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    config = SimulateConfig.load(None, options)
    whole, resumed = (
        simulate(prior_bundle, dataset_start(prior_bundle, dataset, "one", config), config),
        load_simulation(tmp_path / "md/one"),
    )
    for field in ("positions", "time_ps", "potential_energy", "kinetic_temperature", "bath_temperature", "valid", "exchanges"):
        np.testing.assert_array_equal(getattr(resumed, field), getattr(whole, field))
    assert not (tmp_path / "md/one.unfinished").exists()

    assert "simulated already" in CliRunner().invoke(app, arguments, catch_exceptions=False).output
    with pytest.raises(UserError, match="other options"):
        CliRunner().invoke(app, [*arguments, "seed=1"], catch_exceptions=False)


def test_a_pdb_gives_the_sequence_and_the_start_of_every_replica(prior_bundle, simulation, tmp_path):
    write_pdb(
        tmp_path / "chain.pdb", simulation.positions[0, 0], simulation.residue_names, simulation.residue_index, simulation.chain_index
    )
    start = pdb_start(prior_bundle, tmp_path / "chain.pdb", CONFIG)
    assert [prior_bundle.species_names[index] for index in start.species] == list(simulation.residue_names)
    np.testing.assert_allclose(start.positions, np.repeat(simulation.positions[:1, 0], 3, axis=0), atol=1e-3)
    assert start.chain_index.tolist() == [0] * 8
    text = (tmp_path / "chain.pdb").read_text().replace("GLY", "TRP", 1)
    (tmp_path / "other.pdb").write_text(text)
    with pytest.raises(UserError, match="TRP"):
        pdb_start(prior_bundle, tmp_path / "other.pdb", CONFIG)


def test_a_pdb_connects_segments_only(tmp_path):
    write_pdb(tmp_path / "two.pdb", np.zeros((4, 3)), ["ALA"] * 4, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
    text = (tmp_path / "two.pdb").read_text()
    assert [line for line in text.splitlines() if line.startswith("CONECT")] == ["CONECT    1    2", "CONECT    3    4"]
    assert " A   1" in text
    assert " B   2" in text


def test_a_truncated_dcd_is_refused(tmp_path):
    write_dcd(tmp_path / "x.dcd", np.zeros((3, 5, 3)), 0.1)
    data = (tmp_path / "x.dcd").read_bytes()
    (tmp_path / "x.dcd").write_bytes(data[:-10])
    with pytest.raises(UserError, match="truncated"):
        read_dcd(tmp_path / "x.dcd")


def test_a_folder_without_a_simulation_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected the output folder of cg-eval simulate"):
        load_simulation(tmp_path)


def chain_frames(bond, n_frames=200, seed=0, temperature=300.0, n_trajectories=4):
    """Random chains whose bonds have the given mean and a spread of 0.1 A."""
    generator = np.random.default_rng(seed)
    steps = generator.normal(size=(n_frames, 9, 3)) + np.array([1.5, 0, 0])
    steps *= generator.normal(bond, 0.1, size=(n_frames, 9, 1)) / np.linalg.norm(steps, axis=-1, keepdims=True)
    return BeadFrames(
        positions=np.concatenate([np.zeros((n_frames, 1, 3)), np.cumsum(steps, axis=1)], axis=1).astype(np.float32),
        forces=None,
        species=np.zeros(10, np.int32),
        residue_index=np.arange(10, dtype=np.int32),
        chain_index=np.zeros(10, np.int32),
        temperature=np.full(n_frames, temperature, np.float32),
        trajectory=np.repeat(np.arange(n_trajectories), n_frames // n_trajectories).astype(np.int32),
    )


def test_samples_of_one_distribution_diverge_no_more_than_the_halves_of_the_reference():
    result = compare_distributions(chain_frames(3.8, seed=1), chain_frames(3.8, seed=2), CompareConfig(n_resamples=50))
    for name in ("bond", "angle", "dihedral"):
        assert result[name].divergence.estimate < 1.5 * result[name].noise + 0.005
        assert result[name].overlap.estimate > 0.85


def test_a_shift_of_bond_lengths_is_seen_in_bonds_and_not_in_angles():
    result = compare_distributions(chain_frames(4.1, seed=1), chain_frames(3.8, seed=2), CompareConfig(n_resamples=50))
    bond = result["bond"]
    assert bond.divergence.low > 10 * bond.noise
    assert bond.wasserstein.estimate == pytest.approx(0.3, abs=0.02)
    assert bond.model_mean.estimate - bond.reference_mean.estimate == pytest.approx(0.3, abs=0.02)
    assert result["angle"].divergence.estimate < 2 * result["angle"].noise + 0.005


def test_the_interval_of_a_mean_direction_turns_with_the_directions():
    """Directions about 0, and the same ones turned by 2.8 rad, of which many then lie beyond pi."""
    blocks = time_blocks(np.repeat(np.arange(8), 40), 20)
    angles = np.random.default_rng(0).normal(0, 0.6, size=(8, 1, 1)) + np.random.default_rng(1).normal(0, 0.2, size=(8, 40, 1))
    angles = angles.reshape(-1, 1)
    turned = np.angle(np.exp(1j * (angles + 2.8)))
    still, moved = (_mean(values, blocks, 2 * np.pi, CompareConfig()) for values in (angles, turned))
    assert still.low < still.estimate < still.high
    assert moved.high > np.pi > moved.estimate
    np.testing.assert_allclose([moved.estimate, moved.low, moved.high], np.array([still.estimate, still.low, still.high]) + 2.8, atol=1e-9)


def test_halves_of_the_reference_are_whole_trajectories_where_there_are_several():
    halves = split_in_halves(np.array([0, 0, 1, 1, 2, 2]))
    assert halves.tolist() == [True, True, False, False, True, True]
    assert split_in_halves(np.zeros(4, int)).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("model", "reference", "message"),
    [
        (chain_frames(3.8, 0), chain_frames(3.8), "no frame inside the physical range"),
        (chain_frames(3.8, temperature=350.0), chain_frames(3.8), "simulate at the reference's temperature"),
    ],
)
def test_what_cannot_be_compared_is_refused(model, reference, message):
    with pytest.raises(UserError, match=message):
        compare_distributions(model, reference)


def test_reference_frames_are_of_the_temperature_asked_for_or_refused(dataset):
    assert reference_frames(dataset, "one", 300.0).n_frames == 80
    with pytest.raises(UserError, match="only at 300 K"):
        reference_frames(dataset, "one", 320.0)


def test_the_command_line_goes_from_a_bundle_to_a_comparison(bundle_folder, dataset, tmp_path):
    def call(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    options = ["n_steps=200", "save_every_steps=20", "n_replicas=2", "temperature_kelvin=300", "part=prior"]
    assert "MSE" in call("forces", bundle_folder, dataset.path, "-o", tmp_path / "forces", "--part", "prior", "n_resamples=50")
    assert "2 replicas" in call("simulate", bundle_folder, dataset.path, "-o", tmp_path / "md", "--domain", "one", *options)
    assert "survival at 2 ps: 1.000" in call("compare", tmp_path / "md", dataset.path, "-o", tmp_path / "comparison", "after_ps=0.5")
    for name in (
        "forces/forces.csv",
        "md/one/simulation.h5",
        "md/one/config.yaml",
        "md/one/simulation.png",
        "comparison/one/distributions.png",
        "comparison/one/survival.pdf",
    ):
        assert (tmp_path / name).stat().st_size > 0


def test_a_number_of_the_options_must_be_finite():
    with pytest.raises(UserError, match=r"time_step_ps=.*finite"):
        SimulateConfig.load(None, ["time_step_ps=.inf"])


def test_an_unknown_option_is_refused_with_a_suggestion(bundle_folder, dataset, tmp_path):
    with pytest.raises(UserError, match="did you mean 'n_steps'"):
        CliRunner().invoke(
            app, ["simulate", str(bundle_folder), str(dataset.path), "-o", str(tmp_path / "md"), "nsteps=3"], catch_exceptions=False
        )
