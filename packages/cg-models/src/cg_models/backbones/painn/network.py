"""PaiNN as a function: geometry and species in, energies of beads out."""

import jax
import jax.numpy as jnp

from cg_data.contracts import Array
from cg_models.backbones.painn.config import PainnConfig
from cg_models.backbones.painn.layers import affine, message, update
from cg_models.edges import Edges
from cg_models.layers import Parameter, Setting, silu
from cg_models.radial import bessel_basis


def bead_energies(parameter: Parameter, edges: Edges, species: Array, config: PainnConfig, setting: Setting) -> Array:
    """Return [n_beads] energies in units of the model's energy scale.

    Schuett et al., doi:10.48550/arXiv.2102.03150, figure 2, with the smooth polynomial envelope for the cosine cutoff and
    messages divided by the root of the mean number of neighbours.
    """
    dtype, width = edges.lengths.dtype, config.num_features
    one_hot = jax.nn.one_hot(species, setting.n_species, dtype=dtype)
    radial = bessel_basis(edges.lengths, config.num_radial, setting.cutoff_angstrom)
    scalars = one_hot @ parameter("embed", (setting.n_species, width))
    vectors = jnp.zeros((species.shape[0], 3, width), dtype)
    for layer in range(config.layers):
        change, vector_change = message(parameter, layer, scalars, vectors, radial, edges, setting)
        scalars, vectors = scalars + change, vectors + vector_change
        change, vector_change = update(parameter, layer, scalars, vectors)
        scalars, vectors = scalars + change, vectors + vector_change
    for layer in range(config.mlp_n_layers):
        scalars = silu(affine(parameter, f"readout_{layer}", scalars, config.mlp_n_hidden))
    return affine(parameter, f"readout_{config.mlp_n_layers}", scalars, 1)[:, 0]
