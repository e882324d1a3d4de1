"""The hybrid energy: a sum of terms of one signature, of which the backbone is one and each term of the prior another."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array, BeadGraph, EnergyFn, Params
from cg_data.errors import UserError, require
from cg_data.topology import frame_graph
from cg_models.backbones.registry import backbone_of
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.graph import flat
from cg_models.memory import keep_freed_memory
from cg_models.precision import require_precision
from cg_models.shell import backbone_transform
from cg_models.statistics import ModelStatistics
from cg_priors.energy import prior_energy_terms
from cg_priors.parameters import PriorParameters

Part = Literal["full", "prior", "backbone"]
Terms = dict[str, Array]
"""Per-bead energies [n_beads] kcal/mol by the name of the term."""
TermsFn = Callable[[Params, BeadGraph], Terms]


@dataclasses.dataclass(frozen=True)
class Model:
    """An energy function and what its callers must know about it.

    cutoff_angstrom: edges must hold every pair closer than this (0 where no term needs edges); receptive_field_angstrom: beads
    farther away than this do not change a bead's energy.
    """

    config: ModelConfig
    species_names: tuple[str, ...]
    prior: PriorParameters | None
    statistics: ModelStatistics
    cutoff_angstrom: float
    receptive_field_angstrom: float
    init: Callable[[Array], dict[str, Any]]
    _parts: Mapping[str, TermsFn]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that this model has: prior, backbone or both."""
        return tuple(self._parts)

    def energy_terms(self, params: Params, graph: BeadGraph) -> Terms:
        """Return per-bead energies of every term, {name: [n_beads]} kcal/mol, in the dtype of the positions."""
        return self._terms_of(self.parts, params, graph)

    def energy(self, params: Params, graph: BeadGraph) -> Array:
        """Return per-bead energies, [n_beads] kcal/mol, in the dtype of the positions; zero for padding, NaN at positions not finite."""
        return _total(self.energy_terms(params, graph), graph)

    def energy_of(self, part: Part) -> EnergyFn:
        """Return `(params, graph) -> [n_beads]` of the full model, its prior or its backbone; zero where it has none.

        Raises `UserError` where the part is none of these.
        """
        parts = self._parts_of(part)

        def energy(params: Params, graph: BeadGraph) -> Array:
            return _total(self._terms_of(parts, params, graph), graph)

        return energy

    def force_terms(self, params: Params, graph: BeadGraph, part: Part = "full") -> Terms:
        """Return the forces of every term of a part, {name: [n_beads, 3]} kcal/mol/angstrom; they add up to the part's."""
        parts = self._parts_of(part)

        def terms(params: Params, graph: BeadGraph) -> Terms:
            return self._terms_of(parts, params, graph)

        names = tuple(jax.eval_shape(terms, params, graph))
        return {name: energy_and_forces(lambda p, g, name=name: terms(p, g)[name])(params, graph)[1] for name in names}

    def _parts_of(self, part: Part) -> tuple[str, ...]:
        require(part in get_args(Part), f"part: expected one of {', '.join(get_args(Part))}, received {part!r}")
        return tuple(name for name in self.parts if part in ("full", name))

    def _terms_of(self, parts: tuple[str, ...], params: Params, graph: BeadGraph) -> Terms:
        with jax.default_matmul_precision("highest"):  # as `precision.FULL`; derivatives inherit it
            terms = {name: value for part in parts for name, value in self._parts[part](params, graph).items()}
        # A bead at NaN has no pair within any cutoff, so its energy would be that of a bead alone. Chosen rather than multiplied in:
        # the NaN of one frame must not reach the forces of others.
        known = jnp.isfinite(graph.positions).all(-1)
        dtype = graph.positions.dtype
        unknown = jnp.asarray(jnp.nan, dtype)
        return {name: jnp.where(graph.bead_mask, jnp.where(known, value.astype(dtype), unknown), 0) for name, value in terms.items()}


