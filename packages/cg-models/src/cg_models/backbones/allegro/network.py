"""Allegro as a function: geometry and species in, energies of beads out."""

import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_models.backbones.allegro.config import AllegroConfig
from cg_models.backbones.allegro.layers import environment, mix_channels, n_paths, plan_layers, product, tensor
from cg_models.edges import Edges
from cg_models.equivariant import harmonic_irreps, spherical_harmonics
from cg_models.layers import Parameter, Setting, linear, mlp, silu, two_body

RESIDUAL = 0.5
"""Weight of a layer's update against the latent it updates; together they keep the latent's variance."""


def bead_energies(parameter: Parameter, edges: Edges, species: Array, config: AllegroConfig, setting: Setting) -> Array:
    """Return [n_beads] energies in units of the model's energy scale: sums over the edges that a bead receives.

    Musaelian et al., doi:10.1038/s41467-023-36329-y, eqs. 7-16, with tensor features [channels, n_rows, components, width]. Every
    latent is a multiple of the envelope, so are all weights made from it without bias, so everything vanishes twice differentiably at
    the cutoff.
    """
    channels, hidden = config.num_features, config.mlp_n_hidden
    harmonics = harmonic_irreps(config.l_max, config.parity)
    degrees = len(harmonics)
    per_sqrt_neighbour = float(1 / np.sqrt(setting.avg_num_neighbors))
    envelope = edges.envelope[..., None]
    residual = jnp.asarray(1 / np.sqrt(1 + RESIDUAL**2), envelope.dtype)
    directions = edges.rows(spherical_harmonics(edges.directions, config.l_max))
    shape = edges.lengths.shape

    latent = envelope * two_body(parameter, edges, species, setting, config.num_radial, hidden, config.mlp_n_layers)
    weights = linear(parameter, "embed", latent, degrees * channels)
    features = tensor(edges.rows(weights), directions, config.l_max)
    for number, layer in enumerate(plan_layers(config.l_max, config.layers, config.parity)):
        weights = linear(parameter, f"environment_{number}", latent, degrees * channels)
        environments = environment(edges.rows(weights), directions, edges, config.l_max, per_sqrt_neighbour)
        paths = parameter(f"paths_{number}", (n_paths(layer, harmonics), channels))
        features = product(features, environments, paths, layer, harmonics, edges)
        mixing = parameter(f"mix_{number}", (len(layer.outputs), channels, channels)) * jnp.asarray(1 / np.sqrt(channels), features.dtype)
        features = mix_channels(features, mixing, layer.outputs)
        scalars = jnp.transpose(features[:, :, 0], (1, 2, 0)).reshape(*shape, channels)
        inputs = jnp.concatenate([latent, scalars], -1)
        update = envelope * mlp(parameter, f"latent_{number}", inputs, hidden, config.mlp_n_layers, hidden)
        latent = (latent + RESIDUAL * update) * residual
    readout = linear(parameter, "readout", silu(linear(parameter, "readout_hidden", latent, hidden)), 1)
    return edges.sum(readout[..., 0]) * jnp.asarray(per_sqrt_neighbour, readout.dtype)
