"""Options of the Allegro backbone."""

from typing import Literal

import pydantic

from cg_data.configuration import Configuration


class AllegroConfig(Configuration):
    """Allegro (Musaelian et al., doi:10.1038/s41467-023-36329-y): strictly local, equivariant, energies of edges.

    layers: tensor-product layers; num_radial: Bessel functions; l_max: highest degree of the spherical harmonics; num_features:
    channels of every tensor feature; mlp_n_hidden and mlp_n_layers: width (also of the latent) and hidden layers of the MLPs;
    parity: O(3) with both parities of every degree, or, where false, SO(3), which tells mirror images apart.
    """

    kind: Literal["allegro"] = "allegro"
    layers: int = pydantic.Field(default=3, ge=1)
    num_radial: int = pydantic.Field(default=24, ge=1)
    l_max: int = pydantic.Field(default=2, ge=0, le=4)
    num_features: int = pydantic.Field(default=16, ge=1)
    mlp_n_hidden: int = pydantic.Field(default=64, ge=1)
    mlp_n_layers: int = pydantic.Field(default=2, ge=1)
    parity: bool = True


SIZES = {"default": {}, "med": {"num_radial": 18}, "large": {"layers": 4, "num_radial": 36}}
