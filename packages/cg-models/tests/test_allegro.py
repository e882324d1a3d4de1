from cg_models.backbones.allegro.config import AllegroConfig
from cg_models.testing import BackboneClaims


class TestAllegro(BackboneClaims):
    backbone = AllegroConfig(layers=2, num_radial=6, num_features=4, mlp_n_hidden=12)
    golden = (-1.8271342151824848, 0.2132532783116842, 0.28852087420128314)
    chiral = AllegroConfig(layers=3, num_radial=6, num_features=4, mlp_n_hidden=12, parity=False)
