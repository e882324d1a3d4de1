"""The plugin under AddressSanitizer in real LAMMPS. Optional, as it is slow: it runs where CG_EXPORT_SANITIZER=1."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cg_export.lammps.build import build_plugin, find_compiler
from cg_export.lammps.run import run_lammps
from cg_export.lammps.system import System


@pytest.mark.skipif(os.environ.get("CG_EXPORT_SANITIZER") != "1", reason="CG_EXPORT_SANITIZER is not 1")
@pytest.mark.parametrize("ranks", [1, 2])
def test_no_memory_error_while_atoms_migrate_and_budgets_grow(
    ranks: int, write: Callable[..., Path], chain_system: Callable[..., System], shared: Callable[..., Path], tmp_path: Path
) -> None:
    flags = ["-fsanitize=address", "-fno-omit-frame-pointer", "-g"]
    plugin = shared("asanplugin.so", lambda path: build_plugin(path, extra_flags=flags))
    library = subprocess.run(
        [find_compiler(None), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    folder = write(
        chain_system([12, 9], seed=5), steps=300, temperature_kelvin=600.0, box_angstrom=110.0, copies=2, copy_spacing_angstrom=4.0
    )
    text = (folder / "in.lammps").read_text()
    lines = [f"variable        plugin index {plugin}" if line.startswith("variable        plugin") else line for line in text.splitlines()]
    (folder / "in.lammps").write_text("\n".join([*lines, ""]))
    # Python and XLA keep memory to the end by design; their leaks are not the plugin's.
    settings = f"detect_leaks=0:log_path={tmp_path / 'report'}"
    run_lammps(folder, ranks=ranks, extra_environment={"LD_PRELOAD": library, "ASAN_OPTIONS": settings})
    assert list(tmp_path.glob("report*")) == []
