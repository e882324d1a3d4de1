"""Steps per second of LAMMPS with pair style `cg`: against the jax-md loop and the network alone, by size and ranks, with native priors.

    uv run benchmarks/lammps_speed.py BUNDLE DATASET [--parts loop sizes priors] [--sizes 100 1000 5000] [--ranks 1 2] [--seconds 5]

BUNDLE: prior and network (mode hybrid); DATASET: a folder of cg-data prepare with the domain. Systems are copies of one protein in
free space, 12 A apart. Ratios are taken within one run; compilation is not counted. With the default Allegro all parts take about
ten minutes.
"""

import argparse
import dataclasses
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from cg_data.mapping import RESIDUE_SPECIES
from cg_data.store import Dataset, open_dataset
from cg_eval.simulate import SimulateConfig, dataset_start, simulate
from cg_export.artifact import Artifact, export_artifact
from cg_export.lammps.build import ensure_plugin
from cg_export.lammps.input import LammpsConfig
from cg_export.lammps.run import run_lammps
from cg_export.lammps.runtime import ARGUMENTS
from cg_export.lammps.system import System, combine, frame_system
from cg_export.lammps.write import write_lammps
from cg_export.lower import Budget, graph_arguments, pad_arguments
from cg_models.bundle import Bundle, load_bundle

SPACING_ANGSTROM = 12.0
TEMPERATURE_KELVIN = 348.0
N_RUNS = 3
NO_NETWORK = {"hybrid/overlay cg ": "hybrid/overlay zero 10.0 ", "* * cg ${model} " + " ".join(RESIDUE_SPECIES): "* * zero"}
"""Takes the network out of an input with native priors."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--domain", default="2jofA00")
    parser.add_argument("--parts", nargs="*", default=["loop", "sizes", "priors"], choices=["loop", "sizes", "priors"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 5000], help="beads")
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    bundle, dataset = load_bundle(arguments.bundle), open_dataset(arguments.dataset)
    protein = frame_system(dataset, arguments.domain, 0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = folder / "model"
        export_artifact(bundle, model, ladder=())
        if "loop" in arguments.parts:
            compare_with_loop(bundle, dataset, arguments.domain, model, folder, arguments.seconds)
        if "sizes" in arguments.parts:
            for size in arguments.sizes:
                alone = network_alone(model, copies_of(protein, size), arguments.seconds)
                print(f"{size} beads, the artifact alone in Python: {1e3 * alone:.3g} ms", flush=True)
                for ranks in arguments.ranks:
                    run = measure(folder / f"{size}-{ranks}", model, protein, size, ranks, arguments.seconds)
                    step, bridge = 1 / run.rate, run.bridge / run.runtime
                    print(
                        f"{size} beads, {ranks} rank(s): {run.rate:.3g} steps/s; of a step {1e3 * run.runtime:.4g} ms runtime, "
                        f"{1e3 * run.bridge:.3g} ms bridge ({bridge:.2%}); step / artifact alone {step / alone:.2f}",
                        flush=True,
                    )
        if "priors" in arguments.parts:
            export_artifact(bundle, folder / "prior", part="prior", ladder=())
            for size in arguments.sizes:
                compare_priors(bundle, folder, protein, size, arguments.seconds)


def copies_of(protein: System, size: int) -> System:
    """Return the copies of a protein that have `size` beads together."""
    return combine([protein] * (size // protein.n_beads), SPACING_ANGSTROM)


def compare_with_loop(bundle: Bundle, dataset: Dataset, domain: str, model: Path, folder: Path, seconds: float) -> None:
    """Print the speed of one protein against that of cg-eval's jax-md loop."""
    protein = frame_system(dataset, domain, 0)
    rate = measure(folder / "single", model, protein, protein.n_beads, 1, seconds).rate
    loop = jax_md_rate(bundle, dataset, domain, int(rate * seconds))
    print(f"{protein.n_beads} beads: LAMMPS {rate:.0f} steps/s, jax-md loop {loop:.0f} steps/s, ratio {rate / loop:.2f}", flush=True)


