"""Every backbone by name. A new one is a folder and a line here."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from cg_data.configuration import Configuration
from cg_data.errors import require


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A backbone: its options, named sizes, how many cutoffs far a bead sees; `energies` is imported when first used."""

    config: type[Configuration]
    sizes: Mapping[str, Mapping[str, Any]]
    reach: Callable[[Any], int]

    @property
    def kind(self) -> str:
        """Name in configurations and bundles."""
        return str(self.config.model_fields["kind"].default)

    @property
    def energies(self) -> Callable[..., Any]:
        """The network: `bead_energies(parameter, edges, species, config, setting) -> [n_beads]`."""
        # Late, so that reading a configuration or `--help` does not import jax.
        network: Callable[..., Any] = importlib.import_module(f"cg_models.backbones.{self.kind}.network").bead_energies
        return network


def _backbone(kind: str, reach: Callable[[Any], int]) -> Backbone:
    """Return the backbone in the folder of that name; of its `config.py`, `<Kind>Config` and `SIZES`."""
    options = importlib.import_module(f"cg_models.backbones.{kind}.config")
    return Backbone(getattr(options, f"{kind.capitalize()}Config"), options.SIZES, reach)


BACKBONES = (
    _backbone("allegro", reach=lambda config: 1),
    _backbone("mace", reach=lambda config: config.layers),
    _backbone("painn", reach=lambda config: config.layers),
    _backbone("pair", reach=lambda config: 1),
)


def backbone_of(config: Any) -> Backbone:
    """Return the backbone that a configuration belongs to."""
    return next(backbone for backbone in BACKBONES if backbone.config is type(config))


def options_of(kind: str, size: str = "default") -> dict[str, Any]:
    """Return the options of a named size of a backbone; `UserError` for a name that is not known."""
    found = {backbone.kind: backbone for backbone in BACKBONES}
    require(kind in found, f"backbone: expected one of {', '.join(found)}, received {kind!r}: choose one of them")
    sizes = found[kind].sizes
    require(size in sizes, f"backbone {kind}: expected a size of {', '.join(sizes)}, received {size!r}: choose one of them")
    return {"kind": kind, **sizes[size]}
