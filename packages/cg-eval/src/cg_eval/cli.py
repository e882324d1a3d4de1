"""`cg-eval`: judge a force field by its forces and by what it simulates."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cg_data.atomic import check_place
from cg_data.command_line import new_app, paths_and_overrides, run_app
from cg_data.configuration import Configuration
from cg_data.errors import UserError, counted, require

app = new_app("cg-eval", "Judge a coarse-grained force field by its forces and by what it simulates.")

BundleArgument = Annotated[Path, typer.Argument(help="A bundle, or a run of cg-train, or one of its checkpoints.")]
DatasetArgument = Annotated[Path, typer.Argument(help="A dataset folder, as cg-data prepare writes it.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must be new or empty.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file of options; cg-eval template VERB prints one.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options, as in the configuration file.")]
DomainOption = Annotated[list[str] | None, typer.Option("--domain", help="Only this domain; repeat for more; default: all.")]


class Verb(StrEnum):
    """A verb that takes options; `dataset` takes those of `forces`."""

    FORCES = "forces"
    SIMULATE = "simulate"
    COMPARE = "compare"
    ENSEMBLE = "ensemble"


def main() -> None:
    """Run the command line."""
    run_app(app)


@app.command(epilog="Example: cg-eval forces run/bundle dataset --part full --split held_out_domains -o forces n_resamples=2000")
def forces(
    bundle: BundleArgument,
    dataset: DatasetArgument,
    output: OutputOption,
    overrides: Overrides = None,
    part: Annotated[str | None, typer.Option(help="full, prior or backbone.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Split of the data set; repeat for more; default: both held-out ones.")] = None,
    frames: Annotated[int | None, typer.Option(help="A random choice of so many frames per split.")] = None,
    config: ConfigOption = None,
) -> None:
    """Compare forces with those of a data set. Beside the zero model and the prior; table, JSON, CSV and figures."""
    _evaluate(bundle, dataset, output, config, _options({"part": part, "splits": split, "frames": frames}, overrides))


@app.command("dataset", epilog="Example: cg-eval dataset run/bundle dataset -o everything part=prior")
def whole_dataset(
    bundle: BundleArgument,
    dataset: DatasetArgument,
    output: OutputOption,
    overrides: Overrides = None,
    config: ConfigOption = None,
) -> None:
    """Compare forces on all frames of a data set. All splits, of any size, over all devices; the report of `forces`."""
    from cg_data.split import SPLITS

    _evaluate(bundle, dataset, output, config, _options({"splits": list(SPLITS)}, overrides))


@app.command(epilog="Example: cg-eval simulate run/bundle dataset --domain 1enhA00 -o md n_replicas=16 n_steps=20000")
def simulate(
    bundle: BundleArgument,
    start: Annotated[Path, typer.Argument(help="Where replicas start: a dataset folder, or a PDB file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; what is missing in it is simulated.")],
    overrides: Overrides = None,
    domain: DomainOption = None,
    config: ConfigOption = None,
) -> None:
    """Simulate replicas of domains, or of a PDB's chain. One folder each with HDF5, DCD, PDB and a summary.

    The same command goes on where it was killed, and skips what is finished.
    """
    from cg_data.store import open_dataset
    from cg_eval.force_field import load_force_field
    from cg_eval.recorder import alone_in
    from cg_eval.simulate import SimulateConfig, dataset_start, pdb_start, simulation_identity, with_temperature
    from cg_eval.simulate import simulate as run

    _use_all_cores()
    options = SimulateConfig.load(config, overrides or [])  # Before anything that takes long to read.
    field = load_force_field(bundle)
    settings = with_temperature(options, field)
    if start.is_file():
        require(not domain, f"--domain: {start} is a PDB file, which is one domain: leave it out")
        starts = {start.stem: pdb_start(field, start, settings)}
    else:
        data = open_dataset(start)
        starts = {name: dataset_start(field, data, name, settings) for name in _chosen_domains(data, domain)}
    finished = {
        name: _is_finished(output / name, settings, simulation_identity(field, frames, settings)) for name, frames in starts.items()
    }
    for name, frames in starts.items():
        record = output / f"{name}.unfinished"
        with alone_in(record):
            if finished[name]:
                typer.echo(f"{output / name}: simulated already with this model and these options")
            else:
                result = replace(run(field, frames, settings, show_progress=True, record=record), model=str(bundle))
                result.save(output / name)
                typer.echo(f"{name}\n{result.table()}\nwritten to {output / name}")


def _use_all_cores() -> None:
    """Make each core of a CPU a device of JAX, over which replicas are spread; where JAX runs already, nothing changes."""
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            jax.config.update("jax_num_cpu_devices", cores)


def _is_finished(folder: Path, settings: Any, identity: str) -> bool:
    """Return whether a folder holds the result of these options, this model and this start; `UserError` where it holds another."""
    if not (folder / "simulation.h5").is_file():
        _refuse_existing(folder)
        return False
    from cg_eval.simulation import load_simulation

    found, remedy = load_simulation(folder), "choose another folder with -o, or remove it"
    require(found.config == settings, f"{folder}: holds a simulation with other options: {remedy}")
    require(bool(found.identity), f"{folder}: holds a simulation of an earlier version, which did not note of which model: {remedy}")
    made = f" (made with {found.model})" if found.model else ""
    require(found.identity == identity, f"{folder}: holds a simulation of another model or start{made}: {remedy}")
    return True


@app.command(epilog="Example: cg-eval compare md dataset -o comparison after_ps=10")
def compare(
    simulations: Annotated[Path, typer.Argument(help="Output folder of cg-eval simulate.")],
    dataset: DatasetArgument,
    output: OutputOption,
    overrides: Overrides = None,
    domain: DomainOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare what simulations visit with a data set. Distributions, surfaces, contacts, fluctuations, beside its own noise."""
    from cg_data.store import open_dataset
    from cg_eval.compare import CompareConfig, choose_compared, compare_simulation
    from cg_eval.simulation import load_simulation

    settings, data = CompareConfig.load(config, overrides or []), open_dataset(dataset)
    found = sorted(path.parent.name for path in simulations.glob("*/simulation.h5"))
    require(bool(found), f"{simulations}: no simulation; expected the output folder of cg-eval simulate")
    names = list(dict.fromkeys(domain or found))
    absent = sorted(set(names) - set(found))
    require(not absent, f"{simulations}: no simulation {next(iter(absent), '')!r}; it has {', '.join(found)}")
    if settings.reference is not None:
        received = f"received {len(names)}, {', '.join(names)}"
        require(len(names) == 1, f"reference={settings.reference}: expected one simulation, {received}: choose one with --domain")
    wanted = [settings.reference] if settings.reference is not None else names
    unknown = sorted(set(wanted) - set(data.domains))
    require(
        not unknown,
        f"{data.path}: no domain {next(iter(unknown), '')!r}; it has {', '.join(data.domains)}: "
        "name the one to compare a simulation with, reference=DOMAIN",
    )
    for name in names:
        _refuse_existing(output / name)
    for name in names[1:]:  # the first one's faults are told when it is compared, before any work
        choose_compared(load_simulation(simulations / name), data, settings.reference or name, settings)
    for name in names:
        comparison = compare_simulation(load_simulation(simulations / name), data, name, settings)
        comparison.save(output / name)
        settings.save(output / name / "config.yaml")
        typer.echo(f"{comparison.table()}\nwritten to {output / name}")


