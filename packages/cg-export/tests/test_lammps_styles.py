"""The pair style among LAMMPS's other features: pressure, hybrid/overlay, restart files, copies, far-reaching energies."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.contracts import Array
from cg_export.artifact import Artifact, compare, export_artifact
from cg_export.lammps.run import read_dump, run_lammps
from cg_export.lammps.system import System
from cg_export.parity import lammps_forces
from cg_models.backbones.painn.config import PainnConfig
from cg_models.bundle import Bundle

TOLERANCE = 1e-6
RUN = "run             ${steps} upto\n"
VIRIAL_UNIT = 68568.415
"""atmospheres in one kcal/mol/angstrom^3, LAMMPS's nktv2p of `units real`."""


def test_pressure_is_the_derivative_of_the_energy_by_the_volume(write: Callable[..., Path], chain_system: Callable[..., System]) -> None:
    # Two segments across the boundary of a periodic box; every bead and the box are scaled by 1 + s.
    system = chain_system([12, 9], seed=6)
    step, edge = 1e-3, 60.0
    factors = (1 - step, (1 + step) / (1 - step), 1 / (1 + step))
    scales = "".join(f"change_box all x scale {f} y scale {f} z scale {f} remap\nrun 0\n" for f in factors)
    commands = "compute virial all pressure NULL virial\nthermo_style custom step pe c_virial\ndisplace_atoms all move 30 30 30\n" + scales
    folder = write(system, {RUN: commands}, ensemble="nve", box_angstrom=edge)
    run = run_lammps(folder)
    shrunk, grown, _ = run.thermo["PotEng"]
    slope = -(grown - shrunk) / (((1 + step) ** 3 - (1 - step) ** 3) * edge**3) * VIRIAL_UNIT
    assert run.thermo["c_virial"][2] == pytest.approx(slope, rel=2e-3)


def test_hybrid_overlay_adds_another_style(write: Callable[..., Path], artifact: Path, chain_system: Callable[..., System]) -> None:
    system = chain_system([9, 8], seed=8)
    both = "pair_style      hybrid/overlay cg lj/cut 9.0\npair_coeff      * * cg ${model}"
    more = "pair_coeff      * * lj/cut 0.3 4.0\nspecial_bonds   lj 0 0 0 coul 1 1 1\n"
    replacements = {"pair_style      cg python\npair_coeff      * * ${model}": both, "special_bonds   lj/coul 1 1 1\n": more}
    folder = write(system, replacements | {RUN: DUMP + "run 0\n"}, ensemble="nve")
    run_lammps(folder)
    found = _forces_of(folder)
    loaded = Artifact(artifact)
    graph = loaded.graph(system.positions, loaded.manifest.species_index(system.names), system.residue_index, system.chain_index)
    energies, forces = loaded.energy_and_forces(graph)
    extra = jax.grad(lambda x: -_lennard_jones(x, system, 0.3, 4.0, 9.0))(jnp.asarray(system.positions))
    assert np.abs(extra).max() > 0.01
    np.testing.assert_allclose(found[:, 1:4], forces + extra, atol=TOLERANCE * np.abs(forces).max())
    expected = float(energies.sum()) + float(_lennard_jones(jnp.asarray(system.positions), system, 0.3, 4.0, 9.0))
    assert found[:, 0].sum() == pytest.approx(expected, rel=TOLERANCE)


def _lennard_jones(positions: Array, system: System, epsilon: float, sigma: float, cutoff: float) -> Array:
    first, second = np.triu_indices(system.n_beads, 1)
    same = system.chain_index[first] == system.chain_index[second]
    bonded = same & (np.abs(system.residue_index[first] - system.residue_index[second]) <= 3)
    first, second = first[~bonded], second[~bonded]
    r = jnp.linalg.norm(positions[first] - positions[second], axis=1)
    return jnp.sum(jnp.where(r < cutoff, 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6), 0.0))


def test_restarted_run_continues_the_uninterrupted_one(write: Callable[..., Path], chain_system: Callable[..., System]) -> None:
    system = chain_system([10])
    folder = write(system, {RUN: "run 40\nwrite_restart half.restart\n" + DUMP + "run 40\n"}, ensemble="nve")
    run_lammps(folder)
    whole = _forces_of(folder)
    text = (folder / "in.lammps").read_text()
    rest = text[text.index("run 40") :]
    (folder / "in.again").write_text(text.replace(rest, DUMP.replace("forces.dump", "again.dump") + "run 40\n"))
    run_lammps(folder, "in.again", variables={"restart": "half.restart", "part": 2})
    again = _forces_of(folder, "again.dump")
    np.testing.assert_allclose(again[:, 4:], whole[:, 4:], atol=1e-6)