def build_model(
    config: ModelConfig,
    species_names: tuple[str, ...],
    prior: PriorParameters | None = None,
    statistics: ModelStatistics | None = None,
) -> Model:
    """Return the model of a configuration: the sum of a prior's terms and a backbone, or one of the two, as `config.mode` says.

    species_names: what species indices mean; it must be the prior's. statistics: of the training set; defaults without.
    `Model.init(key)` returns `{"backbone": ..., "prior": ...}`, with only the parts that the model has.
    Also lets this process keep the memory it frees (`cg_models.memory`). Raises `UserError` where the mode needs a prior that is
    not given or one of other species, and where a backbone of float64 would run in JAX's 32 bits.
    """
    keep_freed_memory()
    statistics = statistics or ModelStatistics()
    species_names = tuple(species_names)
    if config.mode == "backbone":
        prior = None
    parts: dict[str, TermsFn] = {}
    if config.mode != "backbone":
        if prior is None:
            raise UserError(f"model: mode {config.mode!r} needs a prior: fit one with `cg-priors fit` or set mode: backbone")
        require(
            tuple(prior.species_names) == species_names,
            f"model: expected a prior of the species {', '.join(species_names)}, received one of {', '.join(prior.species_names)}: "
            "fit it on this data set",
        )
        parts["prior"] = _prior_part(prior)
    transform = None
    if config.mode != "prior":
        require_precision(config.precision)
        n_offsets = len(statistics.species_offsets or species_names)
        require(n_offsets == len(species_names), f"model: expected {len(species_names)} species offsets, received {n_offsets}")
        transform = backbone_transform(config, len(species_names), statistics)
        parts["backbone"] = lambda params, graph: {"backbone": transform.apply(params["backbone"], None, graph)}

    def init(key: Array) -> dict[str, Any]:
        params: dict[str, Any] = {}
        if transform is not None:
            # Each array of random numbers is half a second of optimization that a single call does not repay.
            quick = None if isinstance(key, jax.core.Tracer) else {"xla_backend_optimization_level": 0}
            params["backbone"] = jax.jit(transform.init, compiler_options=quick)(key, _example_graph(config.cutoff_angstrom))
        if prior is not None:
            params["prior"] = jax.tree.map(jnp.asarray, prior.arrays)
        return params

    cutoffs = {"prior": prior.cutoff_angstrom if prior else 0.0, "backbone": config.cutoff_angstrom if transform else 0.0}
    layers = backbone_of(config.backbone).reach(config.backbone)
    return Model(
        config=config,
        species_names=species_names,
        prior=prior,
        statistics=statistics,
        cutoff_angstrom=max(cutoffs.values()),
        receptive_field_angstrom=max(cutoffs["prior"], cutoffs["backbone"] * layers),
        init=init,
        _parts=parts,
    )


def match_force_scale(model: Model, params: Params, graph: BeadGraph, force_rms: float) -> dict[str, Any]:
    """Return parameters whose backbone gives forces of the wanted rms, kcal/mol/angstrom, on the beads of a graph.

    Only the trained energy scale is changed. A backbone without forces on this graph (no edges) is left as it is.
    """
    params = dict(params)
    if "backbone" not in params:
        return params
    forces = jax.jit(energy_and_forces(model.energy_of("backbone")))(params, graph)[1]
    rms = float(jnp.sqrt((forces**2).sum() / jnp.maximum(3 * graph.bead_mask.sum(), 1)))
    scalable = rms > 0 and np.isfinite(rms) and force_rms > 0
    return scale_backbone(params, force_rms / rms) if scalable else params


def scale_backbone(params: Params, factor: float) -> dict[str, Any]:
    """Return parameters whose backbone has `factor` times the forces."""
    backbone = {
        module: {name: value * factor if name == "energy_scale" else value for name, value in group.items()}
        for module, group in params["backbone"].items()
    }
    return {**params, "backbone": backbone}


def _prior_part(prior: PriorParameters) -> TermsFn:
    terms = prior_energy_terms(prior)
    return lambda params, graph: terms(params["prior"], flat(graph))


def _total(terms: Terms, graph: BeadGraph) -> Array:
    return sum(terms.values(), jnp.zeros(graph.positions.shape[0], graph.positions.dtype))


def _example_graph(cutoff: float) -> BeadGraph:
    zeros = np.zeros(2, np.int32)
    return frame_graph(np.array([[0, 0, 0], [cutoff / 2, 0, 0]], np.float32), zeros, zeros, zeros, cutoff)
