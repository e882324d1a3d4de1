"""Command line: parses and calls."""

from pathlib import Path
from typing import Annotated

import typer

from cg_data.command_line import new_app, run_app

app = new_app("cg-train", "Force matching of coarse-grained force fields on one or many nodes.")

Config = Annotated[Path, typer.Argument(help="YAML configuration; cg-train template prints one.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder for checkpoints, metrics, plot and bundle; by default runs/NAME of NAME.yaml."),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, for example frames_per_batch=16 model.cutoff_angstrom=9")]


Resume = Annotated[str | None, typer.Option(help="auto: go on with what is in the output folder; or a run's folder or checkpoint.")]
AllowChanges = Annotated[bool, typer.Option(help="Resume although configuration or data changed.")]
Load = Annotated[
    str, typer.Option(help="What to take from a checkpoint: auto, all, or some of weights,optimizer,scheduler,scaler for a new run.")
]


@app.command(epilog="Example: cg-train run config.yaml -o runs/first seed=1")
def run(
    config: Config,
    output: Output = None,
    overrides: Overrides = None,
    resume: Resume = None,
    allow_changes: AllowChanges = False,
    load: Load = "auto",
    coordinator: Annotated[str | None, typer.Option(help="HOST:PORT of the first of several processes; SLURM steps know it.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    process: Annotated[int, typer.Option(min=0, help="Which of them this is, from 0.")] = 0,
) -> None:
    """Train a model. SIGTERM, SIGUSR1 and Ctrl-C save first, so that --resume auto goes on.

    In a SLURM step of several tasks (one per node) the processes find each other.
    """
    from cg_train.preemption import note_signals_from_here

    note_signals_from_here()
    from cg_train.launch import launch

    launch(config, output or default_output(config), overrides or (), resume, allow_changes, load, coordinator, processes, process)


@app.command(epilog="Example: cg-train ensemble config.yaml -o runs/four --members 4")
def ensemble(
    config: Config,
    output: Output = None,
    overrides: Overrides = None,
    members: Annotated[int, typer.Option(min=2, help="Number of models, of seeds seed, seed + 1, ...")] = 4,
    keep: Annotated[str, typer.Option(help="Bundles to write: all, or best, the one of least validation error.")] = "all",
    resume: Resume = None,
    allow_changes: AllowChanges = False,
    load: Load = "auto",
) -> None:
    """Train several models at once that differ in their seeds. How far their forces spread says where they know little."""
    from cg_train.preemption import note_signals_from_here

    note_signals_from_here()
    from cg_train.launch import launch_ensemble

    launch_ensemble(config, output or default_output(config), overrides or (), members, keep, resume, allow_changes, load)


@app.command(epilog="Example: cg-train template > config.yaml")
def template() -> None:
    """Print a commented configuration."""
    from cg_train.template import TEMPLATE

    typer.echo(TEMPLATE, nl=False)


def default_output(config: Path) -> Path:
    """Return the output folder of a configuration file where none is given."""
    return Path("runs") / config.stem


def main() -> None:
    """Run the command line."""
    run_app(app)
