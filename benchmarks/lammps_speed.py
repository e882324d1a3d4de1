"""Steps per second of LAMMPS with pair style `cg`: against the jax-md loop, by size, by ranks, with native priors.

    uv run benchmarks/lammps_speed.py BUNDLE DATASET [--domain 2jofA00] [--seconds 3]

BUNDLE: prior and network (mode hybrid); DATASET: a folder of cg-data prepare with the domain. Systems are copies of one protein in
a periodic box. Ratios are taken within one run; compilation is not counted. About three minutes.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np

from cg_data.store import Dataset, open_dataset
from cg_eval.simulate import SimulateConfig, dataset_start, simulate
from cg_export.artifact import export_artifact
from cg_export.lammps.build import ensure_plugin
from cg_export.lammps.input import LammpsConfig
from cg_export.lammps.run import run_lammps
from cg_export.lammps.system import System, combine, frame_system
from cg_export.lammps.write import write_lammps
from cg_models.bundle import Bundle, load_bundle

SPACING_ANGSTROM = 12.0
TEMPERATURE_KELVIN = 348.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--domain", default="2jofA00")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 5000], help="beads")
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--skip-loop", action="store_true", help="leave out the comparison with the jax-md loop")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    bundle = load_bundle(arguments.bundle)
    dataset = open_dataset(arguments.dataset)
    protein = frame_system(dataset, arguments.domain, 0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export_artifact(bundle, folder / "model", ladder=())
        if not arguments.skip_loop:
            rate, _ = lammps_rate(folder / "single", folder / "model", protein, 1, 1, arguments.seconds)
            loop = jax_md_rate(bundle, dataset, arguments.domain, int(rate * arguments.seconds))
            print(
                f"{protein.n_beads} beads: LAMMPS {rate:.0f} steps/s, jax-md loop {loop:.0f} steps/s, ratio {rate / loop:.2f}", flush=True
            )
        embedded, _ = lammps_rate(folder / "embedded", folder / "model", protein, 5, 1, arguments.seconds)
        native, _ = lammps_rate(folder / "native", bundle, protein, 5, 1, arguments.seconds)
        ratio = native / embedded
        print(f"{5 * protein.n_beads} beads: native priors {native:.0f}, embedded {embedded:.0f} steps/s, ratio {ratio:.2f}", flush=True)
        for size in arguments.sizes:
            for ranks in arguments.ranks:
                copies = size // protein.n_beads
                rate, line = lammps_rate(folder / f"{size}-{ranks}", folder / "model", protein, copies, ranks, arguments.seconds)
                print(f"{size} beads, {ranks} rank(s): {rate:.2f} steps/s; {line}", flush=True)


def lammps_rate(folder: Path, model: Bundle | Path, protein: System, copies: int, ranks: int, seconds: float) -> tuple[float, str]:
    """Return steps per second and the plugin's line about the time of runtime and bridge."""
    extent = float(np.ptp(combine([protein] * copies, SPACING_ANGSTROM).positions, axis=0).max())
    config = LammpsConfig(
        copies=copies,
        copy_spacing_angstrom=SPACING_ANGSTROM,
        box_angstrom=extent + SPACING_ANGSTROM,
        temperature_kelvin=TEMPERATURE_KELVIN,
        thermo_every=1000,
        dump_every=1_000_000,
        priors="native" if isinstance(model, Bundle) else "embedded",
    )
    write_lammps(model, protein, folder, config)
    text = (folder / "in.lammps").read_text()
    # The first run compiles for the numbers of edges that occur; the second stops after the given time.
    runs = f"run 20\ntimer timeout 0:00:{seconds:02.0f} every 5\nrun 1000000\n"
    (folder / "in.lammps").write_text(text.replace("run             ${steps}\n", runs).replace("write_restart   final.restart\n", ""))
    run = run_lammps(folder, ranks=ranks)
    lines = [line for line in run.log.read_text().splitlines() if "evaluations" in line]
    return run.steps_per_second, lines[-1].split("evaluations, ")[-1]


def jax_md_rate(bundle: Bundle, dataset: Dataset, domain: str, n_steps: int) -> float:
    """Return steps per second of one replica, by the difference of a long and a short run: the compilation cancels."""
    rates = []
    for length in (500, 500 * max(n_steps // 500, 2)):
        config = SimulateConfig(
            n_replicas=1, n_steps=length, save_every_steps=500, time_step_ps=0.004, temperature_kelvin=TEMPERATURE_KELVIN
        )
        simulation = simulate(bundle, dataset_start(bundle, dataset, domain, config), config)
        rates.append((length, length / simulation.replica_steps_per_second))
    (short, short_seconds), (long, long_seconds) = rates
    return (long - short) / (long_seconds - short_seconds)


if __name__ == "__main__":
    ensure_plugin()
    main()
