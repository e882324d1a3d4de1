"""Everything here runs in real LAMMPS."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cg_export.artifact import Artifact, compare
from cg_export.lammps.run import read_dump, run_lammps
from cg_export.lammps.system import System
from cg_export.parity import lammps_forces, parity
from cg_models.bundle import Bundle

TOLERANCE = 1e-6

Write = Callable[..., Path]

DUMP_FORCES = """
compute         energy all pe/atom
dump            forces all custom {every} forces.dump id c_energy fx fy fz xu yu zu
dump_modify     forces sort id format float %.17g
"""


def _forces(folder: Path, snapshot: int = -1) -> np.ndarray:
    return read_dump(folder / "forces.dump", ["c_energy", "fx", "fy", "fz", "xu", "yu", "zu"])[snapshot][1]


def _expected(artifact: Path, system: System, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    loaded = Artifact(artifact)
    species = loaded.manifest.species_index(system.names)
    return loaded.energy_and_forces(loaded.graph(positions, species, system.residue_index, system.chain_index))


def test_lammps_equals_the_artifact_and_the_bundle_on_one_and_two_ranks(
    bundle: Bundle, artifact: Path, plugin: Path, chain_system: Callable[..., System]
) -> None:
    random = np.random.default_rng(0)
    systems = {}
    for name, segments in {"one chain": [10], "chain break": [13, 9], "two chains and a bead": [17, 12, 1]}.items():
        system = chain_system(segments, seed=len(segments))
        systems[name] = (system, system.positions[None] + 0.05 * random.normal(size=(2, system.n_beads, 3)))
    rows = parity(bundle, systems, artifact, ranks=(1, 2), plugin=plugin)
    assert len(rows) == 9
    assert max(row.errors.worst() for row in rows) < TOLERANCE
    assert all(row.passed for row in rows)


@pytest.mark.parametrize("ranks", [1, 2])
def test_chain_across_periodic_boundaries_has_the_forces_of_free_space(
    ranks: int, artifact: Path, plugin: Path, chain_system: Callable[..., System]
) -> None:
    system = chain_system([14, 8], seed=7)
    box = 90.0
    frames = system.positions + np.array([[0.0, 0.0, 0.0], [45.0, 45.0, 45.0], [45.0, 0.0, -40.0]])[:, None]
    expected = _expected(artifact, system, system.positions)
    for found in lammps_forces(artifact, system, frames, ranks, plugin, box):
        assert compare(*found, *expected).worst() < TOLERANCE


def test_sorting_and_migrating_atoms_change_nothing(write: Write, artifact: Path, chain_system: Callable[..., System]) -> None:
    system = chain_system([18, 12], seed=2)
    dump = {"\nvelocity ": "\natom_modify sort 20 8.0\n" + DUMP_FORCES.format(every=300) + "\nvelocity "}
    # With "loop geom" a bead gets the same velocity on any number of ranks.
    replacements = dump | {"neighbor        2 bin": "neighbor        0.5 bin", "dist gaussian": "dist gaussian loop geom"}
    replacements["cg python"] = "cg python reserve 64 640"
    options = {"ensemble": "nve", "steps": 300, "temperature_kelvin": 600.0, "box_angstrom": 120.0}
    results = []
    for ranks in (1, 2):
        folder = write(system, replacements, **options)
        run = run_lammps(folder, ranks=ranks)
        results.append(_forces(folder))
        text = run.log.read_text()
        builds = int(text.split("Neighbor list builds = ")[1].split()[0])
        assert builds > 10
        # Between rebuilds lists stay as they are, and memory is allocated only to compile.
        fills, allocated = map(int, re.findall(r"lists filled (\d+) times, (\d+) buffers allocated", text)[0])
        assert text.count("compiled for") == 1
        assert fills == builds + 1
        assert allocated == 16
    one, two = results
    moved = np.abs(one[:, 4:] - system.positions).max()
    assert moved > 1.0
    np.testing.assert_allclose(two[:, 4:], one[:, 4:], atol=1e-4)
    energies, forces = _expected(artifact, system, two[:, 4:])
    assert compare(two[:, 0], two[:, 1:4], energies, forces).worst() < TOLERANCE


def test_energy_of_thermo_is_the_sum_over_beads(write: Write, artifact: Path, chain_system: Callable[..., System]) -> None:
    system = chain_system([9, 5])
    folder = write(system, steps=0)
    run = run_lammps(folder)
    assert run.thermo["PotEng"][0] == pytest.approx(float(_expected(artifact, system, system.positions)[0].sum()), rel=1e-6)


def test_langevin_keeps_the_chain_and_the_temperature(write: Write, chain_system: Callable[..., System]) -> None:
    system = chain_system([10])
    folder = write(system, steps=20_000, dump_every=100, timestep_femtoseconds=5.0, minimise_steps=20)
    run = run_lammps(folder)
    positions = np.stack([values for _, values in read_dump(folder / "trajectory.lammpstrj", ["xu", "yu", "zu"])])
    bonds = np.linalg.norm(np.diff(positions, axis=1), axis=-1)
    assert bonds.min() > 3.0
    assert bonds.max() < 4.8
    # 100 ps leave about 5 % of statistical error.
    assert run.thermo["Temp"][20:].mean() == pytest.approx(320.0, rel=0.15)


def test_energy_drifts_by_less_than_1e_4_a_bead_in_100_000_steps(
    write: Write, restricted_artifact: Path, chain_system: Callable[..., System]
) -> None:
    # An angle that reaches 180 degrees, as those of a random chain's own prior do, costs 1e-3 in a moment at any time step.
    options = {"steps": 100_000, "ensemble": "nve", "timestep_femtoseconds": 1.0, "minimise_steps": 20}
    folder = write(chain_system([8], seed=3), model=restricted_artifact, **options)
    run = run_lammps(folder)
    steps, total = run.thermo["Step"][-1001:], run.thermo["TotEng"][-1001:]
    assert steps[-1] - steps[0] == 100_000
    slope, _ = np.polyfit(steps, total / 8, 1)
    assert abs(slope) * 100_000 < 1e-4


def test_growth_in_the_middle_of_a_run_compiles_again_and_goes_on(
    write: Write, artifact: Path, meeting: tuple[System, np.ndarray, str]
) -> None:
    start, together, closer = meeting
    commands = "run 0\n" + closer + DUMP_FORCES.format(every=1) + "run 0\n"
    folder = write(start, {"run             ${steps} upto\n": commands}, ensemble="nve")
    run = run_lammps(folder)
    text = run.log.read_text()
    assert text.count("compiled for") == 2
    found = _forces(folder)
    assert compare(found[:, 0], found[:, 1:4], *_expected(artifact, start, together)).worst() < TOLERANCE
