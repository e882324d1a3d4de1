import pytest

from cg_data.errors import UserError
from cg_models.backbones.registry import BACKBONES, options_of
from cg_models.config import ModelConfig


def test_the_default_is_a_hybrid_with_allegro():
    config = ModelConfig()
    assert (config.mode, config.backbone.kind, config.cutoff_angstrom) == ("hybrid", "allegro", 10.0)
    assert (config.backbone.layers, config.backbone.num_radial, config.backbone.parity) == (3, 24, True)


def test_options_of_the_default_backbone_need_no_kind():
    assert ModelConfig.load(None, ["backbone.layers=2"]).backbone.layers == 2


def test_a_misspelled_option_of_a_backbone_is_told_the_right_one():
    with pytest.raises(UserError, match="did you mean 'num_radial'"):
        ModelConfig.parse({"backbone": {"kind": "allegro", "num_radials": 3}}, "model.yaml")


def test_an_unknown_backbone_is_told_the_known_ones():
    with pytest.raises(UserError, match="allegro"):
        ModelConfig.parse({"backbone": {"kind": "alegro"}}, "model.yaml")


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.kind)
def test_every_size_survives_a_round_trip_through_yaml(backbone, tmp_path):
    for size in backbone.sizes:
        config = ModelConfig.parse({"backbone": options_of(backbone.kind, size)}, size)
        config.save(tmp_path / "model.yaml")
        assert ModelConfig.load(tmp_path / "model.yaml") == config


def test_allegro_large_is_the_published_size():
    config = ModelConfig.parse({"backbone": options_of("allegro", "large")}, "test")
    assert (config.backbone.layers, config.backbone.num_radial) == (4, 36)
