"""`cg-export`: from a bundle to an artifact, to LAMMPS, and the proof that they agree."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cg_data.command_line import new_app, run_app
from cg_data.errors import UserError, require

if TYPE_CHECKING:
    from cg_export.lammps.system import System
    from cg_export.lower import Budget

app = new_app("cg-export", "Coarse-grained force fields as StableHLO artifacts that run in LAMMPS.")

PrecisionOption = Annotated[
    str | None, typer.Option(help="Of the network: float32 or float64; default: float32, or the artifact's own where one is given.")
]


def main() -> None:
    """Run the command line."""
    run_app(app)


@app.command(epilog="Example: cg-export stablehlo out/bundle -o artifact --precision float32")
def stablehlo(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Artifact folder to write.")],
    precision: Annotated[str, typer.Option(help="Of the network: float32 or float64.")] = "float32",
    part: Annotated[str, typer.Option(help="What to export: full, backbone or prior.")] = "full",
    budget: Annotated[
        list[str] | None, typer.Option(help="BEADS,EDGES of a static module, ghosts included; repeat; default: a ladder up to 1,024 beads.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Artifact, or chemtrain: the network for chemtrain-deploy.")] = "artifact",
) -> None:
    """Write a bundle as an artifact. It holds one jax.export file for all sizes, a ladder of StableHLO modules and a self-test."""
    require(form in ("artifact", "chemtrain"), f"--format: expected artifact or chemtrain, received {form!r}")
    _check_precision(precision)
    require(part in ("full", "backbone", "prior"), f"--part: expected full, backbone or prior, received {part!r}")
    ladder = [_budget(text) for text in budget or []]
    if form == "chemtrain":
        require(part in ("full", "backbone"), f"--format chemtrain: expected no --part {part}: the file holds the network alone")
        require(not ladder, "--format chemtrain: expected no --budget: the file holds one module for all sizes")
    _use_x64()
    from cg_export.artifact import DEFAULT_LADDER, export_artifact
    from cg_models.bundle import load_bundle

    if form == "chemtrain":
        export_chemtrain = _import_chemtrain()
        typer.echo(f"{export_chemtrain(load_bundle(bundle), output, precision)}: the network alone; its prior runs in LAMMPS's own styles")
        return
    manifest = export_artifact(load_bundle(bundle), output, precision, part, ladder or DEFAULT_LADDER)  # type: ignore[arg-type]
    what = f"{manifest.part} energy in {manifest.precision}, cutoff {manifest.cutoff_angstrom:g} A"
    typer.echo(f"{output}: {what}, {len(manifest.modules)} static modules")


@app.command("build-plugin", epilog="Example: cg-export build-plugin --lammps-include ~/lammps/src -f -DLAMMPS_BIGBIG")
def build(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Library to write; default: in this Python environment.")] = None,
    lammps_include: Annotated[
        Path | None, typer.Option(help="LAMMPS's src folder; default: headers of the installed lammps package.")
    ] = None,
    compiler: Annotated[str | None, typer.Option(help="C++17 compiler; default: $CXX, g++ or clang++.")] = None,
    flag: Annotated[list[str] | None, typer.Option("--flag", "-f", help="Further compiler flag; repeat for more.")] = None,
    pjrt_include: Annotated[Path | None, typer.Option(help="Folder of XLA's pjrt_c_api.h: adds the runtime pjrt.")] = None,
) -> None:
    """Compile LAMMPS's pair style cg against the installed LAMMPS."""
    from cg_export.lammps.build import build_plugin

    path = build_plugin(output, lammps_include, compiler, flag or [], pjrt_include)
    typer.echo(f"{path}: in a LAMMPS input: plugin load {path}")


@app.command(epilog="Example: cg-export lammps out/bundle --pdb 5awl.pdb -o run ensemble=langevin steps=1000000")
def lammps(
    model: Annotated[Path, typer.Argument(help="Bundle or artifact folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options, as in the configuration file.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must be new or empty.")] = Path("lammps-run"),
    pdb: Annotated[list[Path] | None, typer.Option(help="Structure; repeat for several proteins.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="Dataset folder, with --domain.")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Domain of the dataset; repeat for several proteins.")] = None,
    frame: Annotated[int, typer.Option(help="Frame of each domain, from 0.")] = 0,
    config: Annotated[Path | None, typer.Option(help="YAML file of options; cg-export template prints one.")] = None,
    precision: PrecisionOption = None,
) -> None:
    """Write a folder that LAMMPS runs. `lmp -in in.lammps` runs as written, `bash run.sbatch` goes on after a kill."""
    _check_precision(precision)
    from cg_export.lammps.input import LammpsConfig, run_command

    settings = LammpsConfig.load(config, overrides or [])
    require(model.is_dir(), f"{model}: no such folder: give a bundle or an artifact")
    systems = _systems(pdb or [], dataset, domain or [], frame)
    _use_x64()
    from cg_export.lammps.write import write_lammps
    from cg_export.manifest import MANIFEST_FILE
    from cg_models.bundle import load_bundle

    source = model if (model / MANIFEST_FILE).is_file() else load_bundle(model)
    folder = write_lammps(source, systems, output, settings, precision)  # type: ignore[arg-type]
    typer.echo(f"{folder}: run it with: cd {folder} && {run_command(settings)}; after a kill, go on with: bash run.sbatch")


