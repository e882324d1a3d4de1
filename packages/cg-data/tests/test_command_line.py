import importlib.metadata

import pytest
import typer
from typer.testing import CliRunner

from cg_data import cli
from cg_data.command_line import new_app, run_app, track
from cg_data.config import FromNpzConfig, MeanForceConfig, PrepareConfig
from cg_data.errors import UserError


def test_a_user_error_is_one_line_and_exit_code_2(capsys, monkeypatch):
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise UserError("file.h5: expected an HDF5 file,\n received text: give another")

    monkeypatch.setattr("sys.argv", ["prog"])
    with pytest.raises(SystemExit) as stop:
        run_app(app)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: file.h5: expected an HDF5 file, received text: give another\n"


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch):
    def fail() -> None:
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        run_app(fail)


def test_tracked_items_come_through_unchanged():
    assert list(track(range(5), "count")) == [0, 1, 2, 3, 4]


def test_an_application_tells_its_version_and_describes_itself():
    app = new_app("cg-data", "What it is for.")

    @app.command()
    def verb() -> None:
        """Do something."""

    version = CliRunner().invoke(app, ["--version"])
    assert (version.exit_code, version.output) == (0, f"cg-data {importlib.metadata.version('cg-data')}\n")
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "What it is for." in shown
    assert "Do something." in shown


@pytest.mark.parametrize(("verb", "options"), [("prepare", PrepareConfig), ("from-npz", FromNpzConfig), ("mean-force", MeanForceConfig)])
def test_the_template_of_a_verb_holds_its_defaults(verb, options, tmp_path):
    (tmp_path / "options.yaml").write_text(CliRunner().invoke(cli.app, ["template", verb]).stdout)
    assert options.load(tmp_path / "options.yaml") == options()
