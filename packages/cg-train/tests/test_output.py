"""Nothing that a run did not write itself is replaced by it, and a place that cannot be written to is one line."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cg_data.errors import UserError
from cg_train.config import TrainConfig
from cg_train.run import RunResult, run

Make = Callable[..., TrainConfig]

SHORT = "stages=[{train: prior, steps: 6, learning_rate: 0.05}]"


@pytest.fixture(scope="module")
def first(only_prior: Make, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(only_prior(SHORT), tmp_path_factory.mktemp("first") / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_going_on_from_another_run_leaves_a_run_in_the_output_as_it_is(first: RunResult, only_prior: Make, tmp_path: Path) -> None:
    run(only_prior(SHORT, "seed=5"), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="choose another folder"):
        run(only_prior(SHORT), tmp_path / "run", resume=str(first.output))
    assert contents(tmp_path / "run") == before


def test_going_on_from_an_earlier_checkpoint_is_refused_where_later_ones_would_stay(first: RunResult, only_prior: Make) -> None:
    before = contents(first.output)
    with pytest.raises(UserError, match=r"checkpoints after step 4.*choose another folder"):
        run(only_prior(SHORT), first.output, resume=str(first.checkpoints / "4"))
    assert contents(first.output) == before


def test_going_on_in_the_same_folder_by_its_name_is_going_on(first: RunResult, only_prior: Make) -> None:
    assert run(only_prior(SHORT), first.output, resume=str(first.output)).metrics == first.metrics


@pytest.mark.parametrize("resume", [None, "auto"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "bundle/notes.txt", "loss.png", "ensemble.json", "members/0/notes.txt"])
def test_what_lies_in_the_output_is_not_replaced(only_prior: Make, tmp_path: Path, name: str, resume: str | None) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=f"{name.split('/')[0]}: .*choose another folder"):
        run(only_prior(SHORT), tmp_path / "run", resume=resume)
    assert contents(tmp_path / "run") == {name: b"mine"}


def test_a_users_configuration_in_the_output_is_not_replaced_by_the_resolved_one(only_prior: Make, tmp_path: Path) -> None:
    path = tmp_path / "run" / "config.yaml"
    only_prior(SHORT).save(path)
    path.write_text("# why this learning rate\n" + path.read_text())
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"config.yaml: .*choose another folder"):
        run(TrainConfig.load(path), tmp_path / "run", resume="auto")
    assert contents(tmp_path / "run") == {"config.yaml": before}


def test_checkpoints_without_their_configuration_are_not_mixed_with_new_ones(first: RunResult, only_prior: Make, tmp_path: Path) -> None:
    shutil.copytree(first.checkpoints, tmp_path / "run" / "checkpoints")
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="choose another folder"):
        run(only_prior(SHORT, "seed=5"), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(first: RunResult, only_prior: Make, tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    shutil.copy(first.output / "config.yaml", output)
    run(only_prior(SHORT), output, resume="auto")
    shutil.rmtree(output)
    output.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(first.output / name, output)
    (output / "checkpoints").mkdir()
    assert run(only_prior(SHORT), output, resume="auto").metrics == first.metrics


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_an_output_that_is_a_file_is_one_clear_line(only_prior: Make, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        run(only_prior(SHORT), tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_which_another_process_trains_is_refused_and_free_once_that_is_killed(
    first: RunResult, only_prior: Make, tmp_path: Path
) -> None:
    shutil.copytree(first.output, tmp_path / "run")
    hold = f"from cg_data.atomic import keep_out\nwith keep_out({str(tmp_path / 'run')!r}): print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = contents(tmp_path / "run")
        with pytest.raises(UserError, match=r"run: another process is at work in it: wait"):
            run(only_prior(SHORT), tmp_path / "run", resume="auto")
        assert contents(tmp_path / "run") == before
        other.kill()
    assert run(only_prior(SHORT), tmp_path / "run", resume="auto").metrics == first.metrics
    assert not (tmp_path / "run/.lock").exists()