@app.command(epilog="Example: cg-export template > lammps.yaml")
def template() -> None:
    """Print the options of lammps with their defaults, as YAML."""
    from cg_export.lammps.input import LammpsConfig

    typer.echo(LammpsConfig().template(), nl=False)


@app.command(epilog="Example: cg-export parity out/bundle --dataset out/dataset --frames 5 --ranks 1 --ranks 2")
def parity(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    dataset: Annotated[Path, typer.Option(help="Dataset folder whose frames are compared.")],
    artifact: Annotated[Path | None, typer.Option(help="Artifact folder; exported aside where not given.")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Only this domain; repeat for more; default: all.")] = None,
    frames: Annotated[int, typer.Option(help="Frames of each domain, evenly spaced.")] = 3,
    ranks: Annotated[list[int] | None, typer.Option(help="MPI ranks of LAMMPS; repeat for more; 0 leaves LAMMPS out; default: 1.")] = None,
    precision: PrecisionOption = None,
) -> None:
    """Compare bundle, artifact and LAMMPS on some frames. Exit code 1 where any differs by more than its tolerance."""
    require(frames > 0, f"--frames: expected at least 1, received {frames}")
    _check_precision(precision)
    for n in ranks or []:
        require(n >= 0, f"--ranks: expected 0 or more, received {n}")
    _use_x64()
    from cg_data.store import open_dataset
    from cg_export.parity import dataset_systems, format_rows
    from cg_export.parity import parity as compare_all
    from cg_models.bundle import load_bundle

    systems = dataset_systems(open_dataset(dataset), domain or [], frames)
    rows = compare_all(load_bundle(bundle), systems, artifact, precision, [n for n in ranks or [1] if n > 0])  # type: ignore[arg-type]
    typer.echo(format_rows(rows))
    if not all(row.passed for row in rows):
        raise typer.Exit(1)


def _systems(pdb: list[Path], dataset: Path | None, domains: list[str], frame: int) -> "list[System]":
    from cg_data.store import open_dataset
    from cg_export.lammps.system import frame_system, read_pdb

    if bool(pdb) == (dataset is not None):
        raise UserError("lammps: expected a structure: either --pdb FILE, or --dataset FOLDER with --domain ID")
    if dataset is None:
        require(not domains, "--domain: expected --dataset with it, received --pdb")
        require(frame == 0, "--frame: expected --dataset with it, received --pdb")
        return [read_pdb(path) for path in pdb]
    opened = open_dataset(dataset)
    require(bool(domains), f"--domain: expected at least one, received none; {dataset} has {' '.join(opened.domains[:8])}")
    return [frame_system(opened, name, frame) for name in domains]


def _budget(text: str) -> "Budget":
    from cg_export.lower import Budget

    found = re.fullmatch(r"([0-9]+),([0-9]+)", text)
    beads, edges = map(int, found.groups()) if found else (0, 0)
    # The function's indices have 32 bits.
    require(0 < beads < 2**31 and 0 < edges < 2**31, f"--budget: expected BEADS,EDGES such as 512,20000, received {text!r}")
    return Budget(beads, edges, beads, beads, beads)


def _check_precision(precision: str | None) -> None:
    require(precision in (None, "float32", "float64"), f"--precision: expected float32 or float64, received {precision!r}")


def _import_chemtrain() -> Callable[..., Path]:
    try:
        from cg_export.chemtrain import export_chemtrain
    except ImportError:
        raise UserError("--format chemtrain: expected the package protobuf, found none: install cg-export[chemtrain]") from None
    return export_chemtrain


def _use_x64() -> None:
    # Positions and the prior are float64 in the artifact, whatever the network's precision.
    import jax

    jax.config.update("jax_enable_x64", True)
