"""A simulation in LAMMPS as a job: it is queued again before its time limit and when its node is lost, and goes on."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from cg_data.mapping import RESIDUE_SPECIES
from cg_export.lammps.build import build_plugin
from cg_export.lammps.input import LammpsConfig
from cg_export.lammps.run import read_trajectory
from cg_export.lammps.system import make_system
from cg_export.lammps.write import write_lammps
from cg_models.bundle import Bundle
from cg_models.config import ModelConfig
from cg_models.hybrid import build_model
from cg_priors.parameters import PriorParameters, Term

from .virtual_slurm import VirtualSlurm, wait_until
from .workspace import ROOT

SCRIPT = ROOT / "infra" / "slurm" / "lammps.sbatch"
STEPS, EVERY = 20_000, 100


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `write(**options)`: a folder to simulate a chain of springs in."""
    shared = tmp_path_factory.mktemp("lammps")
    build_plugin(shared / "cgplugin.so")
    springs = {"bond": {"force_constant": np.array([5.0]), "length": np.array([3.8])}}
    prior = PriorParameters(RESIDUE_SPECIES, 300.0, {"bond": Term(form="harmonic", weight=1.0)}, springs)
    config = ModelConfig(mode="prior")
    bundle = Bundle(config, RESIDUE_SPECIES, build_model(config, RESIDUE_SPECIES, prior).init(jax.random.key(0)), prior)
    order = np.arange(6, dtype=np.int32)
    helix = np.stack([2.3 * np.cos(order * 1.75), 2.3 * np.sin(order * 1.75), 1.5 * order], axis=1)
    chain = make_system(["GLY"] * 6, helix, order, np.zeros(6, np.int32))

    def write_folder(**options: object) -> Path:
        folder = shared / f"run{len(list(shared.iterdir()))}"
        return write_lammps(bundle, chain, folder, LammpsConfig.model_validate(options), plugin=shared / "cgplugin.so")

    return write_folder


def submit(slurm: VirtualSlurm, folder: Path, log: Path, **environment: str) -> tuple[str, Callable[[], str]]:
    """Return a job that simulates in a folder, and a function that gives its log."""
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"), **environment}
    job = slurm.submit(SCRIPT, folder, options=(f"--output={log}", "--time=10"), environment=environment)
    return job, lambda: log.read_text() if log.exists() else "no log"


def test_a_job_that_nears_its_time_limit_and_then_loses_its_node_makes_every_step(
    slurm: VirtualSlurm, write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write(steps=STEPS, restart_every=EVERY, dump_every=EVERY, thermo_every=EVERY)
    job, text = submit(slurm, folder, tmp_path / "job.log")
    wait_until((folder / "restart.1").exists, 120, text)
    slurm.client("scancel", "--signal=USR1", "--batch", job)
    wait_until((folder / "restart.part2.1").exists, 120, text)
    assert "run.sbatch: queued again (1 of at most 50)" in text()
    assert "run.sbatch: part 2 goes on from restart." in text()
    node = slurm.nodes(job)[job]
    slurm.client("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
    wait_until(lambda: "Restarts=2" in slurm.client("scontrol", "show", "job", job), 60, text)
    assert not (folder / "final.restart").exists()
    slurm.resume(node)
    assert slurm.wait(job, timeout=240) == {job: "COMPLETED"}, text()
    assert "run.sbatch: part 3 goes on from restart.part2." in text()
    frames = read_trajectory(folder, ["xu", "yu", "zu"])
    assert [step for step, _ in frames] == list(range(0, STEPS + 1, EVERY))
    assert np.isfinite([positions for _, positions in frames]).all()


@pytest.mark.parametrize(
    ("restart_every", "most", "reason"), [(0, "50", "this part wrote no restart file"), (EVERY, "0", "CG_MAX_REQUEUES=0")]
)
def test_a_job_that_would_gain_nothing_by_it_is_not_queued_again_and_runs_on(
    restart_every: int, most: str, reason: str, slurm: VirtualSlurm, write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write(steps=STEPS // 2, restart_every=restart_every, dump_every=EVERY)
    job, text = submit(slurm, folder, tmp_path / "job.log", CG_MAX_REQUEUES=most)
    trajectory = folder / "trajectory.lammpstrj"
    wait_until(lambda: trajectory.exists() and trajectory.stat().st_size > 2000, 120, text)
    slurm.client("scancel", "--signal=USR1", "--batch", job)
    assert slurm.wait(job, timeout=120) == {job: "COMPLETED"}, text()
    assert text().count(f"run.sbatch: not queued again: {reason}") == 1
    assert not (folder / "log.part2.lammps").exists()
    assert (folder / "final.restart").exists()
