"""What every command line of the workspace shares: one-line errors, logging, progress."""

import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from cg_data.errors import UserError

Item = TypeVar("Item")


def new_app(package: str, description: str) -> typer.Typer:
    """Return a package's typer application, alike in all of them: description, `--version`, plain help, plain tracebacks."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{package} {importlib.metadata.version(package)}")
            raise typer.Exit

    @app.callback(help=description)
    def options(
        version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")] = False,
    ) -> None:
        pass

    return app


def run_app(app: typer.Typer | Callable[[], None]) -> None:
    """Run a typer application; a `UserError` becomes one line on standard error and exit code 2."""
    set_up_logging()
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except BrokenPipeError:
        # The reader (head, less) has gone; Python must not complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def paths_and_overrides(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the paths and the options `key=value` among arguments; what exists is a path, whatever its name."""
    found: tuple[list[str], list[str]] = ([], [])
    for text in arguments:
        found["=" in text and not Path(text).exists()].append(text)
    return found


def set_up_logging(level: int = logging.INFO) -> None:
    """Log the packages' messages to standard error: drawn on a terminal, plain lines elsewhere."""
    terminal = sys.stderr.isatty()
    handler: logging.Handler
    if terminal:
        handler = RichHandler(console=Console(stderr=True), show_path=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("cg_data", "cg_priors", "cg_models", "cg_train", "cg_eval", "cg_export"):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers = [handler]
        logger.propagate = False


class ProgressWithLine(Progress):
    """A progress bar with a line of text below it, which takes no room from the bar."""

    line = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar, and the line where there is one."""
        yield from super().get_renderables()
        if self.line:
            yield Text(self.line)


def progress_bar() -> ProgressWithLine:
    """Return the workspace's progress bar, on standard error; it draws nothing where that is not a terminal."""
    console = Console(stderr=True)
    return ProgressWithLine(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items` under a progress bar."""
    with progress_bar() as bar:
        yield from bar.track(items, total=total, description=description)
