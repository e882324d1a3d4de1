"""`cg-eval`: judge a force field by its forces and by what it simulates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cg_data.command_line import new_app, run_app
from cg_data.errors import UserError, require

app = new_app("cg-eval", "Judge a coarse-grained force field by its forces and by what it simulates.")

BundleArgument = Annotated[Path, typer.Argument(help="bundle folder, as cg-train writes it")]
DatasetArgument = Annotated[Path, typer.Argument(help="dataset folder, as cg-data prepare writes it")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="folder to write; must be new or empty")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file of options")]
Overrides = Annotated[list[str] | None, typer.Argument(help="options as key=value")]
DomainOption = Annotated[list[str] | None, typer.Option("--domain", help="only this domain; repeat for more; default: all")]


def main() -> None:
    """Run the command line."""
    run_app(app)


@app.command(epilog="Example: cg-eval forces run/bundle dataset --part full --split held_out_domains -o forces n_resamples=2000")
def forces(
    bundle: BundleArgument,
    dataset: DatasetArgument,
    output: OutputOption,
    overrides: Overrides = None,
    part: Annotated[str | None, typer.Option(help="full, prior or backbone")] = None,
    split: Annotated[list[str] | None, typer.Option(help="split of the data set; repeat for more; default: both held-out ones")] = None,
    frames: Annotated[int | None, typer.Option(help="a random choice of so many frames per split")] = None,
    config: ConfigOption = None,
) -> None:
    """Compare forces with a data set's, beside the zero model and the prior; table, JSON, CSV and figures."""
    from cg_data.store import open_dataset
    from cg_eval.forces import ForcesConfig, evaluate_forces
    from cg_models.bundle import load_bundle

    options = _options({"part": part, "splits": split, "frames": frames}, overrides)
    settings = ForcesConfig.load(config, options)
    report = evaluate_forces(load_bundle(bundle), open_dataset(dataset), settings, show_progress=True)
    report.save(output)
    typer.echo(report.table())
    typer.echo(f"written to {output}")


@app.command(epilog="Example: cg-eval simulate run/bundle dataset --domain 1enhA00 -o md n_replicas=16 n_steps=20000")
def simulate(
    bundle: BundleArgument,
    dataset: DatasetArgument,
    output: OutputOption,
    overrides: Overrides = None,
    domain: DomainOption = None,
    config: ConfigOption = None,
) -> None:
    """Simulate replicas of domains from frames of a data set; one folder per domain with HDF5, DCD, PDB and a summary."""
    from cg_data.store import open_dataset
    from cg_eval.plots import plot_simulation
    from cg_eval.simulate import SimulateConfig, dataset_start
    from cg_eval.simulate import simulate as run
    from cg_models.bundle import load_bundle

    settings = SimulateConfig.load(config, overrides or [])
    field, data = load_bundle(bundle), open_dataset(dataset)
    for name in _chosen_domains(data, domain):
        result = run(field, dataset_start(field, data, name, settings), settings, show_progress=True)
        result.save(output / name)
        plot_simulation(result, output / name / "simulation.png")
        typer.echo(f"{name}\n{result.table()}\nwritten to {output / name}")


@app.command(epilog="Example: cg-eval compare md dataset -o comparison after_ps=10")
def compare(
    simulations: Annotated[Path, typer.Argument(help="output folder of cg-eval simulate")],
    dataset: DatasetArgument,
    output: OutputOption,
    overrides: Overrides = None,
    domain: DomainOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare distributions of simulations with a data set's, beside the noise between two halves of it."""
    from cg_data.store import open_dataset
    from cg_eval.compare import CompareConfig, compare_distributions, reference_frames
    from cg_eval.simulate import load_simulation

    settings, data = CompareConfig.load(config, overrides or []), open_dataset(dataset)
    found = sorted(path.parent.name for path in simulations.glob("*/simulation.h5"))
    require(bool(found), f"{simulations}: no simulation; expected the output folder of cg-eval simulate")
    for name in domain or found:
        simulation = load_simulation(simulations / name)
        temperature = settings.temperature_kelvin or float(simulation.bath_temperature[0].min())
        model, reference = simulation.frames(settings.after_ps, temperature), reference_frames(data, name, temperature)
        comparison = compare_distributions(model, reference, settings, domain=name)
        comparison.save(output / name)
        settings.save(output / name / "config.yaml")
        typer.echo(f"{comparison.table()}\nwritten to {output / name}")


@app.command(epilog="Example: cg-eval scaling timings.csv -o scaling")
def scaling(
    timings: Annotated[Path, typer.Argument(help="CSV with the columns devices and time (of an epoch), one line per run")],
    output: OutputOption,
) -> None:
    """Fit the laws of Amdahl and Gustafson to times of the same work on different numbers of devices."""
    from cg_eval.scaling import fit_scaling, read_times

    result = fit_scaling(*read_times(timings))
    result.save(output)
    typer.echo(f"{result.table()}\nwritten to {output}")


@app.command(epilog="Example: cg-eval report forces md comparison -o report.html")
def report(
    folders: Annotated[list[Path], typer.Argument(help="output folders of the other verbs")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write")],
) -> None:
    """Gather tables and figures into one HTML page that needs nothing else."""
    from cg_eval.report import write_report

    typer.echo(f"{output}: {write_report(folders, output)} figures")


def _options(values: dict[str, Any], overrides: Sequence[str] | None) -> list[str]:
    """Return the options given by name, then the `key=value` ones, as overrides; the last one counts."""
    named = [f"{key}={list(value) if isinstance(value, list) else value}" for key, value in values.items() if value is not None]
    return [*named, *(overrides or [])]


def _chosen_domains(dataset: Any, domains: Sequence[str] | None) -> list[str]:
    unknown = sorted(set(domains or []) - set(dataset.domains))
    if unknown:
        raise UserError(f"{dataset.path}: no domain {unknown[0]!r}; it has {', '.join(dataset.domains)}")
    return list(domains or dataset.domains)