@pytest.mark.parametrize("commands", ["run_style respa 2 2 bond 1 pair 2\n", "tracker"], ids=["respa", "hybrid with explicit sums"])
def test_pressure_is_right_where_lammps_leaves_the_virial_to_pair_styles(
    commands: str, write: Callable[..., Path], chain_system: Callable[..., System]
) -> None:
    system = chain_system([9, 7], seed=6)
    virial = "compute virial all pressure NULL virial\nthermo_style custom step pe c_virial\n"
    expected = run_lammps(write(system, {RUN: virial + "run 0\n"}, ensemble="nve", box_angstrom=90.0)).thermo["c_virial"][0]
    pieces = {RUN: virial + "run 0\n"}
    if commands == "tracker":
        pieces["pair_style      cg python\npair_coeff      * * ${model}"] = (
            "pair_style hybrid/overlay cg tracker found 1000 id1 id2\npair_coeff * * tracker 0.001\npair_coeff * * cg ${model}"
        )
    else:
        pieces[RUN] = virial + commands + "run 0\n"
    found = run_lammps(write(system, pieces, ensemble="nve", box_angstrom=90.0)).thermo["c_virial"][0]
    assert abs(expected) > 1.0
    assert found == pytest.approx(expected, rel=1e-6)


def test_molecule_of_null_types_feels_nothing_of_the_artifact_although_it_has_bonds(
    write: Callable[..., Path], artifact: Path, chain_system: Callable[..., System]
) -> None:
    system = chain_system([9, 7], seed=8)
    pieces = {
        "pair_style      cg python\npair_coeff      * * ${model}": "pair_style hybrid/overlay cg zero 9.0\n"
        "pair_coeff * * zero\npair_coeff * * cg ${model}",
        "THR TRP TYR VAL\n": "THR TRP TYR VAL NULL\n",
        RUN: DUMP + "run 0\n",
    }
    folder = write(system, pieces, ensemble="nve")
    _make_null(folder / "system.data", 21)
    run_lammps(folder)
    found = _forces_of(folder)
    alone = chain_system([9, 7], seed=8)
    loaded = Artifact(artifact)
    first = slice(0, 9)
    graph = loaded.graph(
        alone.positions[first], loaded.manifest.species_index(alone.names[first]), alone.residue_index[first], alone.chain_index[first]
    )
    assert compare(found[first, 0], found[first, 1:4], *loaded.energy_and_forces(graph)).worst() < TOLERANCE
    assert not found[9:, :4].any()


def _make_null(path: Path, new_type: int) -> None:
    """Give the beads of molecule 2 in a data file a type of their own."""
    lines = path.read_text().replace("20 atom types", f"{new_type} atom types").splitlines()
    start = lines.index("Atoms # molecular")
    rows = [line.split() for line in lines]
    changed = [
        " ".join([*row[:2], str(new_type), *row[3:]]) if i > start and len(row) == 9 and row[1] == "2" else line
        for i, (row, line) in enumerate(zip(rows, lines, strict=True))
    ]
    last_mass = next(i for i, row in enumerate(rows) if row[:1] == ["20"] and row[-1] == "VAL")
    changed.insert(last_mass + 1, f"{new_type} 100.0")
    path.write_text("\n".join([*changed, ""]))


def test_copies_far_apart_have_the_energy_of_one_each(
    write: Callable[..., Path], artifact: Path, chain_system: Callable[..., System]
) -> None:
    system = chain_system([7], seed=9)
    folder = write(system, steps=0, copies=3, box_angstrom=200.0)
    loaded = Artifact(artifact)
    graph = loaded.graph(system.positions, loaded.manifest.species_index(system.names), system.residue_index, system.chain_index)
    one = float(loaded.energy_and_forces(graph)[0].sum())
    assert run_lammps(folder, ranks=2).thermo["PotEng"][0] == pytest.approx(3 * one, rel=TOLERANCE)


def test_message_passing_that_sees_two_cutoffs_far_is_right_across_ranks_and_boundaries(
    plugin: Path, tmp_path: Path, chain_system: Callable[..., System], make_bundle: Callable[..., Bundle]
) -> None:
    painn = PainnConfig(layers=2, num_features=4, num_radial=4, mlp_n_hidden=8)
    manifest = export_artifact(make_bundle(None, mode="backbone", backbone=painn), tmp_path / "far", "float64", ladder=())
    assert manifest.receptive_field_angstrom == 2 * manifest.cutoff_angstrom == 20.0
    system = chain_system([15, 15], seed=10)
    frames = system.positions[None] + np.array([[0.0, 0.0, 0.0], [50.0, 50.0, 50.0]])[:, None]
    loaded = Artifact(tmp_path / "far")
    graph = loaded.graph(system.positions, loaded.manifest.species_index(system.names), system.residue_index, system.chain_index)
    expected = loaded.energy_and_forces(graph)
    for found in lammps_forces(tmp_path / "far", system, frames, 2, plugin, 100.0):
        assert compare(*found, *expected).worst() < 1e-10


DUMP = """
compute         energy all pe/atom
dump            forces all custom 40 forces.dump id c_energy fx fy fz xu yu zu
dump_modify     forces sort id format float %.17g
"""


def _forces_of(folder: Path, name: str = "forces.dump") -> np.ndarray:
    return read_dump(folder / name, ["c_energy", "fx", "fy", "fz", "xu", "yu", "zu"])[-1][1]
