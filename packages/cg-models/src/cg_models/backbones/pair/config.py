"""Options of the pair backbone."""

from typing import Literal

import pydantic

from cg_data.configuration import Configuration


class PairConfig(Configuration):
    """Energies of pairs from their distance and species alone: what an equivariant network has to beat.

    num_radial: Bessel functions; mlp_n_hidden and mlp_n_layers: width and hidden layers of the MLP.
    """

    kind: Literal["pair"] = "pair"
    num_radial: int = pydantic.Field(default=16, ge=1)
    mlp_n_hidden: int = pydantic.Field(default=32, ge=1)
    mlp_n_layers: int = pydantic.Field(default=2, ge=1)


SIZES: dict[str, dict[str, int]] = {"default": {}}
