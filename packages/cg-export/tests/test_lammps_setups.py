"""What `cg-export lammps` can set up, in real LAMMPS: native priors, several proteins, replica exchange."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_export.artifact import compare, export_artifact
from cg_export.lammps.input import LammpsConfig, input_file
from cg_export.lammps.run import read_dump, run_lammps
from cg_export.lammps.system import System, combine
from cg_export.lammps.write import write_lammps
from cg_export.manifest import read_manifest
from cg_models.bundle import Bundle

INTERPOLATION_TOLERANCE = 1e-5
"""Of native against embedded priors: LAMMPS interpolates tables."""
RUN = "run             ${steps} upto\n"
DUMP = """
compute         energy all pe/atom
dump            forces all custom 1 forces.dump id c_energy fx fy fz
dump_modify     forces sort id format float %.17g
"""


def _bundle_energy_and_forces(bundle: Bundle, system: System) -> tuple[np.ndarray, np.ndarray]:
    graph = bundle.graph(system.positions, list(system.names), system.residue_index, system.chain_index, rows=False)
    energies, forces = bundle.energy_and_forces(graph)
    return np.asarray(energies), np.asarray(forces)


@pytest.mark.parametrize(
    ("ranks", "box", "first"), [(1, None, "package omp 2\nsuffix omp\n"), (2, 100.0, "")], ids=["two threads", "two ranks"]
)
def test_native_priors_and_the_network_equal_the_bundle(
    ranks: int, box: float | None, first: str, bundle: Bundle, write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    system = chain_system([16, 9], seed=11)
    pieces = {"units  ": first + "units  ", RUN: DUMP + "run 0\n"}
    folder = write(system, pieces, bundle, ensemble="nve", priors="native", box_angstrom=box)
    run = run_lammps(folder, ranks=ranks)
    found = read_dump(folder / "forces.dump", ["c_energy", "fx", "fy", "fz"])[-1][1]
    energies, forces = _bundle_energy_and_forces(bundle, system)
    # LAMMPS shares a tuple's energy among its beads as the bundle does, so even the energies of beads agree.
    assert compare(found[:, 0], found[:, 1:], energies, forces).worst() < INTERPOLATION_TOLERANCE
    assert run.thermo["PotEng"][0] == pytest.approx(energies.sum(), rel=INTERPOLATION_TOLERANCE)


def test_native_priors_need_a_bundle_of_prior_and_network(
    bundle: Bundle, artifact: Path, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    config = LammpsConfig(priors="native")
    system = System(("ALA",), np.zeros((1, 3)), np.zeros(1, int), np.zeros(1, int))
    with pytest.raises(UserError, match="expected a bundle, received artifact"):
        write_lammps(artifact, system, tmp_path / "run", config, plugin=tmp_path)
    alone = make_bundle(None, mode="backbone")
    with pytest.raises(UserError, match="expected a model of mode hybrid, received mode backbone"):
        write_lammps(alone, system, tmp_path / "run", config, plugin=tmp_path)


@pytest.mark.parametrize("lengths", [[2], [3, 1]])
def test_chains_too_short_for_angles_or_dihedrals_run(
    lengths: list[int], bundle: Bundle, write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    system = chain_system(lengths)
    folder = write(system, {RUN: DUMP + "run 0\n"}, ensemble="nve")
    run_lammps(folder)
    found = read_dump(folder / "forces.dump", ["c_energy", "fx", "fy", "fz"])[-1][1]
    assert compare(found[:, 0], found[:, 1:], *_bundle_energy_and_forces(bundle, system)).worst() < 1e-6


@pytest.mark.parametrize("box", [None, 150.0])
def test_two_proteins_in_two_copies_have_the_forces_of_the_bundle(
    box: float | None, bundle: Bundle, write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    proteins = [chain_system([9], seed=1), chain_system([7, 5], seed=2)]
    # So near that copies see each other.
    options = {"copies": 2, "copy_spacing_angstrom": 6.0, "box_angstrom": box, "ensemble": "nve"}
    folder = write(proteins, {RUN: DUMP + "run 0\n"}, **options)
    run_lammps(folder)
    found = read_dump(folder / "forces.dump", ["c_energy", "fx", "fy", "fz"])[-1][1]
    together = combine([protein for protein in proteins for _ in range(2)], 6.0)
    assert together.n_beads == 42
    assert compare(found[:, 0], found[:, 1:], *_bundle_energy_and_forces(bundle, together)).worst() < 1e-6


def test_replica_exchange_runs_one_partition_for_each_temperature_and_exchanges(
    write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    # Equal temperatures but for a hair: every attempt is accepted.
    options = {"ensemble": "tempering", "tempering_kelvin": (320.0, 320.001), "exchange_every": 20, "steps": 100, "dump_every": 50}
    folder = write(chain_system([6]), **options)
    run = run_lammps(folder, partitions=2)
    table = np.stack([run.thermo["T0"], run.thermo["T1"]], axis=1)
    assert run.thermo["Step"].tolist() == [0, 20, 40, 60, 80, 100]
    assert set(map(tuple, table.tolist())) == {(0, 1), (1, 0)}
    first, second = (read_dump(folder / f"trajectory.{k}.lammpstrj", ["xu", "yu", "zu"])[-1] for k in (0, 1))
    assert first[0] == second[0] == 100
    assert np.abs(first[1] - second[1]).max() > 1e-3
    assert "lmp -partition 2x1 -in in.lammps" in (folder / "in.lammps").read_text()
    assert "--ntasks=2" in (folder / "run.sbatch").read_text()
    assert '"$LMP" -partition 2x1 -in' in (folder / "run.sbatch").read_text()


def test_error_in_a_partition_is_lammps_own_line(write: Callable[..., Path], chain_system: Callable[..., System]) -> None:
    options = {"ensemble": "tempering", "tempering_kelvin": (320.0, 330.0), "exchange_every": 20, "steps": 20}
    folder = write(chain_system([6]), {"ALA ARG": "XYZ ARG"}, **options)
    (folder / "log.lammps").write_text("ERROR: of an earlier run\n")
    with pytest.raises(UserError, match=r"ERROR: .*atom type 1 names species 'XYZ'"):
        run_lammps(folder, partitions=2)


def test_species_that_the_prior_lacks_is_refused_with_native_priors(bundle: Bundle, tmp_path: Path) -> None:
    system = System(("ALA", "XYZ"), np.zeros((2, 3)), np.arange(2), np.zeros(2, int))
    with pytest.raises(UserError, match="species 'XYZ' is not in the model"):
        write_lammps(bundle, system, tmp_path / "run", LammpsConfig(priors="native"), plugin=tmp_path)
    assert not (tmp_path / "run").exists()


def test_ghost_distance_reaches_a_receptive_field_of_many_digits(artifact: Path) -> None:
    manifest = read_manifest(artifact).model_copy(update={"receptive_field_angstrom": 2 * 10.1234567})
    config = LammpsConfig(skin_angstrom=2.12341)
    text = input_file(config, manifest, Path("x.so"), {"bond": True, "angle": True, "dihedral": True})
    words = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    skin, reach = float(words["neighbor"][1]), float(words["comm_modify"][2])
    assert skin == config.skin_angstrom
    assert reach >= (manifest.receptive_field_angstrom + skin) * (1 - 1e-12)


@pytest.mark.parametrize(("plugin", "library", "named"), [("a b/x.so", None, "plugin"), ("x.so", "/lib a/pjrt.so", "pjrt_library")])
def test_path_with_spaces_is_refused(
    plugin: str, library: str | None, named: str, artifact: Path, chain_system: Callable[..., System], tmp_path: Path
) -> None:
    """LAMMPS splits its input at spaces, and would look for two files."""
    config = LammpsConfig(runtime="pjrt" if library else "python", pjrt_library=library)
    with pytest.raises(UserError, match=rf"^{named}: expected a path without spaces"):
        write_lammps(artifact, chain_system([5]), tmp_path / "run", config, plugin=tmp_path / plugin)
    assert not (tmp_path / "run").exists()


def test_box_in_which_a_chain_meets_its_own_image_is_refused(artifact: Path, chain_system: Callable[..., System], tmp_path: Path) -> None:
    system = chain_system([12])
    extent = float(np.ptp(system.positions, axis=0).max())
    with pytest.raises(UserError, match=r"box_angstrom: expected at least \S+ A, so that a chain of .* enlarge the box"):
        write_lammps(artifact, system, tmp_path / "run", LammpsConfig(box_angstrom=extent + 9), plugin=tmp_path)
    write_lammps(artifact, system, tmp_path / "run", LammpsConfig(box_angstrom=extent + 11), plugin=tmp_path)


def test_run_on_a_part_of_a_model_says_so(
    bundle: Bundle, chain_system: Callable[..., System], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_artifact(bundle, tmp_path / "network", part="backbone", ladder=())
    with caplog.at_level("WARNING", logger="cg_export"):
        write_lammps(tmp_path / "network", chain_system([5]), tmp_path / "run", plugin=tmp_path)
    assert "network: the artifact holds the backbone alone, not the whole model" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tempering_kelvin": [300, 320]}, "with ensemble tempering, and only then"),
        ({"ensemble": "tempering", "tempering_kelvin": [320, 300]}, "two or more ascending temperatures"),
        ({"ensemble": "tempering", "tempering_kelvin": [300, 320], "steps": 10}, "multiple of exchange_every"),
        ({"runtime": "pjrt"}, "pjrt_library must be given with runtime pjrt"),
    ],
)
def test_contradicting_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        LammpsConfig.parse(options, "test")
