from pathlib import Path

import jax
import pytest
import yaml
from typer.testing import CliRunner

from cg_data.errors import UserError
from cg_models.backbones.registry import BACKBONES
from cg_models.cli import app
from cg_models.config import ModelConfig
from cg_models.describe import describe

BUNDLE = Path(__file__).parent / "data" / "bundle_v1"


def invoke(*arguments):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_names_every_backbone_with_its_sizes():
    lines = invoke("list").splitlines()
    assert [line.split()[0] for line in lines] == [backbone.kind for backbone in BACKBONES]
    assert all(size in line for backbone, line in zip(BACKBONES, lines, strict=True) for size in backbone.sizes)


def test_template_is_a_configuration_that_loads(tmp_path):
    (tmp_path / "model.yaml").write_text(invoke("template", "allegro", "--size", "large"))
    assert ModelConfig.load(tmp_path / "model.yaml").backbone.layers == 4


def test_describe_counts_parameters_and_operations():
    facts = yaml.safe_load(invoke("describe", "allegro", "backbone.layers=1", "backbone.num_features=2", "backbone.mlp_n_hidden=8"))
    wider = yaml.safe_load(describe("allegro", ["backbone.layers=1", "backbone.num_features=2", "backbone.mlp_n_hidden=16"]))
    assert 0 < facts["parameters"]["backbone"] < wider["parameters"]["backbone"]
    assert 0 < facts["kiloflop_per_edge_energy_and_forces"] < wider["kiloflop_per_edge_energy_and_forces"]
    assert facts["receptive_field_angstrom"] == 10.0


def test_describe_counts_the_edges_that_there_are():
    # Nearly all operations are of two products [slots, 1000] x [1000, 1000] and of two backwards; 24 edges fill 32 slots.
    facts = yaml.safe_load(describe("pair", ["backbone.mlp_n_hidden=1000", "backbone.mlp_n_layers=2"]))
    assert facts["kiloflop_per_edge_energy_and_forces"] == pytest.approx(4 * 2 * 1000 * 32 / 24, rel=0.05)


def test_describe_shows_the_options_as_they_are_wherever_it_runs(tmp_path):
    ModelConfig.parse({"mode": "hybrid", "precision": "float64", "backbone": {"kind": "pair"}}, "test").save(tmp_path / "model.yaml")
    with jax.enable_x64(False):
        facts = yaml.safe_load(describe(str(tmp_path / "model.yaml")))
    assert (facts["model"]["mode"], facts["model"]["precision"]) == ("hybrid", "float64")


def test_describe_reads_a_bundle():
    facts = yaml.safe_load(describe(str(BUNDLE)))
    assert facts["species"] == ["ALA", "GLY", "LYS", "TRP"]
    assert facts["parameters"]["prior"] == 14


def test_a_bundle_is_described_as_it_is():
    with pytest.raises(UserError, match=r"a bundle is described as it is, received backbone\.layers=1"):
        describe(str(BUNDLE), ["backbone.layers=1"])


@pytest.mark.parametrize(
    ("target", "message"),
    [("allegri", "expected one of allegro"), ("allegro:tiny", "expected a size of default"), ("nowhere.yaml", "no such file")],
)
def test_a_target_that_is_not_known_is_refused(target, message):
    with pytest.raises(UserError, match=message):
        describe(target)
