"""The scripts of infra/slurm on a virtual cluster, and the cluster itself."""

import subprocess
from pathlib import Path

import pytest

from cg_data.atomic import hold
from cg_data.config import PrepareConfig
from cg_data.pipeline import merge, prepare
from cg_data.verify import verify

from .virtual_slurm import VirtualSlurm, is_alive, missing_programs, virtual_slurm, wait_until
from .workspace import ROOT

SCRIPTS = sorted((ROOT / "infra" / "slurm").rglob("*.sbatch"))
SHELL_FILES = [*SCRIPTS, *sorted((ROOT / "infra" / "slurm").rglob("*.sh"))]


def batch_script(folder: Path, body: str) -> Path:
    """Write a batch script whose log stands beside it."""
    script = folder / "job.sbatch"
    script.write_text(f"#!/bin/bash\n#SBATCH --output={folder}/%x-%A_%a.log\n{body}\n")
    return script


def test_virtual_cluster_runs_a_step_on_each_of_its_nodes(slurm: VirtualSlurm) -> None:
    shown = slurm.client("srun", "--nodes=3", "--ntasks-per-node=1", "bash", "-c", "echo $SLURMD_NODENAME of $SLURM_NNODES")
    assert sorted(shown.split("\n")[:3]) == ["n1 of 3", "n2 of 3", "n3 of 3"]


def test_virtual_cluster_runs_an_array_and_tells_failure_from_success(slurm: VirtualSlurm, tmp_path: Path) -> None:
    job = slurm.submit(batch_script(tmp_path, "exit $SLURM_ARRAY_TASK_ID"), options=("--array=0-2",))
    assert slurm.wait(job) == {f"{job}_0": "COMPLETED", f"{job}_1": "FAILED", f"{job}_2": "FAILED"}


def test_virtual_cluster_requeues_a_job_within_seconds(slurm: VirtualSlurm, tmp_path: Path) -> None:
    body = "[ ${SLURM_RESTART_COUNT:-0} -gt 0 ] && exit 0; scontrol requeue $SLURM_JOB_ID; sleep 60"
    job = slurm.submit(batch_script(tmp_path, body), options=("--requeue",))
    assert slurm.wait(job, timeout=40) == {job: "COMPLETED"}


def test_virtual_cluster_leaves_no_process_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    if missing_programs():
        pytest.skip("needs Debian's slurm-wlm and munge (.ci/run installs them)")
    folder = tmp_path_factory.mktemp("s")
    with virtual_slurm(folder, n_nodes=1):
        files = [folder / "slurmd-n1.pid", folder / "slurmctld.pid", folder / "munge" / "pid"]
        processes = [int(path.read_text()) for path in files]
        assert all(map(is_alive, processes))
    assert not any(map(is_alive, processes))


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_shell_files_parse(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_batch_script_is_accepted_by_the_scheduler(script: Path, slurm: VirtualSlurm, tmp_path: Path) -> None:
    """`--test-only` parses every #SBATCH line and asks whether the cluster could run the job."""
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in text
    slurm.client("sbatch", "--test-only", "--nodes=1", f"--chdir={tmp_path}", script, "argument")


def test_array_of_shares_that_loses_a_node_prepares_the_dataset_that_one_process_prepares(slurm: VirtualSlurm, tmp_path: Path) -> None:
    inputs = sorted((ROOT / "examples" / "data" / "mdcath").glob("*.h5"))
    shares, whole = tmp_path / "shares", tmp_path / "whole"
    # The data set exists with one domain, so that a domain of the first share can be held before any task begins.
    prepare(slice_of(inputs[1:2]), shares)
    with hold(shares / "domains", "5awlA00"):
        options = ("--array=0-2", "--cpus-per-task=2", f"--output={tmp_path}/%a.log")
        job = slurm.submit(ROOT / "infra" / "slurm" / "prepare.sbatch", shares, *inputs, "force_map.kind=slice", options=options)

        def describe() -> str:
            return "\n".join([str(slurm.state(job)), *(log.read_text() for log in sorted(tmp_path.glob("*.log")))])

        first, rest = f"{job}_0", {f"{job}_1", f"{job}_2"}
        # Each node has one task; the first is in the middle of its share when its node is lost.
        wait_until((shares / "domains" / "1pinA01").is_dir, 120, describe)
        nodes = slurm.nodes(job)
        assert len(set(nodes.values())) == 3
        slurm.client("scontrol", "update", f"nodename={nodes[first]}", "state=down", "reason=lost")
        wait_until(lambda: slurm.state(job)[first] != "RUNNING", 30, describe)
        assert not (shares / "domains" / "5awlA00").exists()
    slurm.resume(nodes[first])
    assert slurm.wait(job, timeout=120) == dict.fromkeys({first, *rest}, "COMPLETED"), describe()
    assert "Restarts=1" in slurm.client("scontrol", "show", "job", first)
    assert merge(shares).domains == ("1pinA01", "1yrfA00", "2jofA00", "5awlA00")
    assert verify(shares) == []
    prepare(slice_of(inputs), whole)
    assert contents(shares) == contents(whole)


def slice_of(inputs: list[Path]) -> PrepareConfig:
    """Return the configuration that prepares some files with the slice map."""
    return PrepareConfig.parse({"inputs": [str(path) for path in inputs], "force_map": {"kind": "slice"}}, "test")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a dataset but the saved configuration, which names the inputs of the call."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "config.yaml"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
