"""Fixtures of the tests across packages."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .virtual_slurm import VirtualSlurm, missing_programs, virtual_slurm
from .workspace import ROOT, run, uv


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the six wheels, built by way of source distributions from the tree as it is, by package name."""
    folder = tmp_path_factory.mktemp("wheels")
    run([uv(), "build", "--quiet", "--all-packages", "--out-dir", folder], cwd=ROOT)
    return {path.name.split("-")[0].replace("_", "-"): path for path in sorted(folder.glob("*.whl"))}


@pytest.fixture(scope="session")
def slurm() -> Iterator[VirtualSlurm]:
    """Yield a virtual SLURM cluster of three nodes with two processors each; skip where SLURM is not installed."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"needs Debian's slurm-wlm and munge (.ci/run installs them); missing: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, virtual_slurm(Path(folder), n_nodes=3) as cluster:
        yield cluster
