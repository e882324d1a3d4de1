"""What of a simulation is compared with which frames of a data set, and what is refused before anything is computed."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cg_data.errors import UserError
from cg_eval.cli import app
from cg_eval.compare import CompareConfig, compare_simulation
from cg_eval.simulation import ReplicaOutcome, SimulateConfig, Simulation

FAST = {"n_resamples": 10, "most_scored_frames": 10}


@pytest.fixture
def simulation(dataset):
    """Two replicas that are the frames of domain `one`, the second in a bath of 340 K."""
    frames, shape = dataset.frames("one"), (40, 2)
    temperatures = (300.0, 340.0)
    return Simulation(
        positions=np.asarray(frames.positions).reshape(2, 40, 8, 3).swapaxes(0, 1),
        time_ps=np.arange(40) * 0.2,
        potential_energy=np.zeros(shape),
        kinetic_temperature=np.full(shape, 300.0),
        bath_temperature=np.broadcast_to(temperatures, shape).copy(),
        valid=np.ones(shape, bool),
        outcomes=(ReplicaOutcome(0, None, None), ReplicaOutcome(1, None, None)),
        species=np.asarray(frames.species),
        residue_index=np.asarray(frames.residue_index),
        chain_index=np.asarray(frames.chain_index),
        residue_names=tuple(dataset.species_names[index] for index in frames.species),
        config=SimulateConfig(ensemble="tempering", tempering_kelvin=temperatures, n_replicas=2),
        replica_steps_per_second=1.0,
        room_growths=0,
    )


def call(*arguments):
    result = CliRunner().invoke(app, ["compare", *(str(argument) for argument in arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_simulation_of_another_sequence_is_refused(simulation, dataset):
    names = ("ALA", "GLY", "SER", *simulation.residue_names[3:])
    other = dataclasses.replace(simulation, residue_names=names)
    with pytest.raises(UserError, match=r"bead 3 of the simulation is SER, that of one in .* is LEU: compare the same domain"):
        compare_simulation(other, dataset, "one", CompareConfig(**FAST))


def test_a_simulation_that_does_not_name_its_residues_is_compared(simulation, dataset):
    unnamed = dataclasses.replace(simulation, residue_names=("UNK",) * 8)
    assert compare_simulation(unnamed, dataset, "one", CompareConfig(**FAST)).n_model_frames == 39


def test_a_temperature_that_no_bath_has_is_refused_with_the_ladder(simulation, dataset):
    with pytest.raises(UserError, match="temperature_kelvin=450: no bath of the simulation has it, only 300, 340 K: choose one"):
        compare_simulation(simulation, dataset, "one", CompareConfig(temperature_kelvin=450))


def test_survival_after_tempering_is_of_all_temperatures(simulation, dataset):
    found = compare_simulation(simulation, dataset, "one", CompareConfig(**FAST))
    assert found.survival is not None
    assert found.survival.caption("one") == "one, 300, 340 K: 2 replicas"
    assert "one, 300 K: model 39 frames of 1 replicas" in found.caption()


def test_a_simulation_of_a_pdb_file_is_compared_with_the_domain_that_is_named(simulation, dataset, tmp_path):
    simulation.save(tmp_path / "md/chain")
    with pytest.raises(UserError, match="no domain 'chain'; it has one, two: name the one to compare a simulation with, reference=DOMAIN"):
        call(tmp_path / "md", dataset.path, "-o", tmp_path / "refused")
    call(tmp_path / "md", dataset.path, "-o", tmp_path / "out", "reference=one", "n_resamples=10", "most_scored_frames=10")
    assert json.loads((tmp_path / "out/chain/comparison.json").read_text())["domain"] == "one"
    simulation.save(tmp_path / "md/one")
    with pytest.raises(UserError, match="reference=one: expected one simulation, received 2, chain, one: choose one with --domain"):
        call(tmp_path / "md", dataset.path, "-o", tmp_path / "both", "reference=one")


def test_every_name_is_checked_before_anything_is_compared(simulation, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("cg_eval.compare.compare_simulation", lambda *_: pytest.fail("the work has begun"))
    simulation.save(tmp_path / "md/one")
    with pytest.raises(UserError, match="no simulation 'zzz'; it has one"):
        call(tmp_path / "md", dataset.path, "-o", tmp_path / "out", "--domain", "one", "--domain", "zzz")
    simulation.save(tmp_path / "md/zzz")
    with pytest.raises(UserError, match="no domain 'zzz'; it has one, two"):
        call(tmp_path / "md", dataset.path, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
