"""Fixtures of the tests across packages."""

from pathlib import Path

import pytest

from .workspace import ROOT, run, uv


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the six wheels, built by way of source distributions from the tree as it is, by package name."""
    folder = tmp_path_factory.mktemp("wheels")
    run([uv(), "build", "--quiet", "--all-packages", "--out-dir", folder], cwd=ROOT)
    return {path.name.split("-")[0].replace("_", "-"): path for path in sorted(folder.glob("*.whl"))}
