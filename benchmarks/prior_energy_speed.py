"""Energy and forces of all terms of a prior for 1,000 beads, against LAMMPS's own styles for the same terms, on one core.

    uv run benchmarks/prior_energy_speed.py [--copies 50] [--steps 2000]

The system is a lattice of Trp-cage copies (20 beads each, from the tests of cg-priors). LAMMPS runs what `cg-priors export
--format lammps` writes: harmonic bonds, tabulated angles, Fourier dihedrals, tabulated excluded volume (as bonds) and repulsion
(as a pair table); its time is that of its Bond and Pair sections per step, neighbour lists and integration left out. Ours is the
jitted energy and gradient, called step after step from compiled code as in a simulation, on an edge list of the cutoff plus LAMMPS's
skin of 2 angstrom. Both on the same core (taskset), alternating, the fastest of three runs each.
"""

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.topology import frame_graph
from cg_priors.config import PriorConfig
from cg_priors.energy import prior_energy
from cg_priors.export_lammps import export_lammps
from cg_priors.fit import fit
from cg_priors.inputs import read_frames

SKIN_ANGSTROM = 2.0
CORE = 0
SPACING_ANGSTROM = 16.0
DATA = Path(__file__).parents[1] / "packages" / "cg-priors" / "tests" / "data" / "2jofA00.npz"


def lattice(frames, copies):
    """Return one frame of `copies` copies of the first frame of a molecule side by side, each a segment of its own."""
    side = int(np.ceil(copies ** (1 / 3)))
    places = SPACING_ANGSTROM * np.array([(i % side, i // side % side, i // side**2) for i in range(copies)], np.float32)
    one = frames.positions[0] - frames.positions[0].mean(0)
    n = frames.n_beads
    return BeadFrames(
        positions=(one + places[:, None]).reshape(1, copies * n, 3).astype(np.float32),
        forces=None,
        species=np.tile(frames.species, copies),
        residue_index=np.tile(frames.residue_index, copies),
        chain_index=np.repeat(np.arange(copies, dtype=np.int32), n),
        temperature=frames.temperature[:1],
        trajectory=frames.trajectory[:1],
    )


def lammps_seconds(folder, steps):
    """Return seconds per step of the Bond and the Pair section, and of the whole loop."""
    program = shutil.which("lmp", path=str(Path(sys.executable).parent)) or "lmp"
    text = (folder / "in.prior").read_text()
    text = text.split("thermo_style")[0] + f"timestep 0.5\nfix 1 all nve\nthermo {steps}\nrun {steps}\n"
    (folder / "in.speed").write_text(text)
    done = subprocess.run([program, "-in", "in.speed", "-log", "none"], cwd=folder, capture_output=True, text=True, check=True)
    times = {name: float(re.search(rf"^{name}\s*\|\s*([\d.e+-]+)", done.stdout, re.MULTILINE)[1]) for name in ("Pair", "Bond")}
    loop = float(re.search(r"Loop time of ([\d.e+-]+)", done.stdout)[1])
    return times["Bond"] / steps, times["Pair"] / steps, loop / steps


def our_seconds(prior, frames, steps, terms=None):
    """Return seconds per step of the energy and its gradient."""
    chosen = prior if terms is None else dataclasses.replace(prior, terms={name: prior.terms[name] for name in terms})
    cutoff = prior.cutoff_angstrom + SKIN_ANGSTROM
    graph = frame_graph(frames.positions[0], frames.species, frames.residue_index, frames.chain_index, cutoff)
    energy = prior_energy(chosen)
    arrays = {name: jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), prior.arrays[name]) for name in chosen.terms}
    gradient = jax.value_and_grad(lambda x: energy(arrays, dataclasses.replace(graph, positions=x)).sum())

    @jax.jit
    def run(x):
        def step(_, carried):
            x, total = carried
            value, slope = gradient(x)
            return x - 1e-6 * slope, total + value

        return jax.lax.fori_loop(0, steps, step, (x, jnp.zeros(())))

    x = jnp.asarray(frames.positions[0])
    jax.block_until_ready(run(x))
    started = time.perf_counter()
    jax.block_until_ready(run(x))
    return (time.perf_counter() - started) / steps, len(graph.senders)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--by-term", action="store_true", help="Also each of our terms alone.")
    options = parser.parse_args()
    os.sched_setaffinity(0, {CORE})  # Inherited by LAMMPS, and by the threads that JAX starts at its first computation.
    (frames,), species = read_frames(DATA)
    prior = fit([frames], PriorConfig(bootstrap_samples=0), species)
    system = lattice(frames, options.copies)
    with tempfile.TemporaryDirectory() as folder:
        export_lammps(Path(folder) / "export", prior, system)
        theirs, ours = [], []
        for _ in range(3):
            theirs.append(lammps_seconds(Path(folder) / "export", options.steps))
            ours.append(our_seconds(prior, system, options.steps))
    bond, pair, loop = min(theirs, key=lambda each: each[0] + each[1])
    mine, n_edges = min(ours)
    print(f"{system.n_beads} beads, {n_edges} edges (both directions) within {prior.cutoff_angstrom + SKIN_ANGSTROM:g} angstrom, one core")
    print(f"LAMMPS: Bond {1e6 * bond:.0f} + Pair {1e6 * pair:.0f} = {1e6 * (bond + pair):.0f} us per step (whole loop {1e6 * loop:.0f} us)")
    print(f"ours, energy and forces of all terms, float32: {1e6 * mine:.0f} us per step")
    print(f"ours / LAMMPS: {mine / (bond + pair):.2f}")
    if options.by_term:
        for name in prior.terms:
            print(f"  {name:16s}{1e6 * our_seconds(prior, system, options.steps, [name])[0]:8.0f} us")


if __name__ == "__main__":
    main()
