from cg_models.backbones.painn.config import PainnConfig
from cg_models.testing import BackboneClaims


class TestPainn(BackboneClaims):
    backbone = PainnConfig(layers=2, num_features=6, num_radial=5, mlp_n_hidden=8)
    golden = (-0.3272739001586597, 0.17215812439690448, 0.27066070019502264)
