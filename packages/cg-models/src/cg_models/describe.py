"""What a model is and costs, as text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from cg_data.contracts import BeadGraph
from cg_data.errors import UserError, require
from cg_data.mapping import RESIDUE_SPECIES
from cg_models.backbones.registry import BACKBONES, options_of
from cg_models.bundle import load_bundle
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.graph import in_rows
from cg_models.hybrid import Model, build_model
from cg_models.statistics import ModelStatistics

EXAMPLE_BEADS, EXAMPLE_NEIGHBOURS = 64, 24


def table_of_backbones() -> str:
    """Return a line per backbone: name, sizes, reach in cutoffs, first line of its documentation."""
    lines = []
    for backbone in BACKBONES:
        reach = backbone.reach(backbone.config())
        documentation = (backbone.config.__doc__ or "").strip().splitlines()[0]
        lines.append(f"{backbone.kind:8} sizes: {', '.join(backbone.sizes):20} reach: {reach} x cutoff  {documentation}")
    return "\n".join(lines)


def describe(target: str, overrides: Sequence[str] = ()) -> str:
    """Return a description of `BACKBONE[:SIZE]`, a configuration file or a bundle; `UserError` where it is none of these.

    Of a configuration, which names no prior, the backbone alone is counted.
    """
    # Nothing is computed, so a model of float64 can be described wherever it is.
    with jax.enable_x64(True):
        return yaml.safe_dump(_description(target, overrides), sort_keys=False).rstrip()


def _description(target: str, overrides: Sequence[str]) -> dict[str, Any]:
    path = Path(target)
    if path.is_dir():
        require(not overrides, f"{path}: a bundle is described as it is, received {', '.join(overrides)}: leave that out")
        bundle = load_bundle(path)
        header: dict[str, Any] = {"bundle": str(path), "species": list(bundle.species_names)}
        header |= {"dataset": dict(bundle.dataset_info), "metrics": dict(bundle.metrics)}
        return header | _facts(bundle.config, bundle.model, bundle.params)
    if path.is_file():
        config = ModelConfig.load(path, overrides)
    else:
        kind, _, size = target.partition(":")
        if kind not in {backbone.kind for backbone in BACKBONES} and (path.suffix or path.parent != Path()):
            raise UserError(f"{target}: no such file or folder: give a backbone from `cg-models list`, a YAML file or a bundle")
        chosen = [f"backbone.{name}={value}" for name, value in options_of(kind, size or "default").items()]
        config = ModelConfig.load(None, [*chosen, *overrides])
    statistics = ModelStatistics(avg_num_neighbors=EXAMPLE_NEIGHBOURS)
    model = build_model(config.model_copy(update={"mode": "backbone"}), RESIDUE_SPECIES, None, statistics)
    return _facts(config, model, None)


def _facts(config: ModelConfig, model: Model, params: Any) -> dict[str, Any]:
    shapes = params if params is not None else jax.eval_shape(model.init, jax.random.key(0))
    counts = {part: int(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(group))) for part, group in shapes.items()}
    facts = {
        "model": config.to_dict(),
        "parameters": counts,
        "cutoff_angstrom": model.cutoff_angstrom,
        "receptive_field_angstrom": model.receptive_field_angstrom,
    }
    cost = _cost_per_edge(model, shapes)
    return facts | ({"kiloflop_per_edge_energy_and_forces": round(cost, 1)} if cost else {})


def _cost_per_edge(model: Model, params: Any) -> float:
    """Return 1,000 floating-point operations per edge of energy and forces, as XLA counts them; 0 without a backbone.

    Of edges that count: the free slots of their rows, and what is done per bead, are shared out among them.
    """
    if "backbone" not in params:
        return 0.0
    graph = _example_graph()
    lowered = jax.jit(energy_and_forces(model.energy_of("backbone"))).lower(params, graph)
    return float((lowered.cost_analysis() or {}).get("flops", 0.0)) / int(graph.edge_mask.sum()) / 1000


def _example_graph() -> BeadGraph:
    n, k = EXAMPLE_BEADS, EXAMPLE_NEIGHBOURS
    index = np.arange(n, dtype=np.int32)
    none = {name: np.zeros((0, width), np.int32) for name, width in (("bonds", 2), ("angles", 3), ("dihedrals", 4))}
    return in_rows(
        BeadGraph(
            positions=np.zeros((n, 3), np.float32),
            species=np.zeros(n, np.int32),
            residue_index=index,
            chain_index=np.zeros(n, np.int32),
            frame=np.zeros(n, np.int32),
            bead_mask=np.ones(n, bool),
            senders=np.tile(index[:k], n),
            receivers=np.repeat(index, k),
            edge_mask=np.ones(n * k, bool),
            **none,
            bond_mask=np.zeros(0, bool),
            angle_mask=np.zeros(0, bool),
            dihedral_mask=np.zeros(0, bool),
        )
    )
