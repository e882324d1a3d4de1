"""The packages meet through folders: the whole path on the smallest protein, by the command lines alone."""

import json
import sys
from pathlib import Path

import jax
import pytest

from cg_data.config import PrepareConfig
from cg_data.pipeline import prepare
from cg_eval.force_field import load_force_field

from .workspace import ROOT, attempt, run

DATA = ROOT / "examples" / "data" / "mdcath" / "mdcath_dataset_5awlA00.h5"
SMALL = [f"model.backbone.{option}" for option in ("layers=1", "l_max=1", "num_features=4", "num_radial=4", "mlp_n_hidden=8")]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every command of the path has run: dataset/, prior.yaml, run/, forces/, artifact/."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "config.yaml").write_text("dataset: dataset\nprior: prior.yaml\n")
    stages = "stages=[{steps: 3}]"
    for command in (
        ["cg-data", "prepare", DATA, "-o", "dataset"],
        ["cg-data", "verify", "dataset"],
        ["cg-priors", "fit", "dataset", "-o", "prior.yaml", "temperature_kelvin=348"],
        ["cg-priors", "check", "prior.yaml"],
        ["cg-train", "run", "config.yaml", "-o", "run", stages, "frames_per_batch=2", "validation.max_frames=4", *SMALL],
        ["cg-eval", "forces", "run/bundle", "dataset", "-o", "forces", "frames=8", "n_resamples=20"],
        ["cg-export", "stablehlo", "run/bundle", "-o", "artifact"],
    ):
        program = Path(sys.executable).parent / command[0]
        run([program, *command[1:]], cwd=folder, environment={"JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}, timeout=300)
    return folder


def test_every_step_writes_what_the_next_one_reads(path: Path) -> None:
    for name in ("dataset/dataset.json", "prior.yaml", "run/bundle/model.yaml", "run/bundle/prior.yaml", "artifact/manifest.json"):
        assert (path / name).is_file(), name
    assert any((path / "forces").iterdir())


def test_every_output_folder_holds_the_resolved_configuration(path: Path) -> None:
    for folder in ("dataset", "run", "forces"):
        assert (path / folder / "config.yaml").is_file(), folder


def test_nothing_unfinished_is_left_beside_the_outputs(path: Path) -> None:
    hidden = [found for found in path.rglob(".*") if found.suffix in (".tmp", ".old", ".lock")]
    assert not hidden


def test_force_errors_of_prior_and_model_are_below_the_zero_model_s(path: Path) -> None:
    """The prior is inverted from these data, so even an untrained network on top of it beats no model at all."""
    rows = json.loads((path / "forces" / "forces.json").read_text())["splits"]["held_out_trajectories"]["rows"]
    assert rows["prior"]["all"]["mse"] < rows["zero"]["all"]["mse"]
    assert rows["full"]["all"]["mse"] < rows["zero"]["all"]["mse"]


def test_every_format_carries_a_version_and_units(path: Path) -> None:
    for name in ("dataset/dataset.json", "prior.yaml", "run/bundle/model.yaml", "artifact/manifest.json"):
        text = (path / name).read_text()
        assert all(word in text for word in ("version", "kcal", "angstrom")), name


def test_a_checkpoint_of_the_run_is_judged_as_its_bundle_is(path: Path) -> None:
    bundle, checkpoint = (load_force_field(path / "run" / part) for part in ("bundle", "checkpoints"))
    assert checkpoint.species_names == bundle.species_names
    assert checkpoint.metrics["step"] == 3
    shapes = [[(name, leaf.shape) for name, leaf in jax.tree_util.tree_leaves_with_path(found.params)] for found in (bundle, checkpoint)]
    assert shapes[0] == shapes[1]


def test_positions_without_forces_make_a_prior_and_are_refused_for_training(tmp_path: Path) -> None:
    options = {"inputs": [str(DATA)], "force_map": {"kind": "none"}, "select": {"max_frames": 60}}
    assert not prepare(PrepareConfig.parse(options, "test"), tmp_path / "dataset").info.has_forces
    (tmp_path / "config.yaml").write_text("dataset: dataset\nprior: prior.yaml\n")
    programs, environment = Path(sys.executable).parent, {"JAX_PLATFORMS": "cpu"}
    run([programs / "cg-priors", "fit", "dataset", "-o", "prior.yaml"], cwd=tmp_path, environment=environment)
    refused = attempt([programs / "cg-train", "run", "config.yaml", "-o", "run"], cwd=tmp_path, environment=environment)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: dataset: domain 5awlA00 has no forces; force matching needs them")
    assert not list((tmp_path / "run").glob("*"))
