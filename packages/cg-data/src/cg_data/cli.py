"""The command line of cg-data."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cg_data.command_line import new_app, paths_and_overrides, run_app
from cg_data.configuration import Configuration
from cg_data.errors import UserError, counted

app = new_app("cg-data", "All-atom protein trajectories with forces to coarse-grained bead datasets.")

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A folder made by cg-data prepare.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder or file to write.")]


class Verb(StrEnum):
    """A verb that takes options."""

    PREPARE = "prepare"
    FROM_NPZ = "from-npz"
    MEAN_FORCE = "mean-force"


def main() -> None:
    """Run the command line."""
    run_app(app)


@app.command(epilog="Example: cg-data prepare examples/data/mdcath -o dataset split.held_out_domains=[1pinA01]")
def prepare(
    output: Output,
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="[INPUT]... [KEY=VALUE]...", help="Files, folders, patterns; then options.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of options; cg-data template prints one.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes, each preparing one domain at a time.")] = None,
    share: Annotated[
        str | None, typer.Option("--share", metavar="I/N", help="Prepare share I (from 0) of N; the last step is merge.")
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Exit code 0 even where some inputs are refused.")] = False,
) -> None:
    """Turn all-atom trajectories into a dataset of beads. One that was interrupted is continued, one that is finished added to."""
    from cg_data.config import PrepareConfig
    from cg_data.pipeline import prepare as run

    overrides = _overrides(inputs or [], workers)
    if share is not None:
        overrides.append(f"share=[{share.replace('/', ',')}]")
    dataset = run(PrepareConfig.load(config, overrides), output)
    typer.echo(f"{output}: {counted(len(dataset.domains), 'domain')}; see cg-data inspect {output}")
    if dataset.info.refused and not keep_going:
        refused = counted(len(dataset.info.refused), "refused input")
        raise UserError(f"{output}: {refused} (the index gives each reason), the others are prepared; --keep-going accepts that")


@app.command(epilog="Example: cg-data merge dataset")
def merge(dataset: DatasetFolder) -> None:
    """Write the index of a dataset prepared in shares."""
    from cg_data.pipeline import merge as run

    typer.echo(f"{dataset}: {counted(len(run(dataset).domains), 'domain')}")


@app.command(epilog="Example: cg-data inspect dataset --plots dataset.png")
def inspect(
    dataset: DatasetFolder,
    plots: Annotated[Path | None, typer.Option("--plots", help="Write a page of plots: .png, .pdf or .svg.")] = None,
) -> None:
    """Print, and plot, what is in a dataset."""
    from cg_data.report import describe, measure, plot
    from cg_data.store import open_dataset

    opened = open_dataset(dataset)
    measured = measure(opened)
    typer.echo(describe(opened, measured))
    if plots is not None:
        plot(opened, measured, plots)
        typer.echo(f"plots: {plots}")


@app.command(epilog="Example: cg-data verify dataset")
def verify(dataset: DatasetFolder) -> None:
    """Compute all checksums again and check that a dataset is sound."""
    from cg_data.verify import verify as run

    problems = run(dataset)
    for problem in problems:
        sys.stderr.write(f"error: {problem}\n")
    if problems:
        raise typer.Exit(2)
    typer.echo(f"{dataset}: sound")


@app.command("to-npz", epilog="Example: cg-data to-npz dataset -o dataset.npz")
def to_npz(
    dataset: DatasetFolder,
    output: Output,
    per_domain: Annotated[bool, typer.Option("--per-domain", help="Write a folder with one file per domain.")] = False,
) -> None:
    """Write a dataset in the padded layout. Its arrays are R, F, species, mask, Z, N_max and aa_to_id."""
    from cg_data.npz import to_npz as run
    from cg_data.store import open_dataset

    typer.echo(f"{output}: {counted(len(run(open_dataset(dataset), output, per_domain)), 'file')}")


@app.command("from-npz", epilog="Example: cg-data from-npz dataset.npz -o dataset temperature_kelvin=348")
def from_npz(
    inputs: Annotated[list[str], typer.Argument(metavar="NPZ... [KEY=VALUE]...", help="Files in the padded layout; then options.")],
    output: Output,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of options; cg-data template from-npz prints one.")] = None,
) -> None:
    """Make a dataset from files in the padded layout."""
    from cg_data.config import FromNpzConfig
    from cg_data.npz import from_npz as run

    files, overrides = paths_and_overrides(inputs)
    options = FromNpzConfig.load(config, overrides)
    dataset = run(files, output, options.temperature_kelvin, options.split)
    options.save(output / "config.yaml")
    typer.echo(f"{output}: {counted(len(dataset.domains), 'domain')}")


@app.command("mean-force", epilog="Example: cg-data mean-force dataset -o mean-forces frames=24 sampling.relative_error=0.1 --workers 2")
def mean_force(
    output: Output,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATASET | INPUT]... [KEY=VALUE]...", help="A dataset made by prepare, or its inputs; then options."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of options; cg-data template mean-force prints one.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes, each averaging one frame at a time.")] = None,
) -> None:
    """Make a dataset of mean forces with their errors. All-atom simulations around held beads; one that was interrupted is continued."""
    from cg_data.config import MeanForceConfig
    from cg_data.mean_force_dataset import make_mean_forces

    overrides = _overrides(inputs or [], workers)
    dataset = make_mean_forces(MeanForceConfig.load(config, overrides), output)
    for domain in dataset.domains:
        typer.echo(f"{domain}: {dataset.domain(domain).notes[-1]}")
    if dataset.info.refused:
        raise UserError(f"{output}: {counted(len(dataset.info.refused), 'refused domain')}, the others are made; see the reasons above")


@app.command(epilog="Example: cg-data template > prepare.yaml")
def template(
    verb: Annotated[Verb, typer.Argument(metavar="VERB", help="Whose options.")] = Verb.PREPARE,
) -> None:
    """Print the options of a verb with their defaults, as YAML."""
    from cg_data.config import FromNpzConfig, MeanForceConfig, PrepareConfig

    options: dict[Verb, type[Configuration]] = {
        Verb.PREPARE: PrepareConfig,
        Verb.FROM_NPZ: FromNpzConfig,
        Verb.MEAN_FORCE: MeanForceConfig,
    }
    typer.echo(options[verb]().template(), nl=False)


def _overrides(arguments: list[str], workers: int | None) -> list[str]:
    """Return the options among arguments, with the other ones as `inputs` and `--workers` as `workers`."""
    files, overrides = paths_and_overrides(arguments)
    if files:
        overrides.append("inputs=" + json.dumps(files, ensure_ascii=False))
    if workers is not None:
        overrides.append(f"workers={workers}")
    return overrides


if __name__ == "__main__":
    main()
