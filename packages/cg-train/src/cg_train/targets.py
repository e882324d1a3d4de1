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
from cg_models.statistics import ModelStatistics, average_neighbours
from cg_train.config import LossConfig
from cg_train.frames import FrameTable, GraphSource
from cg_train.loader import Example, largest_budget

FRAMES_AT_ONCE = 64
STATISTICS_FRAMES = 256


@dataclasses.dataclass(frozen=True)
class PriorLabels:
    """What a prior gives on every frame of a source: forces, each [n_beads, 3] kcal/mol/angstrom, energies [n_frames] kcal/mol."""

    forces: list[np.ndarray]
    energies: np.ndarray


def label_bytes(table: FrameTable, dtype: np.dtype) -> int:
    """Return the memory that `PriorLabels` of all frames of a table take."""
    n_frames = np.bincount(table.domain, minlength=len(table.n_beads))
    return int(3 * dtype.itemsize * (n_frames * table.n_beads).sum()) + 8 * len(table)


class FrozenPrior:
    """A prior on whole sources of frames: compiled once, and remembered for the last parameters asked for."""

    def __init__(self, model: Model, dtype: np.dtype):
        derive = energy_and_forces(model.energy_of("prior"))
        self._evaluate = jax.jit(lambda arrays, graph: derive({"prior": arrays}, graph))
        self._dtype = dtype
        self._budget: Budget | None = None
        self._arrays: Any = None
        self._known: dict[int, tuple[GraphSource, PriorLabels]] = {}

    def __call__(self, arrays: Mapping[str, Mapping[str, Array]], source: GraphSource) -> PriorLabels:
        """Return the prior's forces and energies on every frame of a source.

        arrays: the prior's parameters.
        """
        arrays = jax.tree.map(lambda leaf: np.asarray(leaf, self._dtype), dict(arrays))
        if self._arrays is None or not all(map(np.array_equal, jax.tree.leaves(arrays), jax.tree.leaves(self._arrays))):
            self._arrays, self._known = arrays, {}
        if id(source) not in self._known:
            # With the source, whose number would go to another one once it is gone.
            self._known[id(source)] = source, self._compute(arrays, source)
        return self._known[id(source)][1]

    def _compute(self, arrays: Any, source: GraphSource) -> PriorLabels:
        table = source.table
        by_size = np.argsort(table.n_beads[table.domain], kind="stable")
        chunks = [by_size[i : i + FRAMES_AT_ONCE].tolist() for i in range(0, len(by_size), FRAMES_AT_ONCE)]
        forces: list[np.ndarray] = [np.zeros((0, 3), self._dtype)] * len(table)
        energies = np.zeros(len(table))
        for chunk in chunks:
            of_beads, values = (np.asarray(found, self._dtype) for found in self._evaluate(arrays, self._packed(source, chunk)))
            ends = np.cumsum(table.n_beads[table.domain[np.asarray(chunk)]])
            for sample, end in zip(chunk, ends, strict=True):
                start = end - table.n_beads[table.domain[sample]]
                forces[sample], energies[sample] = values[start:end], of_beads[start:end].sum(dtype=np.float64)
        return PriorLabels(forces, energies)

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
    """What an energy has to give on each frame: the labels less those of a frozen prior."""

    def __init__(self, source: GraphSource, prior: PriorLabels | None):
        self._source, self._prior = source, prior

    def forces(self, sample: int) -> np.ndarray:
        """Return [n_beads, 3] kcal/mol/angstrom."""
        forces = self._source.forces(sample)
        return forces if self._prior is None else forces - self._prior.forces[sample]

    def energy(self, sample: int) -> float:
        """Return kcal/mol; NaN where the frame has no energy."""
        energy = self._source.energy(sample)
        return energy if self._prior is None else energy - float(self._prior.energies[sample])

    def example(self, sample: int, loss: LossConfig) -> Example:
        """Return the frame with its labels and their weights. Stress is the label's: no prior is taken off it."""
        source, cell = self._source, self._source.cell(sample)
        return Example(
            source.graph(sample),
            self.forces(sample),
            source.weight(sample),
            force_weights(source.force_error(sample), loss),
            self.energy(sample),
            source.stress(sample),
            1.0 if cell is None else abs(float(np.linalg.det(np.asarray(cell, np.float64)))),
        )

    def mean_square(self) -> float:
        """Return the mean square component over all frames: the error of an energy that is constant."""
        squares, count = 0.0, 0
        # One frame after the other, so that they need not be in memory together.
        for sample in range(len(self._source.table)):
            forces = self.forces(sample)
            squares, count = squares + float(np.square(forces, dtype=np.float64).sum()), count + forces.size
        return squares / count if count else float("nan")


def force_weights(error: np.ndarray | None, loss: LossConfig) -> np.ndarray | float:
    """Return the weights of beads whose forces have standard errors [n_beads, 3]: f^2 / (f^2 + s^2), s^2 their mean square.

    One number per bead, so that the loss does not depend on how a frame is turned.
    """
    floor = loss.force_error_floor**2
    if error is None:
        return floor / (floor + loss.assumed_force_error**2)
    return floor / (floor + (np.asarray(error, np.float64) ** 2).mean(axis=-1))


def model_statistics(source: GraphSource, cutoff_angstrom: float, species_offsets: tuple[float, ...] | None = None) -> ModelStatistics:
    """Return what a fresh model is scaled by, from training frames spread evenly, and its energy reference."""
    table = source.table
    samples = np.unique(np.linspace(0, len(table) - 1, min(len(table), STATISTICS_FRAMES)).round().astype(np.int64))
    graphs = [source.graph(int(sample)) for sample in samples]
    return ModelStatistics(avg_num_neighbors=average_neighbours(graphs, cutoff_angstrom), species_offsets=species_offsets)
