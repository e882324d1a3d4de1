"""The frames of a split: a table of them, their graphs, and what is learned from each."""

import copy
import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cg_data.contracts import BeadFrames, BeadGraph, check_numbers
from cg_data.errors import UserError, require
from cg_data.store import Dataset
from cg_data.topology import frame_graph, neighbour_edges, periodic_edges
from cg_models.graph import count_rows
from cg_train.config import DataConfig


@dataclass(frozen=True)
class FrameTable:
    """The chosen frames of a split, in order of domain, then frame.

    domain_names [n_domains]; domain [n_frames] int32 index of the name; frame [n_frames] int64 index in the dataset;
    n_beads [n_domains] int64; temperature [n_frames] float32, kelvin.
    """

    domain_names: tuple[str, ...]
    n_beads: np.ndarray
    domain: np.ndarray
    frame: np.ndarray
    temperature: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    def describe(self, samples: Sequence[int]) -> str:
        """Return 'domain: frame, frame; domain: ...' for places in the table."""
        by_domain: dict[str, list[int]] = {}
        for sample in samples:
            by_domain.setdefault(self.domain_names[self.domain[sample]], []).append(int(self.frame[sample]))
        return "; ".join(f"{domain}: {', '.join(map(str, sorted(frames)))}" for domain, frames in sorted(by_domain.items()))

    def thinned(self, n_frames: int | None) -> "FrameTable":
        """Return at most `n_frames` of the frames, spread evenly."""
        if n_frames is None or len(self) <= n_frames:
            return self
        keep = np.linspace(0, len(self) - 1, n_frames).round().astype(np.int64)
        return dataclasses.replace(self, domain=self.domain[keep], frame=self.frame[keep], temperature=self.temperature[keep])


def select_frames(dataset: Dataset, split: str, config: DataConfig) -> FrameTable:
    """Return the split's frames at the configured temperatures and domains; `UserError` for a domain or temperature unknown."""
    chosen = dataset.split(split)
    if config.domains is not None:
        unknown = sorted(set(config.domains) - set(dataset.domains))
        require(not unknown, f"data.domains: {dataset.path} has no domain {', '.join(unknown)}; it has {', '.join(dataset.domains[:8])}")
        chosen = {domain: frames for domain, frames in chosen.items() if domain in config.domains}
    missing = [t for t in config.temperatures_kelvin or () if not np.isclose(t, dataset.info.temperatures_kelvin, atol=0.5).any()]
    known = ", ".join(f"{t:g}" for t in dataset.info.temperatures_kelvin)
    require(
        not missing,
        f"data.temperatures_kelvin: {dataset.path} has no frames at {', '.join(f'{t:g}' for t in missing)} K; it has {known} K",
    )
    names, domain, frame, temperature = tuple(sorted(chosen)), [], [], []
    for index, name in enumerate(names):
        of_domain = np.asarray(dataset.frames(name, numbers=False).temperature)[chosen[name]]
        keep = np.ones(len(of_domain), bool)
        if config.temperatures_kelvin is not None:
            keep = np.isclose(of_domain[:, None], np.asarray(config.temperatures_kelvin)[None, :], atol=0.5).any(axis=1)
        frame.append(chosen[name][keep])
        temperature.append(of_domain[keep])
        domain.append(np.full(int(keep.sum()), index, np.int32))
    return FrameTable(
        domain_names=names,
        n_beads=np.array([dataset.domain(name).n_beads for name in names], np.int64),
        domain=np.concatenate(domain) if domain else np.zeros(0, np.int32),
        frame=np.concatenate(frame) if frame else np.zeros(0, np.int64),
        temperature=np.concatenate(temperature) if temperature else np.zeros(0, np.float32),
    )


