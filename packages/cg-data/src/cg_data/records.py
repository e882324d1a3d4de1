"""What is written as JSON in a dataset folder: the index, the record of a domain, the provenance of its forces."""

from typing import Any, Literal

import numpy as np
import pydantic

from cg_data.split import Segments

DATASET_VERSION = 1
UNITS = {"length": "angstrom", "energy": "kcal/mol", "force": "kcal/mol/angstrom", "temperature": "kelvin"}


class Record(pydantic.BaseModel):
    """Base of what is written as JSON."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ForceMapRecord(Record):
    """How all-atom forces became bead forces, and how good that is on frames the map was not fitted on.

    Scores are mean square bead forces per component, (kcal/mol/angstrom)^2, over frames held out of the fit.
    """

    kind: str
    requested: str
    ridge: float | None = None
    n_folds: int = 0
    n_frames: int = 0
    n_weights: int = 0
    n_constraints: int = 0
    scores: dict[str, float] = {}
    note: str = ""


class TrajectoryRecord(Record):
    """One trajectory of a domain: a contiguous run of its frames, in time order."""

    index: int
    temperature_kelvin: float
    replica: int
    first_frame: int
    n_frames: int
    n_source_frames: int
    segments: Segments


class DomainRecord(Record):
    """Everything about one domain but its arrays."""

    domain: str
    n_beads: int
    n_frames: int
    residue_names: tuple[str, ...]
    residue_numbers: tuple[int, ...]
    bead_names: tuple[str, ...]
    has_forces: bool
    held_out: bool
    superfamily: str | None = None
    trajectories: tuple[TrajectoryRecord, ...]
    rejected: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    force_map: ForceMapRecord
    source: str = ""
    fingerprint: str = ""
    checksums: dict[str, str] = {}

    @property
    def n_residues(self) -> int:
        """Number of residues that have beads; those of several chains, and those with insertion codes, may share a number."""
        count, number, names = 0, None, set[str]()
        for bead, of_residue in zip(self.bead_names, self.residue_numbers, strict=True):
            if of_residue != number or bead in names:
                count, number, names = count + 1, of_residue, set()
            names.add(bead)
        return count

    def split_frames(self, name: str) -> np.ndarray:
        """Return the sorted frame indices [n] int64 of a split."""
        ranges = [
            np.arange(t.first_frame + t.segments[name][0], t.first_frame + t.segments[name][1])
            for t in self.trajectories
            if name in t.segments
        ]
        return np.concatenate(ranges).astype(np.int64) if ranges else np.zeros(0, np.int64)


class DomainEntry(Record):
    """A domain's line in the index."""

    n_beads: int
    n_frames: int
    held_out: bool
    record_sha256: str


class DatasetInfo(Record):
    """The index, `dataset.json`."""

    format: Literal["cg-dataset"] = "cg-dataset"
    version: int = DATASET_VERSION
    units: dict[str, str] = UNITS
    species_names: tuple[str, ...]
    mapping: str
    has_forces: bool
    temperatures_kelvin: tuple[float, ...]
    rejected: dict[str, int]
    refused: dict[str, str] = {}
    options: dict[str, Any] = {}
    domains: dict[str, DomainEntry]
