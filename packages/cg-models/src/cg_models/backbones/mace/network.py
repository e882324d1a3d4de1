"""MACE as a function: geometry and species in, energies of beads out."""

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_models.backbones.mace import cuequivariance, layers
from cg_models.backbones.mace.config import MaceConfig
from cg_models.backbones.mace.layers import mix, mix_by_species, polynomial_basis
from cg_models.edges import Edges
from cg_models.equivariant import Irreps, harmonic_irreps, paths, spherical_harmonics
from cg_models.layers import Parameter, Setting, linear, silu
from cg_models.radial import basis_scale, scaled_bessel_basis


def bead_energies(parameter: Parameter, edges: Edges, species: Array, config: MaceConfig, setting: Setting) -> Array:
    """Return [n_beads] energies in units of the model's energy scale: the sum of the readouts of all layers.

    Batatia et al., doi:10.48550/arXiv.2206.07697, eqs. 7-14, in the variant of mace-torch's RealAgnosticResidualInteractionBlock:
    every layer has a self-connection with weights of the bead's species. Features are [n_beads, components, channels].

    Fresh weights by species, and what enters the radial MLP, have the size that mace-torch gives them: larger ones learn worse
    (decision 39).
    """
    harmonics = harmonic_irreps(config.max_ell, config.parity)
    hidden = harmonics[: config.hidden_l_max + 1]
    dtype = edges.lengths.dtype
    one_hot = jax.nn.one_hot(species, setting.n_species, dtype=dtype)
    directions = spherical_harmonics(edges.directions, config.max_ell)
    radial = scaled_bessel_basis(edges.lengths, config.num_radial, setting.cutoff_angstrom) * edges.envelope[..., None]

    features = (one_hot @ parameter("embed", (setting.n_species, config.embed), fresh_by_species(setting)))[:, None, :]
    inputs: Irreps = hidden[:1]
    energies = jnp.zeros(species.shape, dtype)
    for layer in range(config.layers):
        is_last = layer == config.layers - 1
        outputs = hidden[:1] if is_last else hidden
        features = interaction(parameter, layer, features, radial, directions, edges, species, inputs, outputs, config, setting)
        inputs = outputs
        # As in mace-torch, the only layer of a network of one has a linear readout, so that `correlation` alone sets the body order.
        if is_last and layer > 0:
            scalars = silu(linear(parameter, "readout_hidden", features[:, 0], config.readout))
            energies = energies + linear(parameter, "readout", scalars, 1)[:, 0]
        else:
            energies = energies + linear(parameter, f"readout_{layer}", features[:, 0], 1)[:, 0]
    return energies


def fresh_by_species(setting: Setting) -> float:
    """Return the standard deviation of fresh weights of which a bead uses its species' share."""
    return float(1 / np.sqrt(setting.n_species))


def interaction(
    parameter: Parameter,
    layer: int,
    features: Array,
    radial: Array,
    directions: Array,
    edges: Edges,
    species: Array,
    inputs: Irreps,
    outputs: Irreps,
    config: MaceConfig,
    setting: Setting,
) -> Array:
    """Return the features after one interaction, [n_beads, dim(inputs), c] -> [n_beads, dim(outputs), num_features]."""
    channels, width = features.shape[-1], config.num_features
    kernels = cuequivariance if config.kernels == "cuequivariance" else layers
    harmonics = harmonic_irreps(config.max_ell, config.parity)
    one_hot = jax.nn.one_hot(species, setting.n_species, dtype=features.dtype)
    kept = inputs[: len(outputs)]
    from_inputs = features[:, : sum(irrep.dim for irrep in kept)]
    connection = mix_by_species(parameter, f"skip_{layer}", from_inputs, one_hot, kept, width, fresh_by_species(setting))
    up = mix(parameter, f"up_{layer}", features, inputs, channels)
    n_paths = len(paths(inputs, harmonics, harmonics))
    hidden = radial
    for number in range(config.mlp_n_layers):
        fresh = 1.0 if number else 1 / basis_scale(setting.cutoff_angstrom)
        hidden = silu(linear(parameter, f"radial_{layer}_{number}", hidden, config.mlp_n_hidden, fresh))
    weights = parameter(f"radial_{layer}_{config.mlp_n_layers}", (config.mlp_n_hidden, n_paths * channels))
    weights = weights * jnp.asarray(1 / np.sqrt(config.mlp_n_hidden), hidden.dtype)
    # The paper divides by the number of neighbours, not its root: fresh weights make up for it, or fresh messages would be tiny.
    by_root = float(np.sqrt(setting.avg_num_neighbors))
    message = kernels.messages(parameter, f"message_{layer}", up, hidden, weights, directions, edges, inputs, harmonics, width, by_root)
    message = message * jnp.asarray(1 / setting.avg_num_neighbors, message.dtype)
    count = sum(polynomial_basis(harmonics, outputs, config.correlation)[1])
    by_species = parameter(f"product_{layer}", (setting.n_species, count, width), scale=float(1 / np.sqrt(count)))
    product = kernels.symmetric_contraction(message, jnp.tensordot(one_hot, by_species, 1), harmonics, outputs, config.correlation)
    product = mix(parameter, f"product_mix_{layer}", product, outputs, width)
    added = sum(irrep.dim for irrep in kept)
    return product.at[:, :added].add(connection) if added < product.shape[1] else product + connection