@app.command(epilog="Example: cg-eval ensemble ensemble dataset -o uncertainty frames=500")
def ensemble(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE... DATASET [KEY=VALUE]...",
            help="The folder that cg-train ensemble wrote, or two or more bundles; then a dataset; then options.",
        ),
    ],
    output: OutputOption,
    config: ConfigOption = None,
) -> None:
    """Take the spread of an ensemble as uncertainty. Calibration against errors, and the frames it is least sure of."""
    from cg_data.store import open_dataset
    from cg_eval.ensemble import EnsembleConfig, evaluate_ensemble, load_members

    paths, overrides = paths_and_overrides(inputs)
    expected = "ensemble: expected an ensemble folder, or two or more bundles, and then a dataset folder"
    require(len(paths) >= 2, f"{expected}, received {counted(len(paths), 'path')}: give both")
    settings = EnsembleConfig.load(config, overrides)
    _refuse_existing(output)
    result = evaluate_ensemble(load_members(paths[:-1]), open_dataset(paths[-1]), settings, show_progress=True)
    result.save(output)
    typer.echo(f"{result.table()}\nwritten to {output}")


@app.command(epilog="Example: cg-eval scaling run1 run4 run24 -o scaling   (or: cg-eval scaling timings.csv -o scaling)")
def scaling(
    timings: Annotated[
        list[Path], typer.Argument(help="Output folders of cg-train run on different numbers of devices, or CSV files; all count.")
    ],
    output: OutputOption,
) -> None:
    """Fit Amdahl's and Gustafson's laws to times of an epoch. One time for each number of devices.

    A CSV has the columns devices and time, one line per run.
    """
    from cg_eval.scaling import fit_scaling, read_timings

    _refuse_existing(output)
    result = fit_scaling(*read_timings(timings))
    result.save(output)
    typer.echo(f"{result.table()}\nwritten to {output}")


