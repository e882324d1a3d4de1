"""Throughput and peak memory of `cg-data prepare`, as a fraction of a bare h5py read of the same bytes.

The domain is made of copies of a shipped protein side by side, each copy in frames of its own, so that bonds, chains and forces are
real. Prints, for the slice and the optimal map, seconds of the bare read over seconds of `prepare` (one process, one thread): of
processor time, so that other programs on the machine do not matter, and of elapsed time; the peak resident memory of the process; and
the speed-up in elapsed time by `--workers` over several such domains. Layouts: `gzip`, h5py's compression and chunks where nothing else
is asked for; `fast-gzip`, level 1 in large chunks, the fastest to read; `contiguous`, not compressed, as the generator of mdCATH writes.
`--cold` has the file read from the disk each time, not from the system's cache.

    uv run benchmarks/prepare_throughput.py                                          # 2,400 atoms x 4 trajectories x 100 frames
    uv run benchmarks/prepare_throughput.py --atoms 8000 --trajectories 25 --frames 450 --workers 0 --folder kept
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SOURCE = Path(__file__).parents[1] / "examples" / "data" / "mdcath" / "mdcath_dataset_1yrfA00.h5"
SPACING_ANGSTROM = 60.0
LAYOUTS: dict[str, Callable[[tuple[int, ...]], dict[str, Any]]] = {
    "gzip": lambda chunks: {"compression": "gzip", "shuffle": True},
    "fast-gzip": lambda chunks: {"compression": "gzip", "compression_opts": 1, "shuffle": True, "chunks": chunks},
    "contiguous": lambda chunks: {},
}
ONE_CORE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}


def write_domain(path: Path, domain: str, n_atoms: int, n_trajectories: int, n_frames: int, layout: str) -> None:
    """Write a file in mdCATH layout."""
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
            large_chunks = (min(50, n_frames), min(1000, copies * len(lines)), 3)
            arrays = {name: run.create_dataset(name, shape, "f4", **LAYOUTS[layout](large_chunks)) for name in frames}
            for copy in range(copies):
                chosen = random.integers(len(frames["coords"]), size=n_frames)
                atoms_here = slice(copy * len(lines), (copy + 1) * len(lines))
                shift = np.float32(SPACING_ANGSTROM) * np.array([copy % 4, copy // 4, 0], np.float32)
                arrays["coords"][:, atoms_here] = frames["coords"][chosen] + shift
                arrays["forces"][:, atoms_here] = frames["forces"][chosen]
            run.create_dataset("box", data=np.eye(3, dtype="f4") * 100)


def bare_read(path: Path) -> tuple[float, float, int]:
    """Read coords and forces of all trajectories, in blocks, and drop them; return processor seconds, elapsed seconds, bytes."""
    start, used, n_bytes = time.perf_counter(), time.process_time(), 0
    with h5py.File(path) as file:
        (group,) = file.values()
        for replicas in group.values():
            for run in replicas.values() if isinstance(replicas, h5py.Group) else ():
                for name in ("coords", "forces"):
                    # Whole chunks, so that none is decompressed twice.
                    step = (run[name].chunks or (50,))[0]
                    for frame in range(0, len(run[name]), step):
                        n_bytes += run[name][frame : frame + step].nbytes
    return time.process_time() - used, time.perf_counter() - start, n_bytes


def drop_from_cache(path: Path) -> None:
    """Have the system forget a file's content, so that it is read from the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


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
    parser.add_argument("--layout", choices=LAYOUTS, default="gzip")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the system's cache")
    parser.add_argument("--workers", type=int, default=2, help="processes of the scaling run over as many domains; 0 skips it")
    parser.add_argument("--folder", type=Path, help="keep the files here, and use those that are here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = arguments.folder or folder
        kept.mkdir(parents=True, exist_ok=True)
        measure_one(arguments, kept, folder)
        if arguments.workers > 1:
            measure_workers(arguments, kept, folder)


def made(arguments: argparse.Namespace, kept: Path, number: int) -> Path:
    """Return the file of one domain, made where it is not there."""
    path = kept / f"mdcath_dataset_{number}bigA00.h5"
    if not path.exists():
        write_domain(path, f"{number}bigA00", arguments.atoms, arguments.trajectories, arguments.frames, arguments.layout)
    return path


def measure_one(arguments: argparse.Namespace, kept: Path, folder: Path) -> None:
    """Print the fractions of one domain."""
    path = made(arguments, kept, 1)

    def fresh() -> None:
        if arguments.cold:
            drop_from_cache(path)

    fresh()
    first = bare_read(path)
    fresh()
    used, elapsed, n_bytes = min(first, bare_read(path))
    megabytes = n_bytes / 1e6
    print(f"{megabytes:.0f} MB of positions and forces, {path.stat().st_size / 1e6:.0f} MB file, {arguments.layout}")
    print(f"bare h5py read          processor {used:6.2f} s        elapsed {elapsed:6.2f} s        {megabytes / used:6.0f} MB/s")
    for kind in ("slice", "optimal"):
        fresh()
        ours, ours_elapsed, peak = prepare([path], folder / kind, f"force_map.kind={kind}")
        print(
            f"prepare, {kind:14s} processor {ours:6.2f} s ({used / ours:.2f}) elapsed {ours_elapsed:6.2f} s ({elapsed / ours_elapsed:.2f}) "
            f"{megabytes / ours:6.0f} MB/s, peak {peak:.0f} MB",
            flush=True,
        )


def measure_workers(arguments: argparse.Namespace, kept: Path, folder: Path) -> None:
    """Print the speed-up by several processes over several domains."""
    files = [made(arguments, kept, i) for i in range(1, 2 * arguments.workers + 1)]
    _, alone, _ = prepare(files, folder / "alone")
    _, together, _ = prepare(files, folder / "together", f"workers={arguments.workers}")
    print(f"{len(files)} domains: {alone:.1f} s alone, {together:.1f} s with {arguments.workers} workers: {alone / together:.2f} times")


if __name__ == "__main__":
    main()
