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


PUBLISHED = {
    ("allegro", "default"): {"layers": 3, "num_radial": 24},
    ("allegro", "med"): {"layers": 3, "num_radial": 18},
    ("allegro", "large"): {"layers": 4, "num_radial": 36},
    ("mace", "default"): {"layers": 2, "num_features": 128, "max_ell": 2, "num_radial": 8, "readout": 16, "embed": 32},
    ("mace", "large"): {"layers": 3, "num_features": 256, "max_ell": 3, "num_radial": 12, "readout": 32, "embed": 64},
    ("painn", "default"): {"layers": 3, "num_features": 128, "num_radial": 20},
    ("painn", "large"): {"layers": 4, "num_features": 256, "num_radial": 20},
}


@pytest.mark.parametrize(("kind", "size"), PUBLISHED)
def test_named_sizes_have_their_published_options(kind, size):
    config = ModelConfig.parse({"backbone": options_of(kind, size)}, "test")
    assert {name: getattr(config.backbone, name) for name in PUBLISHED[kind, size]} == PUBLISHED[kind, size]
    assert config.envelope_exponent == 6
    if kind == "mace":
        assert (config.backbone.hidden_l_max, config.backbone.correlation) == (1, 3)