def compare_priors(bundle: Bundle, folder: Path, protein: System, size: int, seconds: float) -> None:
    """Print speeds with the prior in the artifact and in LAMMPS's own styles, beside the network and without it."""
    cases = {
        "embedded": measure(folder / f"embedded-{size}", folder / "model", protein, size, 1, seconds),
        "native": measure(folder / f"native-{size}", bundle, protein, size, 1, seconds),
        "embedded alone": measure(folder / f"prior-{size}", folder / "prior", protein, size, 1, seconds),
        "LAMMPS's own styles alone": measure(folder / f"own-{size}", bundle, protein, size, 1, seconds, NO_NETWORK),
    }
    rates = ", ".join(f"{name} {run.rate:.4g} ({1e3 * run.runtime:.3g} ms runtime)" for name, run in cases.items())
    print(f"{size} beads, priors, steps/s: {rates}; native / embedded {cases['native'].rate / cases['embedded'].rate:.2f}", flush=True)


@dataclasses.dataclass(frozen=True)
class Speed:
    """Steps per second of the fastest of three runs, and seconds of a step in the runtime and in the rest of the plugin (rank 0)."""

    rate: float
    runtime: float
    bridge: float


def network_alone(model: Path, system: System, seconds: float) -> float:
    """Return seconds of an evaluation of the artifact by jax here, in the fastest of three runs, padded as the plugin pads."""
    artifact = Artifact(model)
    graph = artifact.graph(system.positions, artifact.manifest.species_index(system.names), system.residue_index, system.chain_index)
    arguments = graph_arguments(graph)
    tuples = (len(arguments[name]) for name in ("bonds", "angles", "dihedrals"))
    padded = pad_arguments(arguments, Budget(graph.n_beads, (len(graph.senders) * 9 // 8 + 8) // 8 * 8, *tuples))
    function = jax.jit(artifact.exported.call, keep_unused=True)
    values = [jax.device_put(padded[name]) for name in ARGUMENTS]
    jax.block_until_ready(function(*values))
    means = []
    for _ in range(N_RUNS):
        start, n = time.perf_counter(), 0
        while time.perf_counter() < start + seconds / N_RUNS:
            jax.block_until_ready(function(*values))
            n += 1
        means.append((time.perf_counter() - start) / n)
    return min(means)


def measure(
    folder: Path, model: Bundle | Path, protein: System, size: int, ranks: int, seconds: float, changes: Mapping[str, str] | None = None
) -> Speed:
    """Run copies of a protein for some seconds; a bundle is run with native priors, an artifact as it is. changes: of the input."""
    system = copies_of(protein, size)
    config = LammpsConfig(
        temperature_kelvin=TEMPERATURE_KELVIN,
        thermo_every=1000,
        dump_every=1_000_000,
        restart_every=0,
        priors="native" if isinstance(model, Bundle) else "embedded",
    )
    write_lammps(model, system, folder, config)
    text = (folder / "in.lammps").read_text()
    # The first run compiles for the numbers of edges that occur; the others stop after a third of the given time.
    first, every = (20, 5) if size < 500 else (3, 1)
    runs = f"run {first}\n" + N_RUNS * f"timer timeout 0:00:{max(round(seconds / N_RUNS), 1):02d} every {every}\nrun 1000000\n"
    replacements = {"run             ${steps} upto\n": runs, "write_restart   final.restart\n": "", **(changes or {})}
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "in.lammps").write_text(text)
    text = run_lammps(folder, ranks=ranks).log.read_text()
    loops = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps", text)
    rates = [int(steps) / float(length) for length, steps in loops[-N_RUNS:]]
    times = re.findall(r"evaluations, (\S+) ms each in the runtime, (\S+) ms each in the bridge", text) or [("0", "0")] * N_RUNS
    best = int(np.argmax(rates))
    runtime, bridge = map(float, times[-N_RUNS:][best])
    return Speed(rates[best], runtime / 1e3, bridge / 1e3)


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
