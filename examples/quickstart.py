"""The whole path: all-atom proteins with forces become a coarse-grained force field that runs in LAMMPS.

    uv run examples/quickstart.py [--out DIR]

Three proteins of `examples/data` are learned from, the fourth is held out. Every step is one public function of one package, and
what each writes is what the command lines write; the report at the end is also in DIR/report.txt. About six minutes on two cores.
"""

import argparse
import time
from pathlib import Path

from cg_data.command_line import run_app
from cg_data.config import PrepareConfig
from cg_data.errors import require
from cg_data.pipeline import prepare
from cg_data.store import Dataset
from cg_eval.compare import CompareConfig, Comparison, compare_distributions, reference_frames
from cg_eval.forces import ForceReport, ForcesConfig, evaluate_forces
from cg_eval.simulate import SimulateConfig, dataset_start, simulate
from cg_export.artifact import export_artifact
from cg_export.lammps.build import build_plugin
from cg_export.lammps.input import LammpsConfig
from cg_export.lammps.run import LammpsRun, run_lammps
from cg_export.lammps.system import frame_system
from cg_export.lammps.write import write_lammps
from cg_export.parity import ParityRow, dataset_systems, format_rows, parity
from cg_models.bundle import Bundle, load_bundle
from cg_priors.config import PriorConfig
from cg_priors.fit import fit_dataset
from cg_priors.parameters import save_prior
from cg_train.config import TrainConfig
from cg_train.run import run

DATA = Path(__file__).parent / "data" / "mdcath"
HELD_OUT_DOMAIN = "1pinA01"
SIMULATED_DOMAIN = "2jofA00"
TEMPERATURE_KELVIN = 348.0
EPOCHS = 4.0


