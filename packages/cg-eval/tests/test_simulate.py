"""What the command line takes for the same simulation, and where it may write."""

import dataclasses
import json

import h5py
import jax
import pytest
from typer.testing import CliRunner

from cg_data.errors import UserError
from cg_eval.cli import app
from cg_eval.compare import CompareConfig
from cg_eval.ensemble import EnsembleConfig
from cg_eval.forces import ForcesConfig
from cg_eval.recorder import alone_in
from cg_eval.simulate import SimulateConfig, dataset_start, simulate
from cg_eval.simulation import load_simulation
from cg_models.bundle import save_bundle

OPTIONS = ["part=prior", "n_steps=4", "save_every_steps=2", "n_replicas=2"]


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_finished_simulation_of_another_model_is_not_taken_for_this_one(prior_bundle, bundle_folder, dataset, tmp_path, monkeypatch):
    other = dataclasses.replace(prior_bundle, params=jax.tree.map(lambda leaf: 1.01 * leaf, prior_bundle.params))
    save_bundle(tmp_path / "other", other)
    arguments = (dataset.path, "-o", tmp_path / "md", "--domain", "one", *OPTIONS)
    call("simulate", bundle_folder, *arguments)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "local_device_count", lambda: 7)
        assert "simulated already" in call("simulate", bundle_folder, *arguments)
    with pytest.raises(UserError, match=f"one: holds a simulation of another model or start .made with {bundle_folder}.: choose another"):
        call("simulate", tmp_path / "other", *arguments)
    assert json.loads((tmp_path / "md/one/summary.json").read_text())["model"] == str(bundle_folder)
    assert f"model {bundle_folder}" in (tmp_path / "md/one/summary.txt").read_text()

    with h5py.File(tmp_path / "md/one/simulation.h5", "a") as file:
        del file.attrs["identity"], file.attrs["model"]
    assert load_simulation(tmp_path / "md/one").identity == ""
    with pytest.raises(UserError, match="earlier version, which did not note of which model: choose another folder"):
        call("simulate", bundle_folder, *arguments)


def test_an_unfinished_simulation_says_what_keeps_it_from_going_on(prior_bundle, dataset, tmp_path, monkeypatch):
    config = SimulateConfig.load(None, [*OPTIONS, "checkpoint_every_frames=1"])
    start, record = dataset_start(prior_bundle, dataset, "one", config), tmp_path / "one.unfinished"

    def go_on(**changes):
        return simulate(prior_bundle, start, config.model_copy(update=changes), record=record)

    go_on()
    with pytest.raises(UserError, match="other options, another model or another start"):
        go_on(seed=1)
    n_devices = jax.local_device_count()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "local_device_count", lambda: n_devices + 1)
        with pytest.raises(UserError, match=rf"on {n_devices} devices?, and now there are {n_devices + 1}.*taskset"):
            go_on()
    state = record / "state.npz"
    whole = state.read_bytes()
    for left in (whole[: len(whole) // 2], b""):
        state.write_bytes(left)
        with pytest.raises(UserError, match=r"cannot be read .*: remove it to simulate from the start"):
            go_on()


def test_a_second_process_is_kept_out_of_a_simulation_at_work(bundle_folder, dataset, tmp_path):
    """And what a simulation leaves that was refused is nothing."""
    arguments = ("simulate", bundle_folder, dataset.path, "-o", tmp_path / "md", "--domain", "one", *OPTIONS)
    with alone_in(tmp_path / "md/one.unfinished"), pytest.raises(UserError, match=r"one\.unfinished: another process is at work in it"):
        call(*arguments)
    with pytest.raises(UserError, match="outside the physical range"):
        call(*arguments, "physical_range.largest_bond_angstrom=2.4")
    assert not list((tmp_path / "md").iterdir())
    call(*arguments)
    assert [path.name for path in (tmp_path / "md").iterdir()] == ["one"]
    assert (tmp_path / "md/one/simulation.png").stat().st_size > 0


def test_the_rate_of_a_simulation_that_went_on_is_that_of_all_its_steps(prior_bundle, dataset, tmp_path):
    """Killed after the last step, before the result was written: nothing is left to simulate, or to time."""
    config = SimulateConfig.load(None, [*OPTIONS, "checkpoint_every_frames=1"])
    start = dataset_start(prior_bundle, dataset, "one", config)
    first, second = (simulate(prior_bundle, start, config, record=tmp_path / "record") for _ in range(2))
    assert second.replica_steps_per_second > 0.3 * first.replica_steps_per_second


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
@pytest.mark.parametrize("options", [ForcesConfig, SimulateConfig, CompareConfig, EnsembleConfig])
def test_a_seed_that_no_generator_takes_is_refused(options, seed):
    with pytest.raises(UserError, match=f"seed={seed}': seed: Input should be"):
        options.load(None, [f"seed={seed}"])


@pytest.mark.parametrize("output", ["file", "file/deeper", "/proc/none"])
@pytest.mark.parametrize("verb", ["simulate", "forces"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(verb, output, bundle_folder, dataset, tmp_path, monkeypatch):
    def work(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("cg_eval.simulate.simulate", work)
    monkeypatch.setattr("cg_eval.forces.evaluate_forces", work)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be written|already exists"):
        call(verb, bundle_folder, dataset.path, "-o", tmp_path / output, "part=prior")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_report_is_not_written_over_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"is a folder; expected the HTML file to write, for example .*report\.html"):
        call("report", tmp_path / "forces", "-o", tmp_path)


@pytest.mark.parametrize(
    ("verb", "options"), [("forces", ForcesConfig), ("simulate", SimulateConfig), ("compare", CompareConfig), ("ensemble", EnsembleConfig)]
)
def test_the_template_of_a_verb_holds_its_defaults(verb, options, tmp_path):
    (tmp_path / "options.yaml").write_text(CliRunner().invoke(app, ["template", verb]).stdout)
    assert options.load(tmp_path / "options.yaml") == options()
