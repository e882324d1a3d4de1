"""Runtime `pjrt` in real LAMMPS, without Python and without a GPU.

Optional: it needs a PJRT library for CPUs, built over the tensorflow-cpu wheel (see the README), and runs where the environment names
the folder of that package in CG_TENSORFLOW. CG_PJRT_CPU may name the library, once built.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_export.artifact import Artifact, compare, export_artifact
from cg_export.lammps.build import build_plugin
from cg_export.lammps.build_pjrt import build_pjrt_cpu, pjrt_include
from cg_export.lammps.input import LammpsConfig
from cg_export.lammps.run import read_dump, run_lammps
from cg_export.lammps.system import System
from cg_export.lammps.write import write_lammps
from cg_export.lower import Budget
from cg_models.bundle import Bundle

TENSORFLOW = os.environ.get("CG_TENSORFLOW", "")
needs_pjrt = pytest.mark.skipif(not TENSORFLOW, reason="CG_TENSORFLOW names no tensorflow-cpu package")
DUMP = """
compute         energy all pe/atom
dump            forces all custom 5 forces.dump id c_energy fx fy fz xu yu zu
dump_modify     forces sort id format float %.17g
"""


@pytest.fixture(scope="module")
def library(shared: Callable[..., Path]) -> Path:
    built = os.environ.get("CG_PJRT_CPU")
    return Path(built) if built else shared("pjrt_cpu.so", lambda path: build_pjrt_cpu(TENSORFLOW, path))


@pytest.fixture(scope="module")
def pjrt_plugin(shared: Callable[..., Path]) -> Path:
    return shared("pjrtplugin.so", lambda path: build_plugin(path, pjrt_include=pjrt_include(TENSORFLOW)))


@pytest.fixture(scope="module")
def model(bundle: Bundle, shared: Callable[..., Path]) -> Path:
    ladder = (Budget.of_beads(24, 24), Budget.of_beads(80, 40))
    return shared("pjrt-model", lambda path: export_artifact(bundle, path, ladder=ladder, platforms=("cpu",)))


def _write(model: Path, system: System, library: Path, plugin: Path, folder: Path, commands: str, **options: object) -> Path:
    config = LammpsConfig.model_validate({"runtime": "pjrt", "pjrt_library": str(library), "ensemble": "nve", **options})
    write_lammps(model, system, folder, config, plugin=plugin)
    text = (folder / "in.lammps").read_text()
    (folder / "in.lammps").write_text(text.replace("run             ${steps} upto\n", commands))
    return folder


@needs_pjrt
@pytest.mark.parametrize("ranks", [1, 2])
def test_static_modules_give_the_artifacts_forces_before_and_after_growth(
    ranks: int, model: Path, library: Path, pjrt_plugin: Path, meeting: tuple[System, np.ndarray, str], tmp_path: Path
) -> None:
    start, _, closer = meeting
    commands = "run 30\n" + closer + DUMP + "run 0\nrun 100\n"
    folder = _write(model, start, library, pjrt_plugin, tmp_path / "run", commands, temperature_kelvin=1.0)
    run = run_lammps(folder, ranks=ranks)
    assert "compiled for 24 beads" in run.log.read_text()
    loaded = Artifact(model)
    snapshots = read_dump(folder / "forces.dump", ["c_energy", "fx", "fy", "fz", "xu", "yu", "zu"])
    assert len(snapshots) > 10
    # Odd and even steps use different sets of buffers.
    for _, found in snapshots:
        graph = loaded.graph(found[:, 4:], loaded.manifest.species_index(start.names), start.residue_index, start.chain_index)
        assert compare(found[:, 0], found[:, 1:4], *loaded.energy_and_forces(graph)).worst() < 1e-6
    assert np.isfinite(run.thermo["TotEng"]).all()


@needs_pjrt
def test_more_beads_than_any_module_holds_is_refused(
    model: Path, library: Path, pjrt_plugin: Path, chain_system: Callable[..., System], tmp_path: Path
) -> None:
    folder = _write(model, chain_system([90]), library, pjrt_plugin, tmp_path / "run", "run 0\n")
    with pytest.raises(UserError, match=r"expected a module for 90 beads .* the largest holds 80 and 3200: export the artifact with"):
        run_lammps(folder)


@needs_pjrt
def test_library_that_is_none_is_refused(model: Path, pjrt_plugin: Path, chain_system: Callable[..., System], tmp_path: Path) -> None:
    folder = _write(model, chain_system([9]), tmp_path / "nothing.so", pjrt_plugin, tmp_path / "run", "run 0\n")
    with pytest.raises(UserError, match="cannot open the PJRT library"):
        run_lammps(folder)


def test_plugin_without_the_runtime_says_how_to_build_it(
    artifact: Path, plugin: Path, chain_system: Callable[..., System], tmp_path: Path
) -> None:
    folder = _write(artifact, chain_system([9]), Path("any.so"), plugin, tmp_path / "run", "run 0\n")
    with pytest.raises(UserError, match="built without the runtime pjrt: run cg-export build-plugin --pjrt-include"):
        run_lammps(folder)


def test_build_with_a_folder_without_the_pjrt_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected pjrt_c_api\.h in --pjrt-include"):
        build_plugin(tmp_path / "cgplugin.so", pjrt_include=tmp_path)
