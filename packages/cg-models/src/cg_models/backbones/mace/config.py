"""Options of the MACE backbone."""

from typing import Literal

import pydantic

from cg_data.configuration import Configuration


class MaceConfig(Configuration):
    """MACE (Batatia et al., NeurIPS 2022, doi:10.48550/arXiv.2206.07697): messages of high body order, energies of beads.

    layers: interactions; num_features: channels of every irrep; hidden_l_max: highest degree that beads pass on (1: 0e + 1o);
    max_ell: highest degree of the spherical harmonics; num_radial: Bessel functions; correlation: product order, body order less
    one; readout: width of the last readout's hidden layer; embed: channels of the species embedding; mlp_n_hidden and
    mlp_n_layers: width and hidden layers of the radial MLP; parity: O(3), or, where false, SO(3), which tells mirror images apart;
    kernels: this package's own code, or NVIDIA's cuequivariance, meant for GPUs: same parameters, same numbers.
    """

    kind: Literal["mace"] = "mace"
    layers: int = pydantic.Field(default=2, ge=1)
    num_features: int = pydantic.Field(default=128, ge=1)
    hidden_l_max: int = pydantic.Field(default=1, ge=0, le=3)
    max_ell: int = pydantic.Field(default=2, ge=0, le=3)
    num_radial: int = pydantic.Field(default=8, ge=1)
    correlation: int = pydantic.Field(default=3, ge=1, le=3)
    readout: int = pydantic.Field(default=16, ge=1)
    embed: int = pydantic.Field(default=32, ge=1)
    mlp_n_hidden: int = pydantic.Field(default=64, ge=1)
    mlp_n_layers: int = pydantic.Field(default=3, ge=1)
    parity: bool = True
    kernels: Literal["own", "cuequivariance"] = "own"

    @pydantic.model_validator(mode="after")
    def _hidden_within_harmonics(self) -> "MaceConfig":
        if self.hidden_l_max > self.max_ell:
            raise ValueError(f"hidden_l_max must not exceed max_ell = {self.max_ell}, received {self.hidden_l_max}")
        return self


SIZES: dict[str, dict[str, int]] = {
    "default": {},
    "large": {"layers": 3, "num_features": 256, "max_ell": 3, "num_radial": 12, "readout": 32, "embed": 64},
}