def main() -> None:
    """Parse the command line, run the steps, print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("quickstart-out"), help="folder for everything that is written")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="passes over the training frames")
    arguments = parser.parse_args()
    out: Path = arguments.out
    require(not out.exists() or not any(out.iterdir()), f"{out}: expected a new or empty folder: remove it or choose another with --out")
    started = time.monotonic()

    say("1/6  cg-data: all-atom frames and forces to beads")
    dataset = prepare_beads(out / "dataset")
    say("2/6  cg-priors: Boltzmann inversion")
    fit_prior(dataset, out / "prior" / "prior.yaml")
    say("3/6  cg-train: force matching of prior + Allegro")
    bundle = train(out, arguments.epochs)
    say("4/6  cg-eval: forces of held-out frames")
    forces = evaluate_forces(bundle, dataset, ForcesConfig(), show_progress=True)
    forces.save(out / "forces")
    say("5/6  cg-eval: Langevin dynamics of replicas against the all-atom reference")
    comparison = simulate_and_compare(bundle, dataset, out)
    say("6/6  cg-export: StableHLO artifact, LAMMPS plugin, parity, a run in LAMMPS")
    rows, lammps = export_and_run(bundle, dataset, out)

    report = make_report(dataset, forces, comparison, rows, lammps, out, time.monotonic() - started)
    (out / "report.txt").write_text(report)
    print(f"\n{report}")


def say(text: str) -> None:
    """Announce a step."""
    print(f"\n== {text}", flush=True)


def prepare_beads(path: Path) -> Dataset:
    """Return the data set: one bead per residue, forces through the optimal map, one protein held out."""
    config = PrepareConfig.parse({"inputs": [str(DATA)], "split": {"held_out_domains": [HELD_OUT_DOMAIN]}}, "quickstart")
    dataset = prepare(config, path)
    for domain in dataset.domains:
        record = dataset.domain(domain)
        scores = ", ".join(f"{name} {score:.0f}" for name, score in record.force_map.scores.items())
        print(f"{domain}: {record.n_beads} beads, {record.n_frames} frames; held-out mean square force: {scores}")
    return dataset


def fit_prior(dataset: Dataset, path: Path) -> None:
    """Fit the prior on the training frames and save it."""
    prior = fit_dataset(dataset, PriorConfig(temperature_kelvin=TEMPERATURE_KELVIN))
    save_prior(path, prior)
    print(f"{path}: {', '.join(prior.arrays)} at {prior.temperature_kelvin:g} K")


def train(out: Path, epochs: float) -> Bundle:
    """Train the network on what the prior leaves of the forces; return prior and network together."""
    config = TrainConfig.parse(
        {
            "dataset": str(out / "dataset"),
            "prior": str(out / "prior" / "prior.yaml"),
            "frames_per_batch": 8,
            "stages": [{"epochs": epochs, "learning_rate": 4e-3}],
            "validation": {"every_steps": 25},
            "checkpoints": {"every_steps": 100},
            "log_every_steps": 10,
        },
        "quickstart",
    )
    return load_bundle(run(config, out / "training").bundle)


def simulate_and_compare(bundle: Bundle, dataset: Dataset, out: Path) -> Comparison:
    """Simulate replicas of one protein with the force field; compare what they visit with the all-atom frames."""
    config = SimulateConfig(temperature_kelvin=TEMPERATURE_KELVIN, n_replicas=8, n_steps=2000, save_every_steps=20, time_step_ps=0.005)
    simulation = simulate(bundle, dataset_start(bundle, dataset, SIMULATED_DOMAIN, config), config, show_progress=True)
    simulation.save(out / "simulation")
    print(simulation.table())
    settings = CompareConfig(after_ps=2.0)
    reference = reference_frames(dataset, SIMULATED_DOMAIN, TEMPERATURE_KELVIN)
    comparison = compare_distributions(simulation.frames(settings.after_ps), reference, settings, SIMULATED_DOMAIN)
    comparison.save(out / "comparison")
    return comparison


def export_and_run(bundle: Bundle, dataset: Dataset, out: Path) -> tuple[list[ParityRow], LammpsRun]:
    """Export the force field, prove that LAMMPS computes the same forces on every protein, and run one there."""
    import jax

    with jax.enable_x64(True):  # positions and prior are float64 in the artifact; the network stays float32
        export_artifact(bundle, out / "artifact")
        build_plugin()
        rows = parity(bundle, dataset_systems(dataset, (), 2), out / "artifact", ranks=(1, 2))
    (out / "parity.txt").write_text(format_rows(rows) + "\n")
    system = frame_system(dataset, SIMULATED_DOMAIN, 0)
    config = LammpsConfig(temperature_kelvin=TEMPERATURE_KELVIN, steps=5000, thermo_every=50, dump_every=500)
    write_lammps(out / "artifact", system, out / "lammps", config)
    return rows, run_lammps(out / "lammps")


def make_report(
    dataset: Dataset, forces: ForceReport, comparison: Comparison, rows: list[ParityRow], lammps: LammpsRun, out: Path, seconds: float
) -> str:
    """Return the closing table as text."""
    lines = ["Mean square force error, (kcal/mol/A)^2 [95 % bootstrap interval over trajectories and their time blocks]"]
    for name, split in forces.splits.items():
        count = f"{split.n_trajectories} trajector{'y' if split.n_trajectories == 1 else 'ies'}"
        lines.append(f"  {name.replace('_', ' ')}: {', '.join(split.domains)} ({split.n_frames} frames, {count})")
        names = {"zero": "zero model", "prior": "prior", "full": "prior + network"}
        lines += [f"    {names[model]:<34}{split.intervals[model]['mse']}" for model in names]
        lines.append(f"    {'prior minus prior + network':<34}{split.improvements['prior - full']}")
    lines.append(
        f"Distributions of {comparison.domain} in simulation against all-atom: Jensen-Shannon divergence, nat, of at most ln 2 = 0.69"
    )
    for row in comparison.rows:
        lines.append(f"    {row.observable:<34}{row.divergence}, two halves of the reference {row.noise:.3g}")
    worst = max(rows, key=lambda row: row.errors.worst() / row.tolerance)
    verdict = "within" if all(row.passed for row in rows) else "ABOVE"
    found = f"{worst.errors.worst():.1e}, {verdict} {worst.tolerance:.0e} ({worst.name}, {worst.comparison})"
    lines.append("LAMMPS")
    lines.append(f"    {'parity, worst relative error':<34}{found}")
    temperatures = lammps.thermo["Temp"][1:]
    lines.append(
        f"    {'mean temperature':<34}{temperatures.mean():.0f} K over {len(temperatures)} samples; thermostat at {TEMPERATURE_KELVIN:g} K"
    )
    n_beads = dataset.domain(SIMULATED_DOMAIN).n_beads
    lines.append(f"    {'speed':<34}{lammps.steps_per_second:.0f} steps/s ({SIMULATED_DOMAIN}, {n_beads} beads, one rank)")
    lines.append("Written")
    written = {
        "data set": "dataset",
        "prior": "prior/prior.yaml",
        "training: loss, metrics": "training/loss.png",
        "bundle": "training/bundle",
        "force errors: tables, figures": "forces",
        "simulation, comparison: figures": "comparison",
        "artifact": "artifact",
        "LAMMPS input and log": "lammps/log.lammps",
    }
    lines += [f"    {what:<34}{out / path}" for what, path in written.items()]
    lines.append(f"Finished in {seconds / 60:.1f} minutes.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_app(main)