def sampling_weights(table: FrameTable, config: DataConfig) -> np.ndarray | None:
    """Return [n_frames] relative frequencies of the training frames; None where all are equal.

    Raises `UserError` for a weight of a domain or temperature that no training frame has.
    """
    if not config.domain_weights and not config.temperature_weights:
        return None
    weights = np.ones(len(table))
    for name, weight in config.domain_weights.items():
        of_domain = np.array([domain == name for domain in table.domain_names])[table.domain]
        require(
            bool(of_domain.any()),
            f"data.domain_weights: no training frame of domain {name!r}; domains: {', '.join(table.domain_names[:8])}",
        )
        weights[of_domain] *= weight
    for kelvin, weight in config.temperature_weights.items():
        at_temperature = np.isclose(table.temperature, kelvin, atol=0.5)
        known = ", ".join(f"{t:g}" for t in np.unique(table.temperature))
        require(bool(at_temperature.any()), f"data.temperature_weights: no training frame at {kelvin:g} K; temperatures: {known}")
        weights[at_temperature] *= weight
    return weights


EDGE_SAMPLE = 20_000
"""Frames whose edges are counted when budgets are planned."""

Edges = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Senders, receivers [n_edges] and, where any domain is periodic, shifts [n_edges, 3]."""


class GraphSource:
    """Makes the graph and the labels of any frame of a table; edges are kept once built, up to a limit.

    Nothing is read of a frame before it is asked for: a data set may be larger than what a file system reads in a day. Numbers that
    are not finite are a `UserError` then.
    """

    def __init__(self, dataset: Dataset, table: FrameTable, cutoff_angstrom: float, cache_gigabytes: float):
        self.table = table
        self._cutoff = cutoff_angstrom
        self._where = [f"{dataset.path / 'domains' / name}" for name in table.domain_names]
        self._frames: list[BeadFrames] = [dataset.frames(name, numbers=False) for name in table.domain_names]
        for name, frames in zip(table.domain_names, self._frames, strict=True):
            if frames.forces is None:
                raise UserError(
                    f"{dataset.path}: domain {name} has no forces; force matching needs them: prepare it from a source with forces"
                )
        self._templates = [
            frame_graph(np.asarray(f.positions[0]), f.species, f.residue_index, f.chain_index, cutoff_angstrom) for f in self._frames
        ]
        self._periodic = any(frames.cell is not None for frames in self._frames)
        self._edges: dict[int, Edges] = {}
        self._bytes_left = int(cache_gigabytes * 1e9)
        self._lock = threading.Lock()

    def thinned(self, n_frames: int) -> "GraphSource":
        """Return a source of at most `n_frames` of the frames, spread evenly, which keeps no edges; itself where it has no more."""
        table = self.table.thinned(n_frames)
        if table is self.table:
            return self
        other = copy.copy(self)
        other.__dict__.pop("needs", None)
        other.table, other._edges, other._bytes_left, other._lock = table, {}, 0, threading.Lock()
        return other

    def positions(self, sample: int) -> np.ndarray:
        """Return [n_beads, 3] float32, angstrom."""
        return self._finite(sample, "positions")

    def forces(self, sample: int) -> np.ndarray:
        """Return [n_beads, 3] float32, kcal/mol/angstrom."""
        return self._finite(sample, "forces")

    def weight(self, sample: int) -> float:
        """Return the frame's weight in losses."""
        weights = self._of(sample, "weight")
        return 1.0 if weights is None else float(weights)

    def force_error(self, sample: int) -> np.ndarray | None:
        """Return the standard errors of the forces, [n_beads, 3] kcal/mol/angstrom, where the data have them."""
        return None if self._of(sample, "force_error") is None else self._finite(sample, "force_error")

    def energy(self, sample: int) -> float:
        """Return the frame's energy, kcal/mol; NaN where it has none."""
        energy = self._of(sample, "energy")
        return float("nan") if energy is None else float(energy)

    def composition(self, sample: int, n_species: int) -> np.ndarray:
        """Return the number of beads of each species, [n_species]."""
        return np.bincount(self._frames[self.table.domain[sample]].species, minlength=n_species)

    def has(self, label: str) -> bool:
        """Return whether any domain carries a label: energy, stress, ..."""
        return any(getattr(frames, label) is not None for frames in self._frames)

    def cell(self, sample: int) -> np.ndarray | None:
        """Return the vectors of the frame's periodic cell, [3, 3] angstrom; None in free space."""
        return self._of(sample, "cell")

    def stress(self, sample: int) -> np.ndarray | None:
        """Return the frame's stress, [6] kcal/mol/angstrom^3; None or NaN where it has none."""
        return self._of(sample, "stress")

    def graph(self, sample: int) -> BeadGraph:
        """Return the unpadded graph of a frame."""
        positions = self.positions(sample)
        return self._graph_at(sample, positions, self._cached_edges(sample, positions))

    def graph_of_positions(self, sample: int, positions: np.ndarray) -> BeadGraph:
        """Return the graph of a frame whose beads stand at other positions [n_beads, 3]; its edges are built anew."""
        return self._graph_at(sample, positions, self._new_edges(sample, positions))

    def n_rows(self, sample: int) -> int:
        """Return the number of rows that the edges of a frame fill."""
        _, receivers, _ = self._cached_edges(sample, self.positions(sample))
        return count_rows(receivers)

    @cached_property
    def needs(self) -> np.ndarray:
        """[n_domains, 5] beads, bonds, angles, dihedrals of a frame of each domain, and the most rows of edges of any sampled one."""
        tuples = [(graph.n_beads, len(graph.bonds), len(graph.angles), len(graph.dihedrals)) for graph in self._templates]
        each = max(4, EDGE_SAMPLE // max(len(tuples), 1))
        rows = []
        for domain in range(len(tuples)):
            samples = np.flatnonzero(self.table.domain == domain)
            if len(samples) > each:
                samples = samples[np.linspace(0, len(samples) - 1, each).round().astype(np.int64)]
            rows.append(max((self.n_rows(int(sample)) for sample in samples), default=0))
        return np.column_stack([tuples, rows]).astype(np.int64)

    def _finite(self, sample: int, name: str) -> np.ndarray:
        values = np.asarray(self._of(sample, name))
        check_numbers(values[None], name, self._where[self.table.domain[sample]], int(self.table.frame[sample]))
        return values

    def _of(self, sample: int, name: str) -> Any:
        values = getattr(self._frames[self.table.domain[sample]], name)
        return None if values is None else values[self.table.frame[sample]]

    def _graph_at(self, sample: int, positions: np.ndarray, edges: Edges) -> BeadGraph:
        template = self._templates[self.table.domain[sample]]
        senders, receivers, shifts = edges
        changed = {"senders": senders, "receivers": receivers, "edge_mask": np.ones(len(senders), bool), "shifts": shifts}
        return dataclasses.replace(template, positions=positions, **changed)

    def _new_edges(self, sample: int, positions: np.ndarray) -> Edges:
        cell = self.cell(sample)
        if cell is not None:
            senders, receivers, shifts = periodic_edges(positions, self._cutoff, cell)
            return senders, receivers, shifts.astype(np.float32)
        senders, receivers = neighbour_edges(positions, self._cutoff)
        return senders, receivers, np.zeros((len(senders), 3), np.float32) if self._periodic else None

    def _cached_edges(self, sample: int, positions: np.ndarray) -> Edges:
        found = self._edges.get(sample)
        if found is not None:
            return found[0].astype(np.int32), found[1].astype(np.int32), found[2]
        senders, receivers, shifts = self._new_edges(sample, positions)
        small = np.uint16 if len(positions) < 2**16 else np.int32
        kept = (senders.astype(small), receivers.astype(small), shifts)
        n_bytes = kept[0].nbytes + kept[1].nbytes + (0 if shifts is None else shifts.nbytes)
        with self._lock:
            if sample not in self._edges and n_bytes <= self._bytes_left:
                self._edges[sample] = kept
                self._bytes_left -= n_bytes
        return senders, receivers, shifts
