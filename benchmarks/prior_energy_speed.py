"""Energy and forces of all terms of a prior for 1,000 beads, against LAMMPS's own styles for the same terms, on one core.

    uv run benchmarks/prior_energy_speed.py [--copies 50] [--steps 2000]

The system is a lattice of Trp-cage copies (20 beads each, from the tests of cg-priors). LAMMPS runs what `cg-priors export
--format lammps` writes: harmonic bonds, tabulated angles, Fourier dihedrals, tabulated excluded volume (as bonds) and repulsion
(as a pair table); its time is that of its Bond and Pair sections per step, neighbour lists and integration left out. Ours is
`prior_energy` and its gradient, called step after step from compiled code as in a simulation: on an edge list of the cutoff plus
LAMMPS's skin of 2 angstrom that stays as it is, as LAMMPS's does between rebuilds; on edges that are arguments, as in cg-eval's
dynamics, which rebuilds them in every step and needs no skin; and with all of the graph as arguments, as exported. Both on the
same core, alternating, the fastest of three runs each, in time of the processor (LAMMPS's sections: seconds times its CPU use).
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
EDGES = ("senders", "receivers", "edge_mask")
OTHERS = ("species", "residue_index", "chain_index", "bonds", "bond_mask", "angles", "angle_mask", "dihedrals", "dihedral_mask")
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
    """Return seconds of processor per step of the Bond and the Pair section, and of the whole loop."""
    program = shutil.which("lmp", path=str(Path(sys.executable).parent)) or "lmp"
    text = (folder / "in.prior").read_text()
    text = text.split("thermo_style")[0] + f"timestep 0.5\nfix 1 all nve\nthermo {steps}\nrun {steps}\n"
    (folder / "in.speed").write_text(text)
    done = subprocess.run([program, "-in", "in.speed", "-log", "none"], cwd=folder, capture_output=True, text=True, check=True)
    times = {name: float(re.search(rf"^{name}\s*\|\s*([\d.e+-]+)", done.stdout, re.MULTILINE)[1]) for name in ("Pair", "Bond")}
    loop = float(re.search(r"Loop time of ([\d.e+-]+)", done.stdout)[1])
    share = min(1.0, float(re.search(r"([\d.]+)% CPU use", done.stdout)[1]) / 100)
    return tuple(share * seconds / steps for seconds in (times["Bond"], times["Pair"], loop))


def graph_within(frames, distance):
    """Return the graph of the first frame with its edges up to a distance in angstrom."""
    return frame_graph(frames.positions[0], frames.species, frames.residue_index, frames.chain_index, distance)


class Ours:
    """Seconds of processor per step of the energy and its gradient; `fields` of the graph are arguments of the compiled function."""

    def __init__(self, prior, graph, steps, fields=(), terms=None):
        chosen = prior if terms is None else dataclasses.replace(prior, terms={name: prior.terms[name] for name in terms})
        energy = prior_energy(chosen)
        arrays = {name: jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), prior.arrays[name]) for name in chosen.terms}

        def run(x, changing):
            gradient = jax.value_and_grad(lambda x: energy(arrays, dataclasses.replace(graph, positions=x, **changing)).sum())

            def step(_, carried):
                x, total = carried
                value, slope = gradient(x)
                return x - 1e-6 * slope, total + value

            return jax.lax.fori_loop(0, steps, step, (x, jnp.zeros(())))

        self.steps = steps
        self.arguments = (jnp.asarray(graph.positions), {name: jnp.asarray(getattr(graph, name)) for name in fields})
        self.run = jax.jit(run)
        jax.block_until_ready(self.run(*self.arguments))

    def seconds(self):
        started = time.process_time()
        jax.block_until_ready(self.run(*self.arguments))
        return (time.process_time() - started) / self.steps


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
    near, far = (graph_within(system, prior.cutoff_angstrom + skin) for skin in (0, SKIN_ANGSTROM))
    ways = {
        f"{len(far.senders)} edges with skin, fixed": Ours(prior, far, options.steps),
        f"{len(near.senders)} edges without skin as arguments": Ours(prior, near, options.steps, EDGES),
        f"{len(near.senders)} edges without skin and all else as arguments": Ours(prior, near, options.steps, EDGES + OTHERS),
    }
    theirs, ours = [], {label: [] for label in ways}
    with tempfile.TemporaryDirectory() as folder:
        export_lammps(Path(folder) / "export", prior, system)
        for _ in range(3):
            theirs.append(lammps_seconds(Path(folder) / "export", options.steps))
            for label, way in ways.items():
                ours[label].append(way.seconds())
    bond, pair, loop = min(theirs, key=lambda each: each[0] + each[1])
    print(f"{system.n_beads} beads, energy and forces of all terms, one core, microseconds per step")
    print(f"LAMMPS: Bond {1e6 * bond:.0f} + Pair {1e6 * pair:.0f} = {1e6 * (bond + pair):.0f} (whole loop {1e6 * loop:.0f})")
    for label, seconds in ours.items():
        ratio = min(seconds) / (bond + pair)
        print(f"ours, float32, {label}: {1e6 * min(seconds):.0f}; ours / LAMMPS {ratio:.2f}, / its Bond alone {min(seconds) / bond:.2f}")
    if options.by_term:
        for name in prior.terms:
            print(f"  {name:16s}{1e6 * Ours(prior, far, options.steps, terms=[name]).seconds():8.0f}")


if __name__ == "__main__":
    main()
