"""The one layer of the pair backbone."""

from cg_data.contracts import Array
from cg_models.layers import Parameter, linear, silu


def edge_energies(parameter: Parameter, features: Array, envelope: Array) -> Array:
    """Return envelope * w . silu(features), [..., f] and [...] -> [...]."""
    return envelope * linear(parameter, "readout", silu(features), 1)[..., 0]
