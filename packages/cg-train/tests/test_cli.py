import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cg_data.errors import UserError
from cg_train.cli import app, default_output
from cg_train.config import TrainConfig
from cg_train.template import TEMPLATE


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("verb", ["run", "ensemble", "template"])
def test_help_of_each_verb_ends_with_an_example(verb: str) -> None:
    assert "Example: cg-train" in invoke(verb, "--help").strip().splitlines()[-1]


def test_help_does_not_import_jax() -> None:
    code = "import sys\nfrom typer.testing import CliRunner\nfrom cg_train.cli import app\nCliRunner().invoke(app, ['run', '--help'])\n"
    done = subprocess.run([sys.executable, "-c", f"{code}print('jax' in sys.modules)"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_template_is_the_default_configuration() -> None:
    printed = invoke("template")
    assert printed == TEMPLATE
    values = yaml.safe_load(printed)
    given = TrainConfig.parse(values, "template").to_dict()
    assert given == TrainConfig(dataset="dataset", prior="prior.yaml").to_dict()
    names = set(TrainConfig.model_fields) - {"model"}
    assert names <= set(values)
    for section in ("data", "loss", "energy_reference", "augmentation", "mixed_precision", "validation", "checkpoints", "trackers"):
        assert set(TrainConfig.model_fields[section].annotation.model_fields) == set(values[section])


def test_a_run_without_an_output_goes_where_its_configuration_says() -> None:
    assert default_output(Path("studies/small.yaml")) == Path("runs/small")


def test_an_unknown_key_is_one_line_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="unknown key 'frames_per_bach'; did you mean 'frames_per_batch'"):
        TrainConfig.load(None, ["dataset=d", "prior=p", "frames_per_bach=3"])
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        TrainConfig.load(None, ["dataset=d", "prior=p", "stages=[{learning_rat: 3}]"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("prior=null",), "needs prior"),
        (("model.mode=backbone", "stages=[{train: both}]"), "has no prior"),
        (("model.mode=prior",), "has no backbone"),
        (("stages=[]",), "stages"),
        (("stages=[{epochs: null}]",), "give epochs or steps"),
        (("frames_per_batch=2", "gradient_accumulation=3"), "gradient_accumulation"),
        (("seed=-1",), "seed"),
        (("seed=4294967296",), "seed"),
    ],
)
def test_a_contradiction_is_one_line(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig.load(None, ["dataset=d", "prior=p", *overrides])


def test_a_missing_dataset_is_exit_code_two_without_a_traceback(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    TrainConfig(dataset=str(tmp_path / "none"), prior="p").save(tmp_path / "config.yaml")
    process = start("from cg_train.cli import main; main()", "run", tmp_path / "config.yaml", "-o", tmp_path / "run")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert [line for line in text.splitlines() if line.startswith("error:")] == text.splitlines()[-1:]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [("--processes", "2"), ("--process", "1")])
def test_one_of_several_processes_does_not_run_alone(tmp_path: Path, options: tuple[str, str]) -> None:
    TrainConfig(dataset=str(tmp_path / "none"), prior="p").save(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="--coordinator"):
        invoke("run", str(tmp_path / "config.yaml"), "-o", str(tmp_path / "run"), *options)


@pytest.mark.parametrize("address", ["localhost", "localhost:port", ":29400", "no-such-host.invalid:29400"])
def test_an_address_that_cannot_be_reached_is_one_line_at_once(tmp_path: Path, address: str) -> None:
    TrainConfig(dataset=str(tmp_path / "none"), prior="p").save(tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"coordinator: .*JAX_COORDINATOR_ADDRESS|coordinator: expected HOST:PORT"):
        invoke("run", str(tmp_path / "config.yaml"), "--coordinator", address, "--processes", "2", "--process", "1")


def test_an_ensemble_in_a_step_of_several_tasks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task would train all members by itself, in one folder."""
    TrainConfig(dataset=str(tmp_path / "none"), prior="p").save(tmp_path / "config.yaml")
    for name, value in {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"ensemble: .*one process.*--ntasks=1"):
        invoke("ensemble", str(tmp_path / "config.yaml"), "-o", str(tmp_path / "run"))
