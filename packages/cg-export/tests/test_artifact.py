import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from cg_data.atomic import sha256
from cg_data.configuration import Configuration
from cg_data.contracts import BeadGraph
from cg_data.errors import UserError
from cg_data.topology import frame_graph
from cg_export.artifact import Artifact, Errors, compare, export_artifact, graph_energy, self_test, with_precision
from cg_export.lammps.runtime import ARGUMENTS
from cg_export.lammps.system import System
from cg_export.lower import Budget, export_static, graph_arguments, jitted_function, pad_arguments
from cg_export.manifest import CHECKSUM_FILE, MANIFEST_FILE, read_manifest
from cg_models.backbones.mace.config import MaceConfig
from cg_models.backbones.pair.config import PairConfig
from cg_models.bundle import Bundle
from cg_priors.parameters import PriorParameters


@pytest.fixture(scope="module")
def system(chain_system: Callable[..., System]) -> System:
    return chain_system([13, 9], seed=4)


@pytest.fixture(scope="module")
def graph(system: System, bundle: Bundle) -> BeadGraph:
    species = bundle.species_index(system.names)
    return frame_graph(system.positions, species, system.residue_index, system.chain_index, bundle.cutoff_angstrom)


def test_artifact_equals_the_bundle(artifact: Path, bundle: Bundle, graph: BeadGraph) -> None:
    errors = compare(*Artifact(artifact).energy_and_forces(graph), *bundle.energy_and_forces(graph))
    assert errors.worst() < 1e-6


SMALL_MACE = MaceConfig(
    layers=1, num_features=4, max_ell=1, num_radial=4, correlation=2, readout=4, embed=4, mlp_n_hidden=8, mlp_n_layers=1
)
SMALL_PAIR = PairConfig(num_radial=4, mlp_n_hidden=8, mlp_n_layers=1)


# Painn is exported in float64 in test_lammps_styles.py.
@pytest.mark.parametrize(
    ("mode", "options"),
    [("prior", {}), ("backbone", {}), ("backbone", {"backbone": SMALL_MACE}), ("backbone", {"backbone": SMALL_PAIR})],
    ids=["prior", "allegro", "mace", "pair"],
)
def test_every_mode_and_backbone_exports_in_float64_to_rounding(
    mode: str,
    options: dict[str, Configuration],
    prior: PriorParameters,
    tmp_path: Path,
    graph: BeadGraph,
    make_bundle: Callable[..., Bundle],
) -> None:
    bundle = make_bundle(prior, mode=mode, **options)
    manifest = export_artifact(bundle, tmp_path / "model", "float64", ladder=())
    expected = with_precision(bundle, "float64").energy_and_forces(graph)
    assert compare(*Artifact(tmp_path / "model").energy_and_forces(graph), *expected).worst() < 1e-12
    assert manifest.needs_topology == (mode != "backbone")


def test_parts_add_up_to_the_whole(bundle: Bundle, graph: BeadGraph) -> None:
    parts = [np.asarray(jax.jit(graph_energy(bundle, part))(graph)) for part in ("backbone", "prior", "full")]
    np.testing.assert_allclose(parts[0] + parts[1], parts[2], atol=1e-6)


def test_network_stays_in_float32_although_positions_are_float64(artifact: Path) -> None:
    text = export.deserialize(bytearray((artifact / "model.jaxexport").read_bytes())).mlir_module()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert not [line for line in products if "f64" in line]


def test_ghosts_and_padding_carry_no_energy(bundle: Bundle, graph: BeadGraph) -> None:
    function = jitted_function(graph_energy(bundle, "full"))
    arguments = graph_arguments(graph)
    arguments["counts"][0] = 10
    energies, forces = function(*(pad_arguments(arguments, Budget(30, 900, 30, 30, 30))[name] for name in ARGUMENTS))
    expected = bundle.energy_and_forces(graph)[0]
    np.testing.assert_allclose(energies[:10], expected[:10], rtol=1e-6)
    assert not np.any(energies[10:])
    assert not np.any(forces[22:])
    assert np.any(forces[10:22])


