"""What of a simulation is compared with which frames of a data set, and what is refused before anything is computed."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cg_data.errors import UserError
from cg_data.store import write_dataset
from cg_eval.cli import app
from cg_eval.compare import CompareConfig, choose_compared, compare_distributions, compare_simulation
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
    with pytest.raises(UserError, match="temperature_kelvin=450: no bath of the simulation of one has it, only 300, 340 K: choose one"):
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residue_names": ("SER",) * 8}, "bead 1 of the simulation is SER"),
        ({"valid": np.arange(40)[:, None] * np.ones(2) < 3}, "after_ps=1: no replica of two is inside the physical range"),
        ({"bath_temperature": np.full((40, 2), 340.0)}, "two has no frames at 340 K"),
    ],
)
def test_what_is_wrong_with_a_later_simulation_is_said_before_the_first_is_compared(
    changes, message, simulation, dataset, tmp_path, monkeypatch
):
    frames = dataset.frames("two").select(slice(0, 40))
    later = dataclasses.replace(
        simulation,
        positions=np.stack([np.asarray(frames.positions)] * 2, axis=1),
        species=np.asarray(frames.species),
        residue_index=np.asarray(frames.residue_index),
        chain_index=np.asarray(frames.chain_index),
        residue_names=tuple(dataset.species_names[index] for index in frames.species),
    )
    if "residue_names" in changes:
        changes = {"residue_names": ("SER", *later.residue_names[1:])}
    simulation.save(tmp_path / "md/one")
    dataclasses.replace(later, **changes).save(tmp_path / "md/two")
    monkeypatch.setattr("cg_eval.compare.compare_simulation", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(UserError, match=message):
        call(tmp_path / "md", dataset.path, "-o", tmp_path / "out", "after_ps=1")


def test_a_simulation_at_constant_energy_is_compared_at_its_kinetic_temperature(simulation, dataset, tmp_path):
    """Started at 300 K, it came to be near 410 K; the data set has frames at 300 and 400 K."""
    frames = dataset.frames("one")
    warm = dataclasses.replace(frames, temperature=np.where(np.arange(80) < 40, 300.0, 400.0).astype(np.float32))
    data = write_dataset(tmp_path / "data", {"one": warm}, dataset.species_names)
    nve = dataclasses.replace(
        simulation,
        config=SimulateConfig(ensemble="nve", n_replicas=2),
        bath_temperature=np.full((40, 2), 300.0),
        kinetic_temperature=np.where(np.arange(40)[:, None] * 0.2 > 1, [400.0, 420.0], [300.0, 300.0]),
    )
    found = compare_simulation(nve, data, "one", CompareConfig(**FAST, after_ps=1))
    assert (found.temperature_kelvin, found.kinetic_temperature_kelvin) == (400, 410)
    assert "one, 400 K: model 68 frames of 2 replicas at constant energy, kinetic temperature 410 K; reference 40 frames" in found.caption()
    chosen = choose_compared(nve, data, "one", CompareConfig(temperature_kelvin=300))
    np.testing.assert_array_equal(chosen.reference.positions, frames.positions[:40])
    with pytest.raises(UserError, match="one has no frames at 350 K, only at 300, 400 K"):
        choose_compared(nve, data, "one", CompareConfig(temperature_kelvin=350))


def test_the_interval_of_a_distance_holds_what_lies_outside_the_bins(dataset):
    """Bonds half as long again, beyond the last bin, and by a hundredth, less than a bin."""
    reference = dataset.frames("one")
    for factor in (1.5, 1.01):
        model = dataclasses.replace(reference, positions=(np.asarray(reference.positions) * np.float32(factor)))
        bond = compare_distributions(model, reference, CompareConfig(**FAST, block_frames=5), names=("bond",))["bond"]
        assert bond.wasserstein.low <= bond.wasserstein.estimate <= bond.wasserstein.high
        assert bond.outside == (1.0 if factor == 1.5 else 0.0)
        assert bond.wasserstein.estimate == pytest.approx((factor - 1) * bond.reference_mean.estimate, rel=0.02)


def test_values_outside_the_bins_are_told(dataset):
    reference = dataset.frames("one")
    model = dataclasses.replace(reference, positions=(np.asarray(reference.positions) * np.float32(1.5)))
    table = compare_distributions(model, reference, CompareConfig(**FAST)).table()
    assert "bond: 100.0 % of the model's values are outside 2.8 to 4.8 A, and count in the end bins" in table
