"""Does a fit of many frames stream? Seconds, and peak resident memory, of `cg-priors fit` against a bare read of the same file.

    uv run benchmarks/prior_fit_streaming.py                       # 1,000,000 frames x 100 beads: 1.2 GB of positions
    uv run benchmarks/prior_fit_streaming.py --frames 50000 --keys residue
    uv run benchmarks/prior_fit_streaming.py --disk 250 500 1000   # MB/s that the disk is held to; root, blkio of cgroup version 1

Writes a dataset folder of ten domains, five trajectories each, into a temporary folder: walks with protein-like bonds, angles and
dihedrals, the same two thousand conformations over and over in another order. Files are taken out of the page cache before each
timed step, so reading means reading from the disk. The fit runs in processes of its own, on one core and on all, with every default
of `cg-priors fit`: order chosen by cross-validation, 20 bootstrap resamples. Its time is all that happens between the imports of the
program and the written file, compilation included; Python's own byte code is there already, as in any second run. The bare read
is the faster of one before and one after.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.mapping import RESIDUE_SPECIES
from cg_data.split import SplitConfig
from cg_data.store import DomainData, write_domain, write_index

N_DOMAINS, N_TRAJECTORIES, N_CONFORMATIONS = 10, 5, 2000


def conformations(random: np.random.Generator, n: int, n_beads: int) -> np.ndarray:
    """Return chains [n, n_beads, 3], angstrom, with bonds of 3.8 +- 0.06 angstrom, angles and dihedrals of a helix or a strand."""
    x = np.zeros((n, n_beads, 3), np.float32)
    x[:, 1] = [3.8, 0, 0]
    x[:, 2] = [3.8, 3.8, 0]
    for k in range(3, n_beads):
        helix = random.random((n, 1)) < 0.5
        r = random.normal(3.8, 0.06, (n, 1))
        t = np.where(helix, random.normal(1.6, 0.1, (n, 1)), random.normal(2.1, 0.2, (n, 1)))
        p = np.where(helix, random.normal(0.9, 0.2, (n, 1)), random.normal(-2.9, 0.6, (n, 1)))
        b = x[:, k - 1] - x[:, k - 2]
        b /= np.linalg.norm(b, axis=1, keepdims=True)
        normal = np.cross(x[:, k - 2] - x[:, k - 3], b)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        x[:, k] = x[:, k - 1] + r * (-np.cos(t) * b + np.sin(t) * (np.cos(p) * np.cross(normal, b) + np.sin(p) * normal))
    return x


def write(path: Path, n_frames: int, n_beads: int) -> None:
    random = np.random.default_rng(0)
    for number in range(N_DOMAINS):
        n = n_frames // N_DOMAINS
        some = conformations(random, N_CONFORMATIONS, n_beads)
        frames = BeadFrames(
            positions=some[random.integers(N_CONFORMATIONS, size=n)],
            forces=None,
            species=random.integers(len(RESIDUE_SPECIES), size=n_beads).astype(np.int32),
            residue_index=np.arange(n_beads, dtype=np.int32),
            chain_index=np.zeros(n_beads, np.int32),
            temperature=np.full(n, 348, np.float32),
            trajectory=(np.arange(n) * N_TRAJECTORIES // n).astype(np.int32),
        )
        names = [RESIDUE_SPECIES[s] for s in frames.species]
        split = SplitConfig(hold_out_last_replica=False, held_out_trajectory_fraction=0, validation_fraction=0, gap_fraction=0)
        write_domain(path, f"domain{number}", DomainData(frames=frames, residue_names=names), split)
    write_index(path, species_names=RESIDUE_SPECIES, mapping="ca", options={})


def forget(path: Path) -> None:
    """Take all files under a folder out of the page cache."""
    os.sync()
    for file in path.rglob("*.npy"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bare_read(path: Path) -> float:
    """Return seconds to read every array of the folder once, in blocks, and drop them."""
    forget(path)
    started = time.perf_counter()
    for file in path.rglob("*.npy"):
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass
    return time.perf_counter() - started


FIT = """
import json, resource, sys, time
import cg_priors.fit, cg_priors.inputs
from cg_priors.config import PriorConfig
from cg_priors.parameters import save_prior
passing = []
accumulate = cg_priors.fit.accumulate
def timed(*a):
    begun, used = time.perf_counter(), time.process_time()
    result = accumulate(*a)
    passing[:] = time.perf_counter() - begun, time.process_time() - used
    return result
