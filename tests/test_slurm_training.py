"""Training jobs on a virtual cluster of several nodes: signals, a lost node, requeue, and the end that an undisturbed run has.

CG_LONG_TESTS=STEPS adds what the scheduler takes its time for, the signal before a time limit; the steps must take longer than a minute.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.mapping import RESIDUE_SPECIES
from cg_data.store import write_dataset
from cg_priors.parameters import PriorParameters, Term, save_prior
from cg_train.config import TrainConfig

from .virtual_slurm import VirtualSlurm, free_ports, wait_until
from .workspace import ROOT

SCRIPT = ROOT / "infra" / "slurm" / "train.sbatch"
LONG = int(os.environ.get("CG_LONG_TESTS", "0"))
N_STEPS = LONG or 1000


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of springs, trained on chains of two lengths: the mechanics of any run, compiled in a second."""
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    domains = {}
    for name, n_beads in (("1aaaA00", 7), ("2bbbA00", 10)):
        positions = np.cumsum(rng.normal(loc=(3.0, 0.0, 0.0), size=(40, n_beads, 3)), axis=1).astype(np.float32)
        bonds = np.diff(positions, axis=1)
        lengths = np.linalg.norm(bonds, axis=-1, keepdims=True)
        pulls = 6.0 * (lengths - 3.7) * bonds / lengths
        forces = np.pad(pulls, ((0, 0), (0, 1), (0, 0))) - np.pad(pulls, ((0, 0), (1, 0), (0, 0)))
        domains[name] = BeadFrames(
            positions=positions,
            forces=forces.astype(np.float32),
            species=rng.integers(0, 20, n_beads).astype(np.int32),
            residue_index=np.arange(n_beads, dtype=np.int32),
            chain_index=np.zeros(n_beads, np.int32),
            temperature=np.full(40, 300.0, np.float32),
            trajectory=np.zeros(40, np.int32),
        )
    write_dataset(folder / "dataset", domains)
    arrays = {"bond": {"force_constant": np.array([5.0]), "length": np.array([3.6])}}
    save_prior(folder / "prior.yaml", PriorParameters(RESIDUE_SPECIES, 300.0, {"bond": Term(form="harmonic", weight=1.0)}, arrays))
    stage = f"stages=[{{train: prior, steps: {N_STEPS}, learning_rate: 0.001}}]"
    options = ["frames_per_batch=8", "model.mode=prior", "checkpoints.every_steps=100", "log_every_steps=10", stage]
    TrainConfig.load(None, [f"dataset={folder / 'dataset'}", f"prior={folder / 'prior.yaml'}", *options]).save(folder / "config.yaml")
    return folder / "config.yaml"


def steps(output: Path) -> list[int]:
    file = output / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []


@pytest.fixture(scope="module")
def undisturbed(slurm: VirtualSlurm, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a job of two nodes that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = slurm.submit(SCRIPT, config, "-o", folder / "run", options=two_nodes(folder / "job.log"), environment=environment(config))
    assert slurm.wait(job, timeout=240) == {job: "COMPLETED"}, (folder / "job.log").read_text()
    return folder / "run"


def two_nodes(log: Path) -> tuple[str, ...]:
    return ("--nodes=2", f"--output={log}", "--time=10")


def environment(config: Path) -> dict[str, str]:
    """Return what jobs need here: an address, as names of nodes do not resolve, and compiled programs to share."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(config.parent / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    address = f"127.0.0.1:{free_ports(1)[0]}"
    return {"JAX_COORDINATOR_ADDRESS": address, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0", **cache}


@pytest.mark.parametrize(
    "asked_by", ["a signal", pytest.param("the time limit", marks=pytest.mark.skipif(not LONG, reason="CG_LONG_TESTS"))]
)
def test_a_job_of_two_nodes_that_must_stop_and_then_loses_a_node_ends_as_if_undisturbed(
    slurm: VirtualSlurm, config: Path, undisturbed: Path, tmp_path: Path, asked_by: str
) -> None:
    output, log = tmp_path / "run", tmp_path / "job.log"

    def text() -> str:
        return log.read_text() if log.exists() else "no log"

    # The scheduler looks at time limits every 30 s, and so signals 15 to 45 s after the start.
    limits = ("--time=1", "--signal=USR1@45") if asked_by == "the time limit" else ()
    job = slurm.submit(SCRIPT, config, "-o", output, options=(*two_nodes(log), *limits), environment=environment(config))
    if asked_by == "a signal":
        wait_until(lambda: max(steps(output), default=0) >= 50, 120, text)
        slurm.client("scancel", "--signal=USR1", job)
    wait_until(lambda: "queued again (1 of at most 50)" in text(), 120, text)
    slurm.client("scontrol", "update", f"jobid={job}", "timelimit=10")
    saved = max(steps(output))
    assert saved < N_STEPS
    wait_until(lambda: max(steps(output)) > saved + 100, 120, text)
    node = f"n{re.findall('[0-9]+', slurm.nodes(job)[job])[-1]}"
    slurm.client("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
    wait_until(lambda: "Restarts=2" in slurm.client("scontrol", "show", "job", job), 60, text)
    assert max(steps(output)) < N_STEPS
    slurm.resume(node)
    assert slurm.wait(job, timeout=240) == {job: "COMPLETED"}, text()
    assert text().count("resumed from") >= 2
    assert steps(output) == sorted(set(steps(output)))
    assert steps(output)[-1] == N_STEPS
    parameters = [(folder / "bundle" / "params.safetensors").read_bytes() for folder in (output, undisturbed)]
    assert parameters[0] == parameters[1]


def test_requeues_end_at_their_cap(slurm: VirtualSlurm, config: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "job.log"
    capped = {**environment(config), "CG_MAX_REQUEUES": "0"}
    job = slurm.submit(SCRIPT, config, "-o", output, options=(f"--output={log}",), environment=capped)
    wait_until(lambda: max(steps(output), default=0) >= 50, 120, lambda: log.read_text() if log.exists() else "no log")
    slurm.client("scancel", "--signal=USR1", job)
    assert slurm.wait(job, timeout=60) == {job: "FAILED"}
    assert "everything is saved" in log.read_text()
