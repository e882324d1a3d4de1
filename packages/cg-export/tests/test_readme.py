"""The README's examples of other programs run as written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cg_export.lammps.system import System

README = Path(__file__).parents[1] / "README.md"


def _examples() -> list[str]:
    section = README.read_text().split("\n## Outside LAMMPS\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def _positions(names: dict[str, Any]) -> np.ndarray:
    """Return the positions [n_beads, 3] in angstrom at the end of an example, whose variables are given."""
    if "atoms" in names:
        return np.asarray(names["atoms"].positions)
    if "context" in names:
        return np.asarray(names["context"].getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(names["unit"].angstrom))
    return np.asarray(names["state"].position)


@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")  # of jax-md itself
@pytest.mark.parametrize(("place", "package"), [(0, "ase"), (1, "openmm"), (2, "jax_md")], ids=["ASE", "OpenMM", "jax-md"])
def test_example_of_ten_lines_moves_a_protein(
    place: int, package: str, artifact: Path, chain_system: Callable[..., System], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    code = _examples()[place]
    assert package in code
    assert len(code.splitlines()) <= 12
    system = chain_system([10])
    rows = enumerate(zip(system.names, system.positions, strict=True), 1)
    lines = [f"ATOM  {i:5d}  CA  {name} A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C" for i, (name, (x, y, z)) in rows]
    (tmp_path / "protein.pdb").write_text("\n".join([*lines, "END", ""]))
    (tmp_path / "artifact").symlink_to(artifact)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    moved = np.linalg.norm(_positions(names) - system.positions, axis=1)
    # One step of jax-md, 4 ps of the others.
    assert 1e-3 < moved.max() < 20.0
    assert np.isfinite(moved).all()