cg_priors.fit.accumulate = timed
before = time.process_time()
opening = time.perf_counter()
frames, species = cg_priors.inputs.read_frames(sys.argv[1])
opened = time.perf_counter()
keys = {name: {"keys": sys.argv[3]} for name in ("bond", "angle", "dihedral", "repulsion", "excluded_volume")}
save_prior(sys.argv[2], cg_priors.fit.fit(frames, PriorConfig.parse(keys, "benchmark"), species))
ended = time.perf_counter()
print(json.dumps({
    "frames": sum(f.n_frames for f in frames), "open": opened - opening, "pass": passing[0], "pass_cpu": passing[1],
    "fits": ended - opened - passing[0], "cpu": time.process_time() - before,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--beads", type=int, default=100)
    parser.add_argument("--keys", choices=("pooled", "residue"), default="pooled")
    parser.add_argument("--disk", type=int, nargs="+", default=[0], help="MB/s that the disk is held to; 0: as it is")
    parser.add_argument("--folder", type=Path, help="Keep the data set here, and use it where it is there.")
    options = parser.parse_args()
    kept = options.folder
    folder = kept or Path(tempfile.mkdtemp(prefix="prior-fit-"))
    try:
        data = folder / "dataset"
        if not (data / "dataset.json").exists():
            write(data, options.frames, options.beads)
        size = sum(file.stat().st_size for file in data.rglob("*.npy"))
        subprocess.run([sys.executable, "-c", "import cg_priors.report, scipy.optimize"], check=True, env=environment(folder))
        print(f"{options.frames:,} frames x {options.beads} beads, {size / 1e9:.2f} GB on disk, keys {options.keys}")
        print(
            "| disk, MB/s | bare read | cores | open | pass over the frames, s (core-ns per bead) | all after | sum | sum / bare read "
            "| processor time | peak memory |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for rate in options.disk:
            with held_disk(data, rate):
                compare(data, folder, options, size)
    finally:
        if kept is None:
            shutil.rmtree(folder)


def compare(data: Path, folder: Path, options: argparse.Namespace, size: int) -> None:
    """Print the rows of one speed of the disk."""
    read = bare_read(data)
    found = {}
    for n_cores in sorted({1, len(os.sched_getaffinity(0))}):
        forget(data)
        found[n_cores] = run_fit(data, folder, options.keys, n_cores)
    read = min(read, bare_read(data))
    for n_cores, one in found.items():
        total = one["open"] + one["pass"] + one["fits"]
        per_bead = 1e9 * one["pass_cpu"] / one["frames"] / options.beads
        print(
            f"| {size / read / 1e6:.0f} | {read:.2f} s | {n_cores} | {one['open']:.2f} s | {one['pass']:.2f} ({per_bead:.0f}) "
            f"| {one['fits']:.2f} s | {total:.2f} s | {total / read:.2f} | {one['cpu']:.2f} s | {one['peak']:.2f} GB |",
            flush=True,
        )


@contextlib.contextmanager
def held_disk(path: Path, megabytes_per_second: int) -> Iterator[None]:
    """Hold this process and those it starts to a rate of reading from the disk of a folder; 0: no limit."""
    if not megabytes_per_second:
        yield
        return
    root = Path("/sys/fs/cgroup/blkio")
    group = root / "prior-fit-streaming"
    device = path.stat().st_dev
    group.mkdir(exist_ok=True)
    try:
        limit = f"{os.major(device)}:{os.minor(device)} {megabytes_per_second * 10**6}"
        (group / "blkio.throttle.read_bps_device").write_text(limit)
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (root / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the fits: JAX on the CPU, byte code kept in a folder."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "JAX_PLATFORMS": "cpu", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def run_fit(data: Path, folder: Path, keys: str, n_cores: int) -> dict[str, float]:
    """Return the times of a fit in a process on the first n_cores."""
    threads = {name: str(n_cores) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:n_cores])
    command = ["taskset", "-c", cores, sys.executable, "-c", FIT, str(data), str(folder / "prior.yaml"), keys]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment(folder), **threads})
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
