"""The command line of cg-priors."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cg_data.command_line import new_app, run_app

app = new_app("cg-priors", "Boltzmann-inverted bond, angle, dihedral and repulsion priors for coarse-grained proteins.")

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="A dataset folder, an .npz, .pdb or .gro file, or with --topology a trajectory.")
]
Prior = Annotated[Path, typer.Argument(metavar="PRIOR", help="A prior.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options, as in the configuration file.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of options; cg-priors template prints one.")]
Topology = Annotated[Path | None, typer.Option("--topology", help="Topology file of a trajectory that MDAnalysis reads.")]
Split = Annotated[str, typer.Option("--split", help="Split of a dataset folder.")]


class ExportFormat(StrEnum):
    """Where a prior can go."""

    LAMMPS = "lammps"
    OPENMM = "openmm"


def main() -> None:
    """Run the command line."""
    run_app(app)


@app.command(epilog="Example: cg-priors fit dataset -o prior.yaml --plots prior.png temperature_kelvin=348")
def fit(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="The prior to write, YAML.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    topology: Topology = None,
    split: Split = "train",
    plots: Annotated[Path | None, typer.Option("--plots", help="Write pages of plots, one a temperature: .png, .pdf or .svg.")] = None,
) -> None:
    """Fit a prior, check it, write it, print what it found."""
    from cg_priors.report import fit_and_write

    typer.echo(fit_and_write(data, output, config, overrides or [], topology, split, plots))


@app.command(epilog="Example: cg-priors check prior.yaml")
def check(prior: Prior) -> None:
    """Say whether a prior is physical. Coefficients, confinement, barriers, weights and temperature are looked at."""
    from cg_priors.parameters import load_prior
    from cg_priors.report import describe

    typer.echo(describe(load_prior(prior)))
    typer.echo(f"{prior}: sound")


@app.command(epilog="Example: cg-priors plot prior.yaml dataset -o prior.png")
def plot(
    prior: Prior,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write, one a temperature: .png, .pdf or .svg.")],
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="Data to draw beside the prior, at its temperatures.")] = None,
    topology: Topology = None,
    split: Split = "train",
    temperature_kelvin: Annotated[float | None, typer.Option("--temperature", help="That of data that do not state theirs, K.")] = None,
) -> None:
    """Draw a prior. Histograms of the data, Boltzmann densities and potentials."""
    from cg_priors.report import plot_files

    for path in plot_files(prior, data, output, topology, split, temperature_kelvin):
        typer.echo(f"plots: {path}")


@app.command(epilog="Example: cg-priors export prior.yaml protein.npz -o lammps --format lammps")
def export(
    prior: Prior,
    structure: Annotated[Path, typer.Argument(metavar="DATA", help="Data as for fit, of which the first frame is the molecule.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    format: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.LAMMPS,
    topology: Topology = None,
    temperature_kelvin: Annotated[float | None, typer.Option("--temperature", help="Select or scale the prior, K.")] = None,
    domain: Annotated[int, typer.Option("--domain", help="Which domain of a dataset, counted from 0.")] = 0,
) -> None:
    """Write a prior for another simulation program, for one molecule."""
    from cg_priors.report import export_files

    for path in export_files(prior, structure, output, format.value, topology, temperature_kelvin, domain):
        typer.echo(str(path))


@app.command(epilog="Example: cg-priors template > prior-config.yaml")
def template() -> None:
    """Print the options of fit with their defaults, as YAML."""
    from cg_priors.config import PriorConfig

    typer.echo(PriorConfig().template(), nl=False)


if __name__ == "__main__":
    main()
