"""The pair backbone as a function: geometry and species in, energies of beads out."""

import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_models.backbones.pair.config import PairConfig
from cg_models.backbones.pair.layers import edge_energies
from cg_models.edges import Edges
from cg_models.layers import Parameter, Setting, two_body


def bead_energies(parameter: Parameter, edges: Edges, species: Array, config: PairConfig, setting: Setting) -> Array:
    """Return [n_beads] energies in units of the model's energy scale: sums over the edges that a bead receives."""
    features = two_body(parameter, edges, species, setting, config.num_radial, config.mlp_n_hidden, config.mlp_n_layers)
    energies = edges.sum(edge_energies(parameter, features, edges.envelope))
    return energies * jnp.asarray(1 / np.sqrt(setting.avg_num_neighbors), energies.dtype)
