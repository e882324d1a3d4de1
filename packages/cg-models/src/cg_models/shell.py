"""What surrounds every network: edges in, energy scale and species offsets out, and haiku for the parameters."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array, BeadGraph
from cg_models.config import ModelConfig
from cg_models.edges import edges_of
from cg_models.layers import Setting
from cg_models.statistics import ModelStatistics


def backbone_transform(config: ModelConfig, n_species: int, statistics: ModelStatistics) -> hk.Transformed:
    """Return haiku's (init, apply) of `graph -> [n_beads]` energies in kcal/mol of the configured backbone.

    Energies are `scale * network + offset[species]`, both trained; they start from the statistics. Zero for padding.
    """
    from cg_models.backbones.registry import backbone_of

    dtype = jnp.dtype(config.precision)
    setting = Setting(n_species, config.cutoff_angstrom, statistics.avg_num_neighbors)
    network = backbone_of(config.backbone).energies
    offsets = np.zeros(n_species) if statistics.species_offsets is None else np.asarray(statistics.species_offsets)

    def parameter(name: str, shape: tuple[int, ...], scale: float = 1.0, constant: float | None = None) -> Array:
        start = hk.initializers.RandomNormal(scale) if constant is None else hk.initializers.Constant(constant)
        return hk.get_parameter(name, shape, dtype, start)

    def energies(graph: BeadGraph) -> Array:
        edges = edges_of(graph, config.cutoff_angstrom, config.envelope_exponent, dtype)
        raw = network(parameter, edges, graph.species, config.backbone, setting)
        scale = parameter("energy_scale", (), constant=statistics.energy_scale)
        offset = hk.get_parameter("species_offset", (n_species,), dtype, lambda shape, dtype: jnp.asarray(offsets, dtype))
        one_hot = jax.nn.one_hot(graph.species, n_species, dtype=dtype)
        return jnp.where(graph.bead_mask, scale * raw + one_hot @ offset, 0)

    def named(graph: BeadGraph) -> Array:
        with hk.name_scope(config.backbone.kind):
            return energies(graph)

    return hk.transform(named)
