"""What the network is to learn: forces less those of a frozen prior, computed once; and numbers that describe them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cg_data.contracts import Array, BeadGraph
from cg_models.forces import energy_and_forces
from cg_models.graph import Budget, BudgetOverflow, pack, plan_budget
from cg_models.hybrid import Model
from cg_models.statistics import ModelStatistics, average_neighbours, root_mean_square
from cg_train.frames import GraphSource
from cg_train.loader import largest_budget

FRAMES_AT_ONCE = 64
STATISTICS_FRAMES = 256


class PriorForces:
    """Forces of a prior on whole sources of frames: compiled once, and remembered for the last parameters asked for."""

    def __init__(self, model: Model, dtype: np.dtype):
        derive = energy_and_forces(model.energy_of("prior"))
        self._evaluate = jax.jit(lambda arrays, graph: derive({"prior": arrays}, graph)[1])
        self._dtype = dtype
        self._budget: Budget | None = None
        self._arrays: Any = None
        self._known: dict[int, list[np.ndarray]] = {}

    def __call__(self, arrays: Mapping[str, Mapping[str, Array]], source: GraphSource) -> list[np.ndarray]:
        """Return the prior's forces on every frame of a source, each [n_beads, 3] kcal/mol/angstrom.

        arrays: the prior's parameters.
        """
        arrays = jax.tree.map(lambda leaf: np.asarray(leaf, self._dtype), dict(arrays))
        if self._arrays is None or not all(map(np.array_equal, jax.tree.leaves(arrays), jax.tree.leaves(self._arrays))):
            self._arrays, self._known = arrays, {}
        if id(source) not in self._known:
            self._known[id(source)] = self._compute(arrays, source)
        return self._known[id(source)]

    def _compute(self, arrays: Any, source: GraphSource) -> list[np.ndarray]:
        table = source.table
        by_size = np.argsort(table.n_beads[table.domain], kind="stable")
        chunks = [by_size[i : i + FRAMES_AT_ONCE].tolist() for i in range(0, len(by_size), FRAMES_AT_ONCE)]
        forces: list[np.ndarray] = [np.zeros((0, 3), self._dtype)] * len(table)
        for chunk in chunks:
            values = np.asarray(self._evaluate(arrays, self._packed(source, chunk)), self._dtype)
            ends = np.cumsum(table.n_beads[table.domain[np.asarray(chunk)]])
            for sample, end in zip(chunk, ends, strict=True):
                forces[sample] = values[end - table.n_beads[table.domain[sample]] : end]
        return forces

    def _packed(self, source: GraphSource, samples: Sequence[int]) -> BeadGraph:
        graphs = [source.graph(sample) for sample in samples]
        try:
            if self._budget is None:
                raise BudgetOverflow("no budget yet")
            graph = pack(graphs, self._budget)
        except BudgetOverflow:
            # Room beyond the first chunk, so that most chunks of a size share one compilation.
            needed = plan_budget(graphs, len(graphs), headroom=1.1)
            self._budget = needed if self._budget is None else largest_budget(self._budget, needed)
            graph = pack(graphs, self._budget)
        return dataclasses.replace(graph, positions=graph.positions.astype(self._dtype))


class Targets:
    """The forces that an energy has to give on each frame: the reference less those of a frozen prior."""

    def __init__(self, source: GraphSource, prior: Sequence[np.ndarray] | None):
        self._source, self._prior = source, prior

    def __call__(self, sample: int) -> np.ndarray:
        """Return [n_beads, 3] kcal/mol/angstrom."""
        forces = self._source.forces(sample)
        return forces if self._prior is None else forces - self._prior[sample]

    def mean_square(self) -> float:
        """Return the mean square component over all frames: the error of an energy that is constant."""
        n_frames = len(self._source.table)
        return root_mean_square([self(sample) for sample in range(n_frames)]) ** 2 if n_frames else float("nan")


def model_statistics(source: GraphSource, cutoff_angstrom: float) -> ModelStatistics:
    """Return what a fresh model is scaled by, from training frames spread evenly."""
    table = source.table
    samples = np.unique(np.linspace(0, len(table) - 1, min(len(table), STATISTICS_FRAMES)).round().astype(np.int64))
    graphs = [source.graph(int(sample)) for sample in samples]
    return ModelStatistics(avg_num_neighbors=average_neighbours(graphs, cutoff_angstrom))
