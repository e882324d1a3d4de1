"""The command line of cg-models."""

from typing import Annotated

import typer

from cg_data.command_line import new_app, run_app

app = new_app("cg-models", "Equivariant networks and hybrid energies for coarse-grained proteins.")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options, such as backbone.layers=2.")]


def main() -> None:
    """Run the command line."""
    run_app(app)


@app.command("list", epilog="Example: cg-models list")
def list_backbones() -> None:
    """List the backbones, their sizes and where they come from."""
    from cg_models.describe import table_of_backbones

    typer.echo(table_of_backbones())


@app.command(epilog="Example: cg-models describe allegro:large backbone.l_max=1")
def describe(
    target: Annotated[str, typer.Argument(metavar="BACKBONE[:SIZE] | CONFIG | BUNDLE", help="What to describe.")],
    overrides: Overrides = None,
) -> None:
    """Show what a model is and costs. Options, number of parameters, receptive field and cost per edge."""
    from cg_models.describe import describe as run

    typer.echo(run(target, overrides or []))


@app.command(epilog="Example: cg-models template mace --size large > model.yaml")
def template(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE", help="A name from cg-models list.")] = "allegro",
    size: Annotated[str, typer.Option("--size", help="A size from cg-models list.")] = "default",
) -> None:
    """Print a model's complete configuration as YAML."""
    from cg_models.backbones.registry import options_of
    from cg_models.config import ModelConfig

    config = ModelConfig.parse({"backbone": options_of(backbone, size)}, f"{backbone}:{size}")
    typer.echo(config.template(), nl=False)