@app.command(epilog="Example: cg-eval report forces md comparison -o report.html")
def report(
    folders: Annotated[list[Path], typer.Argument(help="Output folders of the other verbs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
) -> None:
    """Gather tables and figures into one HTML page. It needs nothing else."""
    from cg_eval.report import write_report

    require(not output.is_dir(), f"{output}: is a folder; expected the HTML file to write, for example {output / 'report.html'}")
    check_place(output)
    typer.echo(f"{output}: {write_report(folders, output)} figures")


@app.command(epilog="Example: cg-eval template simulate > simulate.yaml")
def template(verb: Annotated[Verb, typer.Argument(metavar="VERB", help="Whose options; dataset has those of forces.")]) -> None:
    """Print the options of a verb with their defaults, as YAML."""
    from cg_eval.compare import CompareConfig
    from cg_eval.ensemble import EnsembleConfig
    from cg_eval.forces import ForcesConfig
    from cg_eval.simulation import SimulateConfig

    options: dict[Verb, type[Configuration]] = {
        Verb.FORCES: ForcesConfig,
        Verb.SIMULATE: SimulateConfig,
        Verb.COMPARE: CompareConfig,
        Verb.ENSEMBLE: EnsembleConfig,
    }
    typer.echo(options[verb]().template(), nl=False)


def _evaluate(bundle: Path, dataset: Path, output: Path, config: Path | None, options: list[str]) -> None:
    from cg_data.store import open_dataset
    from cg_eval.force_field import load_force_field
    from cg_eval.forces import ForcesConfig, evaluate_forces

    settings = ForcesConfig.load(config, options)
    _refuse_existing(output)
    report = evaluate_forces(load_force_field(bundle), open_dataset(dataset), settings, show_progress=True)
    report.save(output)
    typer.echo(f"{report.table()}\nwritten to {output}")


def _refuse_existing(output: Path) -> None:
    """Say before the work, not after it, that there is something where its result should go, or that nothing can be written there."""
    require(
        not output.exists() or (output.is_dir() and not any(output.iterdir())),
        f"{output}: already exists; expected a new or empty folder: choose another or remove it",
    )
    check_place(output)


def _options(values: dict[str, Any], overrides: Sequence[str] | None) -> list[str]:
    """Return the options given by name, then the `key=value` ones, as overrides; the last one counts."""
    named = [f"{key}={list(value) if isinstance(value, list) else value}" for key, value in values.items() if value is not None]
    return [*named, *(overrides or [])]


def _chosen_domains(dataset: Any, domains: Sequence[str] | None) -> list[str]:
    unknown = sorted(set(domains or []) - set(dataset.domains))
    if unknown:
        raise UserError(f"{dataset.path}: no domain {unknown[0]!r}; it has {', '.join(dataset.domains)}")
    return list(domains or dataset.domains)
