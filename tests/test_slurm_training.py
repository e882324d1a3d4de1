"""Training jobs on a virtual cluster of several nodes: pre-emption, requeue, and the end that an undisturbed run has."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.mapping import RESIDUE_SPECIES
from cg_data.store import write_dataset
from cg_priors.parameters import PriorParameters, Term, save_prior
from cg_train.config import TrainConfig

from .virtual_slurm import VirtualSlurm, free_ports, wait_until
from .workspace import ROOT, run

SCRIPT = ROOT / "infra" / "slurm" / "train.sbatch"
N_STEPS = 1500


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


def test_a_preempted_job_of_two_nodes_is_queued_again_and_ends_as_if_undisturbed(slurm: VirtualSlurm, config: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "job.log"
    environment = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_ports(1)[0]}", "JAX_PLATFORMS": "cpu"}
    options = ("--nodes=2", f"--output={log}", "--time=10")
    job = slurm.submit(SCRIPT, config, "-o", output, options=options, environment=environment)
    wait_until(lambda: max(steps(output), default=0) >= 50, 120, lambda: log.read_text() if log.exists() else "no log")
    slurm.client("scancel", "--signal=USR1", job)
    assert slurm.wait(job, timeout=180) == {job: "COMPLETED"}, log.read_text()
    text = log.read_text()
    assert "queued again (1 of at most 50)" in text
    assert "resumed from" in text
    assert steps(output) == sorted(set(steps(output)))
    assert steps(output)[-1] == N_STEPS
    undisturbed = slurm.submit(SCRIPT, config, "-o", tmp_path / "whole", options=options, environment=environment)
    assert slurm.wait(undisturbed, timeout=120) == {undisturbed: "COMPLETED"}, log.read_text()
    parameters = [(folder / "bundle" / "params.safetensors").read_bytes() for folder in (output, tmp_path / "whole")]
    assert parameters[0] == parameters[1]
    program = Path(sys.executable).parent / "cg-train"
    run([program, "run", config, "-o", tmp_path / "alone"], environment={"JAX_PLATFORMS": "cpu"})
    metrics = [json.loads((tmp_path / name / "bundle" / "metrics.json").read_text()) for name in ("whole", "alone")]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)


def test_requeues_end_at_their_cap(slurm: VirtualSlurm, config: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "job.log"
    environment = {"JAX_PLATFORMS": "cpu", "CG_MAX_REQUEUES": "0"}
    job = slurm.submit(SCRIPT, config, "-o", output, options=(f"--output={log}",), environment=environment)
    wait_until(lambda: max(steps(output), default=0) >= 50, 120, lambda: log.read_text() if log.exists() else "no log")
    slurm.client("scancel", "--signal=USR1", job)
    assert slurm.wait(job, timeout=60) == {job: "FAILED"}
    assert "everything is saved" in log.read_text()
