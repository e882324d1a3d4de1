"""Options of a model: what is added up, the cutoff, the backbone and its precision."""

import functools
import operator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from cg_data.configuration import Configuration
from cg_models.backbones.allegro.config import AllegroConfig
from cg_models.backbones.registry import BACKBONES

if TYPE_CHECKING:
    BackboneConfig = AllegroConfig
else:
    BackboneConfig = functools.reduce(operator.or_, [backbone.config for backbone in BACKBONES])
    if len(BACKBONES) > 1:
        BackboneConfig = Annotated[BackboneConfig, pydantic.Field(discriminator="kind")]


class ModelConfig(Configuration):
    """One model.

    mode: hybrid (prior + backbone), backbone or prior alone; cutoff_angstrom: of the backbone's edges; envelope_exponent: p of
    the polynomial envelope; backbone: a network by its `kind` (allegro where none is named); precision: of its parameters and
    arithmetic; energies of the prior and vectors between beads are in the precision of the positions.
    """

    mode: Literal["hybrid", "backbone", "prior"] = "hybrid"
    cutoff_angstrom: float = pydantic.Field(default=10.0, gt=0)
    envelope_exponent: int = pydantic.Field(default=6, ge=2)
    backbone: BackboneConfig = AllegroConfig()
    precision: Literal["float32", "float64"] = "float32"

    @pydantic.field_validator("backbone", mode="before")
    @classmethod
    def _default_kind(cls, value: Any) -> Any:
        return {"kind": "allegro", **value} if isinstance(value, dict) else value
