"""Several processes on this machine, as on several nodes."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from cg_models.bundle import load_bundle
from cg_train.config import TrainConfig
from cg_train.distributed import Processes, first_node, slurm_processes
from cg_train.metrics import read_metrics
from cg_train.preemption import EXIT_REQUEUE

Start = Callable[..., subprocess.Popen[str]]
MakeConfig = Callable[..., TrainConfig]

CLI = "from cg_train.cli import main; main()"
FAILING = """
import sys
import cg_train.gradient_stage as stage
if sys.argv[-1] == "1":
    stage.GradientStage._after_step = lambda *_: 1 / 0
from cg_train.cli import main; main()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def begin(
    start: Start, n: int, config: Path, output: Path, *options: str, code: str = CLI, devices: int = 1
) -> list[subprocess.Popen[str]]:
    address = f"127.0.0.1:{free_port()}"
    return [start(code, "run", config, "-o", output, "--coordinator", address, "--processes", n, "--process", i) for i in range(n)]


def finish(processes: list[subprocess.Popen[str]], timeout: float = 240) -> list[tuple[int, str]]:
    end = time.monotonic() + timeout
    try:
        texts = [process.communicate(timeout=max(end - time.monotonic(), 1))[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, texts, strict=True)]


def parameters(output: Path) -> np.ndarray:
    params = load_bundle(output / "bundle").params
    leaves = [np.asarray(leaf).reshape(-1) for group in params.values() for module in group.values() for leaf in module.values()]
    return np.concatenate(leaves).astype(np.float64)


@pytest.fixture(scope="module")
def config(only_prior: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    only_prior("stages=[{train: prior, steps: 150, learning_rate: 0.02}]", "checkpoints.every_steps=100").save(path)
    return path


@pytest.fixture(scope="module")
def alone(start: Start, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "run"
    ((code, text),) = finish([start(CLI, "run", config, "-o", output)])
    assert code == 0, text
    return output


@pytest.mark.parametrize("n_processes", [2, 4])
def test_any_number_of_processes_ends_with_the_same_numbers(
    start: Start, config: Path, alone: Path, tmp_path: Path, n_processes: int
) -> None:
    ends = finish(begin(start, n_processes, config, tmp_path / "run"))
    assert [code for code, _ in ends] == [0] * n_processes, ends
    one, several = parameters(alone), parameters(tmp_path / "run")
    assert np.linalg.norm(several - one) <= 1e-6 * np.linalg.norm(one)
    for first, second in zip(read_metrics(alone / "metrics.jsonl"), read_metrics(tmp_path / "run" / "metrics.jsonl"), strict=True):
        for name in set(first) - {"frames_per_second", "devices"}:
            assert second[name] == pytest.approx(first[name], rel=1e-5)


def test_two_processes_fit_a_prior_by_lbfgs_as_one_does(start: Start, only_prior: MakeConfig, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    only_prior("stages=[{kind: lbfgs, n_frames: 60, max_steps: 15, gradient_norm: 1.0e-9}]").save(config)
    for name, n_processes in (("one", 1), ("two", 2)):
        ends = finish(
            begin(start, n_processes, config, tmp_path / name) if n_processes > 1 else [start(CLI, "run", config, "-o", tmp_path / name)]
        )
        assert [code for code, _ in ends] == [0] * n_processes, ends
    one, two = parameters(tmp_path / "one"), parameters(tmp_path / "two")
    assert np.linalg.norm(two - one) <= 1e-4 * np.linalg.norm(one)
    losses = [
        [record["loss"] for record in read_metrics(tmp_path / name / "metrics.jsonl") if "gradient_norm" in record]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 15
    # On the way a line search makes more of the rounding of sums over two devices; where it ends does not depend on it.
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=1e-6)


def test_a_stop_of_one_process_saves_all_and_one_process_can_go_on(start: Start, config: Path, alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    processes = begin(start, 2, config, output)
    while not any(record["step"] > 10 for record in read_metrics(output / "metrics.jsonl")):
        assert processes[0].poll() is None, processes[0].communicate()[0]
        time.sleep(0.005)
    processes[1].send_signal(signal.SIGTERM)
    ends = finish(processes)
    assert [code for code, _ in ends] == [EXIT_REQUEUE] * 2, ends
    assert "--resume auto" in ends[0][1]
    ((code, text),) = finish([start(CLI, "run", config, "-o", output, "--resume", "auto")])
    assert code == 0, text
    assert np.linalg.norm(parameters(output) - parameters(alone)) <= 1e-6 * np.linalg.norm(parameters(output))
    steps = [record["step"] for record in read_metrics(output / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_an_exception_in_one_process_ends_all_with_one_traceback(start: Start, only_prior: MakeConfig, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    only_prior("stages=[{train: prior, steps: 100000}]").save(config)
    processes = begin(start, 2, config, tmp_path / "run", code=FAILING)
    assert processes[1].wait(timeout=120) == 1
    failed = time.monotonic()
    processes[0].wait(timeout=60)
    assert time.monotonic() - failed < 20
    ends = finish(processes)
    assert all(code != 0 for code, _ in ends)
    assert sum(text.count("ZeroDivisionError") for _, text in ends) == 1
    assert f"[process 1 of 2 on {socket.gethostname()}] ZeroDivisionError: division by zero" in ends[1][1]


def test_a_killed_process_ends_the_others(start: Start, only_prior: MakeConfig, tmp_path: Path) -> None:
    config, output = tmp_path / "config.yaml", tmp_path / "run"
    only_prior("stages=[{train: prior, steps: 100000}]").save(config)
    processes = begin(start, 2, config, output)
    while not read_metrics(output / "metrics.jsonl"):
        assert processes[0].poll() is None, processes[0].communicate()[0]
        time.sleep(0.01)
    processes[1].kill()
    killed = time.monotonic()
    assert processes[0].wait(timeout=60) != 0
    assert time.monotonic() - killed < 20
    finish(processes)


def test_processes_of_unequal_devices_are_one_line_with_their_hosts(start: Start, config: Path, tmp_path: Path) -> None:
    joined = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--process")
    ends = finish([start(CLI, "run", config, "-o", tmp_path / "run", *joined, i, devices=1 + i) for i in (0, 1)])
    assert [code for code, _ in ends] == [2, 2]
    host = socket.gethostname()
    for _, text in ends:
        assert f"error: devices: every process needs as many, JAX found {host}: 1, {host}: 2" in text
        assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


def test_a_taken_port_is_one_clear_line(start: Start, config: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(CLI, "run", config, "-o", tmp_path / "run", "--coordinator", address, "--processes", 2, "--process", 0)
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert text.splitlines()[-1].startswith("error: coordinator: port")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("jwb[0012-0015,0101]", "jwb0012"), ("a[3,5],b1", "a3"), ("x9,a[1-2]", "x9"), ("r[01-02]i", "r01i")],
)
def test_the_first_node_of_a_list_is_found(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        (
            {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "123456", "SLURM_STEP_NODELIST": "n[7-10]"},
            Processes("n7:29856", 4, 3),
        ),
        (
            {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "5", "JAX_COORDINATOR_ADDRESS": "192.0.2.1:1234"},
            Processes("192.0.2.1:1234", 2, 1),
        ),
    ],
)
def test_slurm_says_who_is_who(environment: Mapping[str, str], expected: Processes | None) -> None:
    assert slurm_processes(environment) == expected
