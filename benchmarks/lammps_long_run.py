"""A million steps of Langevin dynamics in LAMMPS: temperature, and distributions against cg-eval's jax-md run of the same bundle.

    uv run benchmarks/lammps_long_run.py BUNDLE DATASET --domain 5awlA00 [--part full] [--steps 1000000] [--out DIR]

Both start from the domain's frames at the same temperature, with the same time step and friction. The first fifth is left out. Errors
are standard errors over blocks of time (LAMMPS: 10; jax-md: 4 for each replica, as long), so they count correlations in time.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from cg_data.store import open_dataset
from cg_eval.observables import radius_of_gyration
from cg_eval.simulate import SimulateConfig, dataset_start, simulate
from cg_export.artifact import export_artifact
from cg_export.lammps.input import LammpsConfig
from cg_export.lammps.run import LammpsRun, read_dump, run_lammps
from cg_export.lammps.system import frame_system
from cg_export.lammps.write import write_lammps
from cg_models.bundle import load_bundle

LEFT_OUT = 0.2
N_BLOCKS, N_REPLICA_BLOCKS = 10, 4
N_BINS = 16
FEMTOSECONDS_PER_STEP = 4.0
SAVED_EVERY = 500
ANYTHING = {"smallest_bond_angstrom": 0.1, "largest_bond_angstrom": 50.0, "smallest_angle_degrees": 0.0, "smallest_distance_angstrom": 0.0}
"""A physical range that stops no replica: LAMMPS stops none either."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--domain", default="5awlA00")
    parser.add_argument("--part", default="full", choices=["full", "prior", "backbone"])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--replica-steps", type=int, default=400_000)
    parser.add_argument("--out", type=Path, default=Path("long-run"))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    bundle, dataset = load_bundle(arguments.bundle), open_dataset(arguments.dataset)
    assert bundle.prior is not None
    kelvin = float(bundle.prior.temperature_kelvin)
    system = frame_system(dataset, arguments.domain, 0)
    model, folder = arguments.out / "model", arguments.out / "lammps"
    if not model.exists():
        export_artifact(bundle, model, part=arguments.part, ladder=())
    if not folder.exists():
        config = LammpsConfig(
            steps=arguments.steps,
            thermo_every=100,
            dump_every=SAVED_EVERY,
            temperature_kelvin=kelvin,
            timestep_femtoseconds=FEMTOSECONDS_PER_STEP,
        )
        write_lammps(model, system, folder, config)
    run = run_lammps(folder)
    of_loop = SimulateConfig(
        part=arguments.part,
        n_replicas=arguments.replicas,
        n_steps=arguments.replica_steps,
        save_every_steps=SAVED_EVERY,
        time_step_ps=FEMTOSECONDS_PER_STEP / 1000,
        temperature_kelvin=kelvin,
        physical_range=ANYTHING,  # type: ignore[arg-type]
    )
    simulation = simulate(bundle, dataset_start(bundle, dataset, arguments.domain, of_loop), of_loop, show_progress=True)
    report(run, folder / "trajectory.lammpstrj", np.asarray(simulation.positions), kelvin)


def report(run: LammpsRun, trajectory: Path, positions: np.ndarray, kelvin: float) -> None:
    """Print the comparison; positions [n_frames, n_replicas, n_beads, 3] of the jax-md run."""
    temperatures = _later(run.thermo["Temp"])
    blocks = np.array([block.mean() for block in np.array_split(temperatures, N_BLOCKS)])
    deviation = 100 * (temperatures.mean() / kelvin - 1)
    print(f"LAMMPS: {run.thermo['Step'][-1]:.0f} steps, finite: {bool(np.isfinite(run.thermo['TotEng']).all())}")
    print(f"temperature {temperatures.mean():.2f} +- {_error(blocks):.2f} K, thermostat at {kelvin:g} K: {deviation:+.2f} %")
    lammps = _later(np.stack([values for _, values in read_dump(trajectory, ["xu", "yu", "zu"])]))
    loop = np.moveaxis(_later(positions.astype(np.float64)), 1, 0)
    compare("Rg, A", radius_of_gyration(lammps), [radius_of_gyration(replica) for replica in loop])
    compare("bonds, A", _bonds(lammps), [_bonds(replica) for replica in loop])


def compare(name: str, lammps: np.ndarray, replicas: list[np.ndarray]) -> None:
    """Print means, standard deviations and the histograms' mean squared difference in units of its standard error."""
    one = np.array_split(lammps, N_BLOCKS)
    other = [block for replica in replicas for block in np.array_split(replica, N_REPLICA_BLOCKS)]
    for what, measure in (("mean", np.mean), ("standard deviation", np.std)):
        a, b = (np.array([measure(block) for block in blocks]) for blocks in (one, other))
        z = (a.mean() - b.mean()) / np.hypot(_error(a), _error(b))
        print(
            f"{name}, {what}: LAMMPS {a.mean():.4f} +- {_error(a):.4f}, jax-md {b.mean():.4f} +- {_error(b):.4f}, {z:+.1f} standard errors"
        )
    pooled = np.concatenate([block.ravel() for block in other])
    low, high = np.quantile(pooled, [0.002, 0.998])
    edges = np.linspace(low, high, N_BINS + 1)
    a, b = (np.array([np.histogram(block, edges)[0] / block.size for block in blocks]) for blocks in (one, other))
    variance = a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b)
    squared = ((a.mean(0) - b.mean(0)) ** 2)[variance > 0] / variance[variance > 0]
    print(f"{name}, histogram of {N_BINS} bins: mean squared difference {squared.mean():.2f} squared standard errors; 1 is expected")


def _later(values: np.ndarray) -> np.ndarray:
    return values[int(LEFT_OUT * len(values)) :]


def _bonds(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(positions, axis=1), axis=-1)


def _error(blocks: np.ndarray) -> float:
    return float(blocks.std(ddof=1) / np.sqrt(len(blocks)))


if __name__ == "__main__":
    main()
