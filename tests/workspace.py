"""What the tests across packages share: where things are, what is tracked, and how to run uv and other programs."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cg-data", "cg-priors", "cg-models", "cg-train", "cg-eval", "cg-export")

# Each package and the members it may import: the arrows of the workspace, all of them.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "cg-data": frozenset(),
    "cg-priors": frozenset({"cg-data"}),
    "cg-models": frozenset({"cg-data", "cg-priors"}),
    "cg-train": frozenset({"cg-data", "cg-priors", "cg-models"}),
    "cg-eval": frozenset({"cg-data", "cg-priors", "cg-models"}),
    "cg-export": frozenset({"cg-data", "cg-priors", "cg-models"}),
}


def module_of(package: str) -> str:
    """Return the import name of a package."""
    return package.replace("-", "_")


def project(package: str) -> dict[str, Any]:
    """Return a member's pyproject.toml."""
    return tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())


def sources(folder: Path) -> list[Path]:
    """Return the Python files under `folder`, sorted, without caches."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def tracked_files() -> list[Path]:
    """Return the files that are, or would be, committed: tracked ones and new ones that git does not ignore."""
    listing = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]).stdout
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def run(
    command: Sequence[str | Path], *, cwd: Path = ROOT, environment: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its output as text; fail with that output where it does not succeed."""
    done = attempt(command, cwd=cwd, environment=environment, timeout=timeout)
    if done.returncode != 0:
        shown = " ".join(str(part) for part in command)
        raise AssertionError(f"{shown}\nended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done


def attempt(
    command: Sequence[str | Path], *, cwd: Path = ROOT, environment: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its output and exit status, whatever they are."""
    clean = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def uv() -> str:
    """Return the path of the uv program (`uv run` exports its own)."""
    found = os.environ.get("UV") or shutil.which("uv")
    if not found:
        raise FileNotFoundError("uv is not on PATH: these tests build and install the packages with it")
    return found