def test_halves_on_two_ranks_add_up_to_the_whole(bundle: Bundle, graph: BeadGraph, system: System) -> None:
    function = jitted_function(graph_energy(bundle, "full"))
    total_energy, total_forces = 0.0, np.zeros((system.n_beads, 3))
    for local in (np.arange(11), np.arange(11, 22)):
        order = np.concatenate([local, np.setdiff1d(np.arange(22), local)])
        parts = [np.asarray(array)[order] for array in (graph.positions, graph.species, graph.residue_index, graph.chain_index)]
        arguments = graph_arguments(frame_graph(*parts, bundle.cutoff_angstrom))
        arguments["counts"][0] = len(local)
        energies, forces = function(*(arguments[name] for name in ARGUMENTS))
        total_energy += float(energies.sum())
        total_forces[order] += np.asarray(forces)
    energies, forces = bundle.energy_and_forces(graph)
    assert total_energy == pytest.approx(float(energies.sum()), rel=1e-6)
    np.testing.assert_allclose(total_forces, forces, atol=1e-6 * float(np.abs(forces).max()))


def test_static_modules_have_no_symbolic_size_and_one_entry_per_argument(
    artifact: Path, bundle: Bundle, ladder: tuple[Budget, ...]
) -> None:
    manifest = read_manifest(artifact)
    assert [module.beads for module in manifest.modules] == [ladder[0].beads]
    assert [sorted(module.platforms) for module in manifest.modules] == [["cpu", "cuda"]]
    assert export.deserialize(bytearray((artifact / "model.jaxexport").read_bytes())).platforms == ("cpu", "cuda")
    static = export_static(jitted_function(graph_energy(bundle, "full")), ladder[0], "cpu")
    assert "tensor<?" not in static.mlir_module()
    assert len(static.in_avals) == len(ARGUMENTS) == len(manifest.arguments)
    assert [tuple(spec.dtype for spec in manifest.arguments)] == [tuple(str(aval.dtype) for aval in static.in_avals)]


