from cg_models.backbones.mace.config import MaceConfig
from cg_models.testing import BackboneClaims


class TestMace(BackboneClaims):
    backbone = MaceConfig(layers=2, num_features=4, embed=3, num_radial=4, mlp_n_hidden=8, mlp_n_layers=1, readout=4)
    golden = (1.772875058782788, -0.5458938944602862, -0.617926495563202)
    chiral = MaceConfig(layers=2, num_features=4, embed=3, num_radial=4, mlp_n_hidden=8, mlp_n_layers=1, readout=4, parity=False)
