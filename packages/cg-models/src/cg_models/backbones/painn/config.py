"""Options of the PaiNN backbone."""

from typing import Literal

import pydantic

from cg_data.configuration import Configuration


class PainnConfig(Configuration):
    """PaiNN (Schuett et al., ICML 2021, doi:10.48550/arXiv.2102.03150): scalars and vectors passed between beads.

    layers: interactions; num_features: scalar and vector channels; num_radial: Bessel functions; mlp_n_hidden and mlp_n_layers:
    width and hidden layers of the readout. Blind to mirror images.
    """

    kind: Literal["painn"] = "painn"
    layers: int = pydantic.Field(default=3, ge=1)
    num_features: int = pydantic.Field(default=128, ge=1)
    num_radial: int = pydantic.Field(default=20, ge=1)
    mlp_n_hidden: int = pydantic.Field(default=64, ge=1)
    mlp_n_layers: int = pydantic.Field(default=1, ge=1)


SIZES: dict[str, dict[str, int]] = {"default": {}, "large": {"layers": 4, "num_features": 256}}
