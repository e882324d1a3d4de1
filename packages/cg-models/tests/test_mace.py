from cg_models.backbones.mace.config import MaceConfig
from cg_models.testing import BackboneClaims


class TestMace(BackboneClaims):
    backbone = MaceConfig(layers=2, num_features=4, embed=3, num_radial=4, mlp_n_hidden=8, mlp_n_layers=1, readout=4)
    golden = (1.815607279722632, -0.5728046183476327, -0.5754403852055152)
    chiral = MaceConfig(layers=2, num_features=4, embed=3, num_radial=4, mlp_n_hidden=8, mlp_n_layers=1, readout=4, parity=False)
