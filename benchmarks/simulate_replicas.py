"""Replica-steps per second of cg-eval against the number of replicas, beside LAMMPS running one replica.

    python benchmarks/simulate_replicas.py BUNDLE DATASET DOMAIN [DOMAIN ...] [--replicas 1 16 64] [--seconds 5] [--part prior]
        [--artifact FOLDER | --no-lammps]

--artifact: where `cg-export stablehlo BUNDLE -o FOLDER` was run before; without, the bundle is exported first, which takes a minute.

Every number is taken after compilation, from blocks of steps that fill `--seconds`; for each domain all rows come from one run,
so the ratios do not depend on the machine's load of another hour.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from cg_data.store import open_dataset
from cg_eval.dynamics import start_motion
from cg_eval.simulate import Runner, SimulateConfig, chain_masses, dataset_start
from cg_models.bundle import load_bundle

BLOCK_SECONDS = 0.5
WARM_STEPS = 2


def replica_steps_per_second(bundle, dataset, domain, n_replicas, seconds, part):
    """Return the rate of `n_replicas` of a domain, side by side."""
    config = SimulateConfig(n_replicas=n_replicas, part=part, temperature_kelvin=348.0, time_step_ps=0.005)
    start = dataset_start(bundle, dataset, domain, config)
    x = np.asarray(start.positions, np.float32)
    masses = chain_masses(bundle, start)
    runner = Runner(bundle.energy_fn(part), bundle.params, bundle.cutoff_angstrom, start, x, masses, config)
    motion = start_motion(x, masses, np.full(n_replicas, 348.0), 0, at_rest=False)
    for _ in range(3):
        began = time.perf_counter()
        motion = jax.block_until_ready(runner.advance(motion, WARM_STEPS))
    block = max(WARM_STEPS, int(WARM_STEPS * BLOCK_SECONDS / (time.perf_counter() - began)))
    rates = []
    finish = time.perf_counter() + seconds
    while time.perf_counter() < finish:
        began = time.perf_counter()
        motion = jax.block_until_ready(runner.advance(motion, block))
        rates.append(block * n_replicas / (time.perf_counter() - began))
    return float(np.median(rates)), int((np.asarray(motion.failure) == 0).sum())


def export(bundle):
    """Return the folder of the model as an artifact."""
    from cg_export.artifact import export_artifact

    folder = Path(tempfile.mkdtemp()) / "artifact"
    with jax.enable_x64(True):
        export_artifact(bundle, folder)
    return folder


def lammps_steps_per_second(artifact, dataset, domain, n_steps):
    """Return the steps per second of one LAMMPS process on the exported model; the pair style is built where it is not."""
    from cg_export.lammps.build import build_plugin
    from cg_export.lammps.input import LammpsConfig
    from cg_export.lammps.run import run_lammps
    from cg_export.lammps.system import frame_system
    from cg_export.lammps.write import write_lammps

    build_plugin()
    folder = Path(tempfile.mkdtemp()) / domain
    config = LammpsConfig(temperature_kelvin=348.0, timestep_femtoseconds=5.0, steps=n_steps, dump_every=10**6)
    write_lammps(artifact, frame_system(dataset, domain, 0), folder, config)
    return run_lammps(folder).steps_per_second


def main():
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("dataset")
    parser.add_argument("domains", nargs="+")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--part", default="full")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--no-lammps", action="store_true")
    options = parser.parse_args()
    bundle, dataset, artifact = load_bundle(options.bundle), open_dataset(options.dataset), options.artifact
    print(f"{'domain':<10}{'beads':>6}{'replicas':>9}{'replica-steps/s':>17}{f'over {min(options.replicas)}':>10}{'over LAMMPS':>13}")
    for domain in options.domains:
        n_beads = dataset.frames(domain).n_beads
        rates = {}
        for n in options.replicas:
            rates[n], alive = replica_steps_per_second(bundle, dataset, domain, n, options.seconds, options.part)
            if alive < n:
                print(f"# {n - alive} of {n} replicas left the physical range")
        lammps = None
        if not options.no_lammps:
            artifact = artifact or export(bundle)
            lammps = lammps_steps_per_second(artifact, dataset, domain, max(50, int(options.seconds * rates[min(rates)])))
            print(f"{domain:<10}{n_beads:>6}{'LAMMPS 1':>9}{lammps:>17.0f}{lammps / rates[min(rates)]:>10.2f}{1.0:>13.2f}")
        for n, rate in rates.items():
            over = f"{rate / lammps:>13.2f}" if lammps else ""
            print(f"{domain:<10}{n_beads:>6}{n:>9}{rate:>17.0f}{rate / rates[min(rates)]:>10.2f}{over}", flush=True)


if __name__ == "__main__":
    main()
