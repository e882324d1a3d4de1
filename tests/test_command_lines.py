"""All six command lines behave alike: verbs, examples, one-line errors with exit code 2."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from .workspace import PACKAGES, attempt

VERBS = {
    "cg-data": {"prepare", "inspect", "verify", "template"},
    "cg-priors": {"fit", "check", "plot"},
    "cg-models": {"list", "describe", "template"},
    "cg-train": {"run", "template"},
    "cg-eval": {"forces", "simulate", "compare"},
    "cg-export": {"stablehlo", "lammps", "parity", "build-plugin"},
}

# A misspelled key, and the key that is meant.
MISSPELLED = [
    (("cg-data", "prepare", "-o", "dataset", "wrkers=2"), "workers"),
    (("cg-priors", "fit", "dataset", "-o", "prior.yaml", "temperature_kelvn=300"), "temperature_kelvin"),
    (("cg-train", "run", "config.yaml", "-o", "run", "sed=3"), "seed"),
    (("cg-eval", "simulate", "bundle", "dataset", "-o", "simulation", "temperature_kelvn=300"), "temperature_kelvin"),
    (("cg-export", "lammps", "bundle", "stps=10"), "steps"),
]

# Commands whose input, named missing, does not exist.
MISSING_INPUT = [
    ("cg-data", "prepare", "missing.h5", "-o", "dataset"),
    ("cg-data", "inspect", "missing"),
    ("cg-priors", "fit", "missing", "-o", "prior.yaml"),
    ("cg-priors", "check", "missing.yaml"),
    ("cg-models", "describe", "missing.yaml"),
    ("cg-train", "run", "missing.yaml", "-o", "run"),
    ("cg-eval", "forces", "missing", "dataset", "-o", "forces"),
    ("cg-export", "stablehlo", "missing", "-o", "artifact"),
]


def call(*command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command line of the workspace."""
    program = Path(sys.executable).parent / command[0]
    return attempt([program, *command[1:]], **({"cwd": folder} if folder else {}), environment={"JAX_PLATFORMS": "cpu"})


@cache
def verbs(package: str) -> tuple[str, ...]:
    """Return the verbs that a command line's help lists."""
    shown = call(package, "--help").stdout
    commands = re.split(r"^\W*Commands\b.*$", shown, flags=re.MULTILINE)[-1]
    return tuple(re.findall(r"^(?:│| ) ([a-z][a-z-]+)\s{2,}", commands, re.MULTILINE))


@pytest.mark.parametrize("package", PACKAGES)
def test_help_lists_the_verbs(package: str) -> None:
    assert set(verbs(package)) >= VERBS[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_help_of_every_verb_says_what_it_does_and_ends_with_an_example(package: str) -> None:
    assert verbs(package)
    for verb in verbs(package):
        shown = call(package, verb, "--help")
        assert shown.returncode == 0, shown.stderr
        ending = " ".join(shown.stdout.rpartition("Example:")[2].split())
        assert ending.startswith(f"{package} {verb}"), f"{package} {verb} --help has no example"
        assert "--help" not in ending, "the example stands last"


@pytest.mark.parametrize("package", PACKAGES)
def test_unknown_verb_ends_with_code_2(package: str) -> None:
    done = call(package, "no-such-verb")
    assert done.returncode == 2
    assert "no-such-verb" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("command", "meant"), MISSPELLED, ids=[command[0] for command, _ in MISSPELLED])
def test_misspelled_key_gives_one_line_with_the_key_that_is_meant(command: tuple[str, ...], meant: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}\n")
    done = call(*command, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"did you mean '{meant}'?" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml"}, "nothing is left behind"


@pytest.mark.parametrize("command", MISSING_INPUT, ids=" ".join)
def test_input_that_does_not_exist_gives_one_line_with_its_name(command: tuple[str, ...], tmp_path: Path) -> None:
    done = call(*command, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "missing" in done.stderr
    assert not list(tmp_path.iterdir()), "nothing is left behind"
