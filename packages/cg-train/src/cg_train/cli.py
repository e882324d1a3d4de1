"""Command line: parses and calls."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cg_data.command_line import new_app, run_app

app = new_app("cg-train", "Force matching of coarse-grained force fields on one or many nodes.")

Config = Annotated[Path, typer.Argument(help="YAML configuration; cg-train template prints one.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for checkpoints, metrics, plot and bundle.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, for example frames_per_batch=16 model.cutoff_angstrom=9")]


@app.command(epilog="Example: cg-train run config.yaml -o runs/first seed=1")
def run(
    config: Config,
    output: Output,
    overrides: Overrides = None,
    resume: Annotated[
        str | None, typer.Option(help="auto: go on with what is in the output folder; or a run's folder or checkpoint.")
    ] = None,
    allow_changes: Annotated[bool, typer.Option(help="Resume although configuration or data changed.")] = False,
    load: Annotated[str, typer.Option(help="What to take from a checkpoint: auto, all or weights.")] = "auto",
) -> None:
    """Train a model; SIGTERM, SIGUSR1 and Ctrl-C save first, so that --resume auto goes on."""
    from cg_train.config import TrainConfig
    from cg_train.preemption import Stopped
    from cg_train.run import parse_load
    from cg_train.run import run as train

    try:
        result = train(TrainConfig.load(config, overrides or ()), output, resume, allow_changes, parse_load(load))
    except Stopped as stopped:
        typer.echo(str(stopped), err=True)
        sys.exit(stopped.exit_code)
    for name, value in result.metrics.items():
        typer.echo(f"{name} {value:g}")
    typer.echo(f"bundle {result.bundle}")


@app.command(epilog="Example: cg-train template > config.yaml")
def template() -> None:
    """Print a commented configuration."""
    from cg_train.template import TEMPLATE

    typer.echo(TEMPLATE, nl=False)


def main() -> None:
    """Run the command line."""
    run_app(app)
