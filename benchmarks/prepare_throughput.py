"""Throughput and peak memory of `cg-data prepare`, as a fraction of a bare h5py read of the same bytes.

The domain is made of copies of a shipped protein side by side, each copy in frames of its own, so that bonds, chains and forces are
real. Prints, for the slice and the optimal map, seconds of the bare read over seconds of `prepare` (one process, one thread; processor
time, so that other programs on the machine do not matter), the peak resident memory of the process, and the speed-up in elapsed time by
`--workers` over several such domains.

    uv run benchmarks/prepare_throughput.py                                          # 2,400 atoms x 4 trajectories x 100 frames
    uv run benchmarks/prepare_throughput.py --atoms 8000 --trajectories 25 --frames 450
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

SOURCE = Path(__file__).parents[1] / "examples" / "data" / "mdcath" / "mdcath_dataset_1yrfA00.h5"
SPACING_ANGSTROM = 60.0
ONE_CORE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}


def write_domain(path: Path, domain: str, n_atoms: int, n_trajectories: int, n_frames: int) -> int:
    """Write a file in mdCATH layout; return its number of atoms."""
    with h5py.File(SOURCE) as source:
        group = source["1yrfA00"]
        atoms = {name: group[name][()] for name in ("element", "resname", "resid", "z")}
        lines = [line for line in group["pdbProteinAtoms"][()].decode().splitlines() if line.startswith("ATOM")]
        frames = {name: group[f"348/0/{name}"][()] for name in ("coords", "forces")}
    copies = max(1, round(n_atoms / len(lines)))
    text = h5py.string_dtype("utf-8")
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        target = file.create_group(domain)
        for name, values in atoms.items():
            target.create_dataset(name, data=np.tile(values, copies), dtype=text if values.dtype == object else None)
        target.create_dataset("chain", data=np.repeat([str(i) for i in range(copies)], len(lines)).astype(object), dtype=text)
        target.create_dataset("pdbProteinAtoms", data="\n".join(lines * copies).encode())
        for trajectory in range(n_trajectories):
            run = target.create_group(f"{(320, 348, 379, 413, 450)[trajectory % 5]}/{trajectory // 5}")
            shape = (n_frames, copies * len(lines), 3)
            options = {"dtype": "f4", "compression": "gzip", "compression_opts": 1, "shuffle": True, "chunks": (min(50, n_frames), 1000, 3)}
            arrays = {name: run.create_dataset(name, shape, **options) for name in frames}
            for copy in range(copies):
                chosen = random.integers(len(frames["coords"]), size=n_frames)
                atoms_here = slice(copy * len(lines), (copy + 1) * len(lines))
                shift = np.float32(SPACING_ANGSTROM) * np.array([copy % 4, copy // 4, 0], np.float32)
                arrays["coords"][:, atoms_here] = frames["coords"][chosen] + shift
                arrays["forces"][:, atoms_here] = frames["forces"][chosen]
            run.create_dataset("box", data=np.eye(3, dtype="f4") * 100)
    return copies * len(lines)


def bare_read(path: Path) -> float:
    """Return processor seconds to read coords and forces of all trajectories, in blocks, and drop them."""
    start = time.process_time()
    with h5py.File(path) as file:
        (group,) = file.values()
        for replicas in group.values():
            for run in replicas.values() if isinstance(replicas, h5py.Group) else ():
                for name in ("coords", "forces"):
                    for frame in range(0, len(run[name]), 50):
                        run[name][frame : frame + 50]
    return time.process_time() - start


def prepare(inputs: list[Path], output: Path, *options: str) -> tuple[float, float, float]:
    """Run `cg-data prepare` in a process of its own; return processor seconds, elapsed seconds, peak memory in MB."""
    program = (
        "import sys, time, resource\n"
        "from cg_data.config import PrepareConfig\n"
        "from cg_data.pipeline import prepare\n"
        "start, used = time.perf_counter(), time.process_time()\n"
        "prepare(PrepareConfig.load(None, sys.argv[2:]), sys.argv[1])\n"
        "print(time.process_time() - used, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)\n"
    )
    command = [sys.executable, "-c", program, str(output), f"inputs={[str(path) for path in inputs]}", *options]
    done = subprocess.run(command, env={**os.environ, **ONE_CORE}, capture_output=True, text=True, check=True)
    used, elapsed, megabytes = map(float, done.stdout.split())
    return used, elapsed, megabytes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=2400)
    parser.add_argument("--trajectories", type=int, default=4)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2, help="processes of the scaling run over as many domains; 0 skips it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "mdcath_dataset_1bigA00.h5"
        n_atoms = write_domain(path, "1bigA00", arguments.atoms, arguments.trajectories, arguments.frames)
        n_frames = arguments.trajectories * arguments.frames
        megabytes = n_atoms * n_frames * 24 / 1e6
        print(f"{n_atoms} atoms x {n_frames} frames: {megabytes:.0f} MB of positions and forces, {path.stat().st_size / 1e6:.0f} MB file")
        read = min(bare_read(path), bare_read(path))
        print(f"bare h5py read           {read:8.1f} s  {megabytes / read:7.0f} MB/s")
        for kind in ("slice", "optimal"):
            seconds, _, peak = prepare([path], folder / kind, f"force_map.kind={kind}")
            speed = f"{megabytes / seconds:7.0f} MB/s  {read / seconds:5.2f} of the read"
            print(f"prepare, {kind:15s} {seconds:8.1f} s  {speed}  peak {peak:.0f} MB", flush=True)
        if arguments.workers > 1:
            files = []
            for i in range(2 * arguments.workers):
                files.append(folder / f"mdcath_dataset_{i}bigA00.h5")
                write_domain(files[-1], f"{i}bigA00", arguments.atoms, arguments.trajectories, arguments.frames)
            _, alone, _ = prepare(files, folder / "alone")
            _, together, _ = prepare(files, folder / "together", f"workers={arguments.workers}")
            workers = f"{together:.1f} s with {arguments.workers} workers"
            print(f"{len(files)} domains: {alone:.1f} s alone, {workers}: {alone / together:.2f} times")


if __name__ == "__main__":
    main()
