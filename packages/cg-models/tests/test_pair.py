from cg_models.backbones.pair.config import PairConfig
from cg_models.testing import BackboneClaims


class TestPair(BackboneClaims):
    backbone = PairConfig(num_radial=5, mlp_n_hidden=8)
    golden = (0.4463554167734122, 0.4244349247647238, 1.234521803322482)