def test_manifest_lists_every_file_with_its_checksum(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    listed = {MANIFEST_FILE, CHECKSUM_FILE, *manifest.files}
    assert listed == {path.name for path in artifact.iterdir()}
    assert all(sha256(artifact / name) == checksum for name, checksum in manifest.files.items())
    assert self_test(artifact).worst() < 1e-6


@pytest.mark.parametrize("name", [MANIFEST_FILE, "model.jaxexport"])
def test_one_changed_byte_is_refused(name: str, artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "model")
    content = bytearray((tmp_path / "model" / name).read_bytes())
    position = content.index(b"10.0") + 1 if name == MANIFEST_FILE else len(content) // 2
    content[position] ^= 1
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(UserError, match="checksum mismatch"):
        read_manifest(tmp_path / "model")


def test_newer_artifact_is_refused_before_anything_else(artifact: Path, tmp_path: Path) -> None:
    newer = tmp_path / "model"
    shutil.copytree(artifact, newer)
    values = json.loads((newer / MANIFEST_FILE).read_text()) | {"format_version": 2, "something": "unknown"}
    (newer / MANIFEST_FILE).write_text(json.dumps(values))
    with pytest.raises(UserError, match="artifact format 2 is newer than 1"):
        read_manifest(newer)


def test_failed_self_test_leaves_nothing_behind(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cg_export.artifact.compare", lambda *_: Errors(0.0, 1.0))
    with pytest.raises(UserError, match="self-test failed"):
        export_artifact(bundle, tmp_path / "model", part="backbone", ladder=())
    assert list(tmp_path.iterdir()) == []


def test_unknown_species_is_named(artifact: Path) -> None:
    with pytest.raises(UserError, match="'XYZ' is not in the artifact"):
        read_manifest(artifact).species_index(["ALA", "XYZ"])


def test_loading_and_evaluating_does_not_switch_x64_on_for_others(artifact: Path, bundle: Bundle, graph: BeadGraph) -> None:
    with jax.enable_x64(False):
        energies, _ = Artifact(artifact).energy_and_forces(graph)
        assert not jax.config.jax_enable_x64
    assert energies.dtype == np.float64


def test_frames_of_changing_density_compile_once(artifact: Path, graph: BeadGraph, system: System) -> None:
    loaded = Artifact(artifact)
    graphs = [
        loaded.graph(system.positions * scale, np.zeros(22, np.int32), system.residue_index, system.chain_index)
        for scale in (1.0, 1.02, 1.3)
    ]
    assert len({len(graph.senders) for graph in graphs}) > 1
    budgets = []
    for graph in graphs:
        loaded.energy_and_forces(graph)
        budgets.append(dataclasses.astuple(loaded._budget))
    assert len(set(budgets)) == 1


def test_file_in_the_place_of_an_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.pdb").write_text("END\n")
    with pytest.raises(UserError, match=r"some\.pdb: expected an artifact folder with manifest\.json, found none"):
        read_manifest(tmp_path / "some.pdb")


def test_function_that_this_jax_cannot_read_is_one_line(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "model")
    (tmp_path / "model" / "model.jaxexport").write_bytes(b"of another time")
    manifest = json.loads((tmp_path / "model" / MANIFEST_FILE).read_text())
    manifest["files"]["model.jaxexport"] = sha256(tmp_path / "model" / "model.jaxexport")
    (tmp_path / "model" / MANIFEST_FILE).write_text(json.dumps(manifest))
    (tmp_path / "model" / CHECKSUM_FILE).write_text(sha256(tmp_path / "model" / MANIFEST_FILE))
    with pytest.raises(UserError, match=r"model\.jaxexport: cannot be read by jax .*: export the artifact again"):
        Artifact(tmp_path / "model")


def test_beads_without_a_known_mass_are_refused_before_the_export(bundle: Bundle, tmp_path: Path) -> None:
    classes = dataclasses.replace(bundle, species_names=("hydrophobic", *bundle.species_names[1:]))
    with pytest.raises(UserError, match="no mass is known for species 'hydrophobic'; expected the 20 residues"):
        export_artifact(classes, tmp_path / "model", ladder=())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"positions": np.zeros((3, 3))}, "expected 3 values of species, one per position, received 22"),
        ({"positions": np.full((22, 3), np.nan)}, "positions must be finite; those of bead 0"),
        ({"species": np.full(22, 20)}, r"expected species in \[0, 20\), received 0 to 20"),
        ({"species": np.full(22, -1)}, r"expected species in \[0, 20\), received -1 to 0"),
        ({"chain_index": np.zeros(21, int)}, "expected 22 values of chain_index, one per position, received 21"),
    ],
    ids=["few positions", "nan", "species above", "species below", "few chains"],
)
def test_arrays_that_do_not_fit_are_refused_by_name(changes: dict[str, np.ndarray], said: str, artifact: Path, graph: BeadGraph) -> None:
    arrays = {name: getattr(graph, name) for name in ("positions", "species", "residue_index", "chain_index")}
    with pytest.raises(UserError, match=said):
        Artifact(artifact).graph(**(arrays | changes))


def test_graphs_that_the_function_would_misread_are_refused(artifact: Path, bundle: Bundle, graph: BeadGraph, system: System) -> None:
    loaded = Artifact(artifact)
    rows = bundle.graph(system.positions, list(system.names), system.residue_index, system.chain_index)
    masked = dataclasses.replace(graph, edge_mask=np.zeros(len(graph.senders), bool))
    periodic = dataclasses.replace(graph, shifts=np.zeros((len(graph.senders), 3)))
    for wrong in (rows, masked, periodic):
        with pytest.raises(UserError, match=r"expected an unpadded flat graph in free space.*: make it with Artifact\.graph"):
            loaded.energy_and_forces(wrong)
