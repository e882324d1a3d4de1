"""Does a run that is killed at any moment, and resumed, end as if nothing had happened?

    python benchmarks/killed_runs.py FOLDER [KILLS] [PROCESSES]

Trains a prior of springs on chains of two lengths with several processes (2) on this machine; then again KILLS (20) times, each time
killed with SIGKILL at a random moment, every third while a checkpoint is being written, then resumed to the end. Prints, for each,
where it was killed and whether parameters and metrics are those of the uninterrupted run, bit for bit. Killed itself, it goes on.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.mapping import RESIDUE_SPECIES
from cg_data.store import write_dataset
from cg_priors.parameters import PriorParameters, Term, save_prior
from cg_train.config import TrainConfig
from cg_train.metrics import read_metrics

N_STEPS = 250
CLI = "from cg_train.cli import main; main()"
OPTIONS = (
    "model.mode=prior",
    "frames_per_batch=6",
    "log_every_steps=10",
    "validation.every_steps=25",
    "checkpoints.every_steps=20",
    "stages=[{train: prior, steps: 100, learning_rate: 0.05}, {train: prior, steps: 150, optimizer: {kind: yogi}, learning_rate: 0.02}]",
)


def chains(n_beads: int, n_frames: int, seed: int) -> BeadFrames:
    """Return random chains with the forces of their springs and noise."""
    rng = np.random.default_rng(seed)
    positions = np.cumsum(rng.normal(loc=(3.0, 0.0, 0.0), size=(n_frames, n_beads, 3)), axis=1)
    bonds = np.diff(positions, axis=1)
    lengths = np.linalg.norm(bonds, axis=-1, keepdims=True)
    pulls = 6.0 * (lengths - 3.7) * bonds / lengths
    forces = np.pad(pulls, ((0, 0), (0, 1), (0, 0))) - np.pad(pulls, ((0, 0), (1, 0), (0, 0)))
    return BeadFrames(
        positions=positions.astype(np.float32),
        forces=(forces + rng.normal(size=forces.shape)).astype(np.float32),
        species=rng.integers(0, 20, n_beads).astype(np.int32),
        residue_index=np.arange(n_beads, dtype=np.int32),
        chain_index=np.zeros(n_beads, np.int32),
        temperature=np.full(n_frames, 300.0, np.float32),
        trajectory=np.zeros(n_frames, np.int32),
    )


def write_inputs(folder: Path) -> Path:
    """Write data, prior and configuration; return the path of the last."""
    write_dataset(folder / "dataset", {"1aaaA00": chains(7, 60, 0), "2bbbA00": chains(11, 60, 1)}, overwrite=True)
    arrays = {"bond": {"force_constant": np.array([5.0]), "length": np.array([3.6])}}
    save_prior(folder / "prior.yaml", PriorParameters(RESIDUE_SPECIES, 300.0, {"bond": Term(form="harmonic", weight=1.0)}, arrays))
    path = folder / "config.yaml"
    TrainConfig.load(None, [f"dataset={folder / 'dataset'}", f"prior={folder / 'prior.yaml'}", *OPTIONS]).save(path)
    return path


def start(config: Path, output: Path, n_processes: int) -> list[subprocess.Popen[str]]:
    """Start all processes of a run that goes on where it stands."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(config.parent / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **cache, "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0"}
    fixed = ["run", str(config), "-o", str(output), "--resume", "auto", "--coordinator", address, "--processes", str(n_processes)]
    commands = [[sys.executable, "-c", CLI, *fixed, "--process", str(index)] for index in range(n_processes)]
    return [subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for command in commands]


def finish(processes: list[subprocess.Popen[str]]) -> None:
    """Wait for a run to end well."""
    for process in processes:
        text, _ = process.communicate(timeout=300)
        if process.returncode != 0:
            raise RuntimeError(f"a process ended with {process.returncode}:\n{text}")


def kill_when(processes: list[subprocess.Popen[str]], reached: Callable[[], bool], rng: random.Random) -> bool:
    """Kill all processes, in random order, once a moment is reached; return whether that was before they ended by themselves."""
    while not reached() and all(process.poll() is None for process in processes):
        time.sleep(0.0005)
    alive = all(process.poll() is None for process in processes)
    for process in rng.sample(processes, len(processes)):
        process.kill()
        time.sleep(rng.random() * 0.02)
    for process in processes:
        process.communicate()
    return alive


def ends_alike(first: Path, second: Path) -> bool:
    """Return whether two runs have the same parameters and metrics, bit for bit."""
    files = all(
        (first / "bundle" / name).read_bytes() == (second / "bundle" / name).read_bytes() for name in ("params.safetensors", "metrics.json")
    )
    lines = [
        [{name: value for name, value in record.items() if name != "frames_per_second"} for record in read_metrics(run / "metrics.jsonl")]
        for run in (first, second)
    ]
    return files and lines[0] == lines[1]


def main(folder: Path, n_kills: int, n_processes: int) -> None:
    """Kill, resume, compare, print."""
    config, whole, ends = folder / "config.yaml", folder / "whole", folder / "ends.jsonl"
    if not config.exists():
        write_inputs(folder)
    if not (whole / "bundle").exists():
        shutil.rmtree(whole, ignore_errors=True)
        finish(start(config, whole, n_processes))
    done = [json.loads(line) for line in ends.read_text().splitlines()] if ends.exists() else []
    output = folder / "killed"
    while len(done) < n_kills:
        rng = random.Random(len(done))
        shutil.rmtree(output, ignore_errors=True)
        step, late, while_saving = rng.randrange(1, N_STEPS - 10), rng.random() * 0.05, len(done) % 3 == 0
        processes = start(config, output, n_processes)

        def last_step(output: Path = output) -> int:
            records = read_metrics(output / "metrics.jsonl")
            return int(records[-1]["step"]) if records else -1

        def reached(step: int = step, late: float = late, while_saving: bool = while_saving, output: Path = output) -> bool:
            if while_saving:
                return last_step() >= step - 30 and any(output.glob("checkpoints/*tmp*"))
            if last_step() < step - 10:
                return False
            time.sleep(late)
            return True

        alive = kill_when(processes, reached, rng)
        saved = max((int(path.name) for path in output.glob("checkpoints/*") if path.name.isdigit()), default=None)
        torn = [path.name for path in output.glob("checkpoints/*tmp*")]
        about = {"alive": alive, "step": last_step(), "newest_checkpoint": saved, "torn": torn}
        finish(start(config, output, n_processes))
        done.append({**about, "identical": ends_alike(output, whole)})
        with open(ends, "a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(f"kill {len(done):2}: {done[-1]}", flush=True)
    counted = [end for end in done if end["alive"]]
    torn_ones = sum(bool(end["torn"]) for end in counted)
    same = sum(end["identical"] for end in counted)
    print(f"{len(counted)} kills of {n_processes} processes, {torn_ones} while saving: {same} ended bit-identical")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 20, int(sys.argv[3]) if len(sys.argv) > 3 else 2)
