import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from cg_data.errors import UserError
from cg_models.bundle import Bundle, load_bundle, save_bundle
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.hybrid import build_model
from cg_models.testing import SPECIES, random_chain, random_rotation

VERSION_1 = Path(__file__).parent / "data" / "bundle_v1"
SMALL = {"kind": "allegro", "layers": 1, "num_radial": 4, "l_max": 1, "num_features": 2, "mlp_n_hidden": 8, "mlp_n_layers": 1}


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(VERSION_1)


def residues(n):
    return [SPECIES[i % len(SPECIES)] for i in range(n)]


def test_a_bundle_of_version_1_loads_and_gives_its_recorded_energies_and_forces(bundle):
    recorded = json.loads((VERSION_1.parent / "bundle_v1_reference.json").read_text())
    graph = bundle.graph(np.asarray(recorded["positions"]), recorded["residues"])
    energies, forces = bundle.energy_and_forces(graph)
    np.testing.assert_allclose(energies, recorded["energies"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(forces, recorded["forces"], rtol=1e-4, atol=1e-4)


def test_what_is_saved_is_what_is_loaded(bundle, tmp_path):
    save_bundle(tmp_path / "copy", bundle)
    copy = load_bundle(tmp_path / "copy")
    assert (copy.config, copy.species_names, copy.statistics) == (bundle.config, bundle.species_names, bundle.statistics)
    assert (copy.dataset_info, copy.metrics) == (bundle.dataset_info, bundle.metrics)
    assert jax.tree.structure(copy.params) == jax.tree.structure(bundle.params)
    for loaded, saved in zip(jax.tree.leaves(copy.params), jax.tree.leaves(bundle.params), strict=True):
        assert np.array_equal(loaded, saved)
        assert loaded.dtype == saved.dtype


def test_equal_bundles_are_equal_bytes(bundle, tmp_path):
    for name in ("first", "second"):
        save_bundle(tmp_path / name, bundle)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["checksums.json", "metrics.json", "model.yaml", "params.safetensors", "prior.yaml"]
    assert all((tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes() for name in files)


def test_a_trained_prior_is_written_with_its_trained_values(bundle, tmp_path):
    params = jax.tree.map(lambda leaf: leaf, dict(bundle.params))
    params["prior"] = jax.tree.map(lambda leaf: leaf * 1.02, bundle.params["prior"])
    save_bundle(tmp_path / "trained", dataclasses.replace(bundle, params=params))
    copy = load_bundle(tmp_path / "trained")
    expected = np.asarray(bundle.prior.arrays["bond"]["force_constant"]) * 1.02
    np.testing.assert_allclose(copy.prior.arrays["bond"]["force_constant"], expected, rtol=1e-6)


def test_a_model_without_its_prior_is_written_without_it(bundle, tmp_path):
    config = bundle.config.model_copy(update={"mode": "backbone"})
    params = {"backbone": bundle.params["backbone"]}
    save_bundle(tmp_path / "backbone", dataclasses.replace(bundle, config=config, params=params))
    copy = load_bundle(tmp_path / "backbone")
    assert copy.prior is None
    assert copy.model.parts == ("backbone",)


def test_kernels_that_a_backbone_does_not_have_are_not_said_to_stand_in_its_file():
    with pytest.raises(UserError, match=r"^override 'backbone\.kernels=cuequivariance': unknown key"):
        load_bundle(VERSION_1, kernels="cuequivariance")


def test_the_model_file_says_what_the_dynamics_side_needs(bundle):
    document = yaml.safe_load((VERSION_1 / "model.yaml").read_text())
    assert document["receptive_field_angstrom"] == bundle.receptive_field_angstrom == 9.0
    assert document["cutoff_angstrom"] == bundle.cutoff_angstrom == 9.0
    assert document["units"]["energy"] == "kcal/mol"


@pytest.mark.parametrize("name", ["VAL", "Cl"])
def test_an_unknown_species_is_named(bundle, name):
    with pytest.raises(UserError, match=f"'{name}' is not in it; expected some of ALA, GLY, LYS, TRP"):
        bundle.graph(random_chain(3), ["ALA", name, "GLY"])


def test_variants_of_a_residue_are_its_species(bundle):
    np.testing.assert_array_equal(bundle.species_index(["ALA", "gly ", "LYN"]), [0, 1, 2])


def test_species_may_be_names_or_indices(bundle):
    positions = random_chain(8)
    named = bundle.energy(bundle.graph(positions, residues(8)))
    np.testing.assert_array_equal(named, bundle.energy(bundle.graph(positions, np.arange(8) % 4)))


def test_parts_add_up(bundle):
    graph = bundle.graph(random_chain(8), residues(8))
    full, prior, backbone = (bundle.energy_and_forces(graph, part)[1] for part in ("full", "prior", "backbone"))
    np.testing.assert_allclose(full, prior + backbone, rtol=1e-5, atol=1e-5)


def test_nothing_is_written_over_an_existing_bundle(bundle, tmp_path):
    save_bundle(tmp_path / "bundle", bundle)
    with pytest.raises(UserError, match="already exists"):
        save_bundle(tmp_path / "bundle", bundle)


def test_parameters_that_are_not_finite_are_not_written(bundle, tmp_path):
    params = {**bundle.params, "backbone": jax.tree.map(lambda leaf: leaf * np.nan, bundle.params["backbone"])}
    with pytest.raises(UserError, match="not finite"):
        save_bundle(tmp_path / "bundle", dataclasses.replace(bundle, params=params))
    assert not (tmp_path / "bundle").exists()


def damage_version(folder):
    file = folder / "model.yaml"
    file.write_text(file.read_text().replace("version: 1", "version: 99", 1))


def damage_parameters(folder):
    content = bytearray((folder / "params.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "params.safetensors").write_bytes(content)


def damage_metrics(folder):
    (folder / "metrics.json").unlink()
    checksums = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").write_text(json.dumps({name: of for name, of in checksums.items() if name != "metrics.json"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_version, "expected a bundle of format version 1, received version 99"),
        (damage_parameters, r"params\.safetensors: checksum differs"),
        (lambda folder: (folder / "params.safetensors").unlink(), r"params\.safetensors is missing"),
        (lambda folder: (folder / "model.yaml").unlink(), r"found no model\.yaml"),
        (lambda folder: (folder / "model.yaml").write_text("format: other"), "expected 'format: cg-models'"),
        (lambda folder: (folder / "checksums.json").unlink(), "checksums.json: missing"),
        (lambda folder: (folder / "checksums.json").write_text("{}"), "expected a checksum of each file"),
        (damage_metrics, "expected a checksum of each file"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line(bundle, tmp_path, damage, message):
    save_bundle(tmp_path / "bundle", bundle)
    damage(tmp_path / "bundle")
    with pytest.raises(UserError, match=message) as raised:
        load_bundle(tmp_path / "bundle")
    assert "\n" not in str(raised.value)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a model bundle"):
        load_bundle(tmp_path / "nowhere")


def test_parameters_of_another_configuration_are_refused(tmp_path):
    config = ModelConfig.parse({"mode": "backbone", "backbone": SMALL}, "test")
    wider = ModelConfig.parse({"mode": "backbone", "backbone": {**SMALL, "mlp_n_hidden": 9}}, "test")
    params = build_model(wider, SPECIES).init(jax.random.key(0))
    save_bundle(tmp_path / "bundle", Bundle(config, SPECIES, params))
    with pytest.raises(UserError, match=r"expected shape \(.*\), received \(.*\): the parameters belong to another configuration"):
        load_bundle(tmp_path / "bundle")


def test_many_frames_have_the_energies_and_forces_of_each_alone(bundle):
    rotation = random_rotation()
    positions = random_chain(8)
    frames = np.stack([positions, positions @ rotation.T, positions])
    energies, forces = bundle.for_frames(frames, residues(8), part="prior", beads_per_batch=16)
    alone, alone_forces = bundle.energy_and_forces(bundle.graph(positions, residues(8)), "prior")
    for found, force, turned in zip(energies, forces, (np.eye(3), rotation, np.eye(3)), strict=True):
        np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(force, alone_forces @ turned.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("x64", [False, True])
def test_positions_without_a_precision_have_the_one_that_jax_has(bundle, x64):
    with jax.enable_x64(x64):
        for positions in (random_chain(8).tolist(), jax.numpy.arange(24).reshape(8, 3)):
            graph = bundle.graph(positions, residues(8))
            assert graph.positions.dtype == (np.float64 if x64 else np.float32)


def test_the_gradient_of_the_energy_is_the_force_inside_other_compiled_code(bundle):
    graph = bundle.graph(random_chain(8), residues(8))
    gradient = jax.jit(jax.grad(lambda x: bundle.energy(dataclasses.replace(graph, positions=x)).sum()))(graph.positions)
    np.testing.assert_allclose(gradient, -bundle.energy_and_forces(graph)[1], rtol=1e-5, atol=1e-5)


def test_forces_of_an_ensemble_are_a_vmap_over_parameters(bundle):
    graph = bundle.graph(random_chain(8), residues(8))
    members = jax.tree.map(lambda leaf: np.stack([leaf, 1.1 * leaf]), dict(bundle.params))
    forces = jax.jit(jax.vmap(lambda params: energy_and_forces(bundle.model.energy)(params, graph)[1]))(members)
    np.testing.assert_allclose(forces[0], bundle.energy_and_forces(graph)[1], rtol=1e-5, atol=1e-4)
    assert np.abs(forces[1] - forces[0]).max() > 0.1


@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        (np.zeros((4, 8)), {}, r"expected positions \[n_frames, n_beads, 3\], received \[4, 8\]"),
        (np.zeros((3, 8, 3)), {"chain_index": np.zeros(3)}, "expected 8 values of chain_index, one per position, received 3"),
        (np.zeros((3, 5, 3)), {}, "expected 5 species, one per position, received 8"),
        (np.where(np.arange(3)[:, None, None] == 1, np.nan, np.zeros((3, 8, 3))), {}, "positions must be finite; those of frame 1 are not"),
    ],
)
def test_frames_that_do_not_fit_are_refused(bundle, positions, options, message):
    with pytest.raises(UserError, match=message):
        bundle.for_frames(positions, residues(8), **options)
