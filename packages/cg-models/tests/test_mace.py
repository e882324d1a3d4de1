from cg_models.backbones.mace.config import MaceConfig
from cg_models.testing import BackboneClaims


class TestMace(BackboneClaims):
    backbone = MaceConfig(layers=2, num_features=4, embed=3, num_radial=4, mlp_n_hidden=8, mlp_n_layers=1, readout=4)
    golden = (0.43273299360360246, 0.31033591298167135, 0.30333598975852494)
    chiral = MaceConfig(layers=2, num_features=4, embed=3, num_radial=4, mlp_n_hidden=8, mlp_n_layers=1, readout=4, parity=False)
