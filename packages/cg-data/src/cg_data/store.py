"""The dataset folder: `dataset.json`, and for each domain a record and memory-mapped arrays.

    dataset/
      dataset.json                 index: version, units, species, options, one entry per domain with its record's checksum
      domains/<domain>/domain.json the domain's record, with the checksums of its arrays
      domains/<domain>/*.npy       positions, forces, species, residue_index, chain_index, temperature, trajectory, source_frame,
                                   and where there are any, weight, force_error, energy, cell, stress

A domain's folder appears complete or not at all, and the index is made from the folders: writers of different domains do not
meet, an interrupted preparation continues with what is missing, and the bytes depend on the input and the options alone.
"""

import contextlib
import errno
import functools
import json
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydantic

from cg_data.atomic import atomic_file, atomic_folder, sha256
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_data.mapping import RESIDUE_SPECIES
from cg_data.records import DATASET_VERSION, DatasetInfo, DomainEntry, DomainRecord, ForceMapRecord, TrajectoryRecord
from cg_data.split import SPLITS, Segments, SplitConfig, assign_segments, check_segments, is_held_out, read_superfamilies

ARRAYS = ("positions", "forces", "species", "residue_index", "chain_index", "temperature", "trajectory", "source_frame")
OPTIONAL_ARRAYS = ("weight", "force_error", "energy", "cell", "stress")
"""Written only where a domain has them; its record's checksums tell."""
MAPPED_ARRAYS = ("positions", "forces", "force_error")
"""Arrays per bead and frame. Each that is mapped keeps a file open; the others are small and read at once."""
OTHER_OPEN_FILES = 1024
MAX_ID_BYTES = 200
"""Names of folders have 255 bytes, of which those of unfinished ones need some."""

Model = TypeVar("Model", bound=pydantic.BaseModel)


@dataclass(frozen=True)
class DomainData:
    """One domain in memory, ready to be written.

    `frames` must be in order of trajectory, then time. What is left out is derived from the frames.
    """

    frames: BeadFrames
    residue_names: Sequence[str]
    residue_numbers: Sequence[int] | None = None
    bead_names: Sequence[str] | None = None
    replicas: Sequence[int] | None = None
    trajectory_temperatures: Sequence[float] | None = None
    source_lengths: Sequence[int] | None = None
    source_frame: np.ndarray | None = None
    segments: Sequence[Segments] | None = None
    rejected: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    force_map: ForceMapRecord | None = None
    source: str = ""
    fingerprint: str = ""


class Dataset:
    """A dataset folder, opened; arrays per bead and frame are memory-mapped when asked for."""

    def __init__(self, path: Path, info: DatasetInfo):
        self.path = path
        self.info = info
        self._record = functools.cache(self._read_record)
        self._frames = functools.cache(self._read_frames)

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, {len(self.domains)} domains)"

    @property
    def species_names(self) -> tuple[str, ...]:
        """Name of each species index."""
        return self.info.species_names

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain ids, sorted."""
        return tuple(self.info.domains)

    def domain(self, domain: str) -> DomainRecord:
        """Return a domain's record; `UserError` where there is no such domain or its record is damaged."""
        return self._record(domain)

    def frames(self, domain: str, numbers: bool = True) -> BeadFrames:
        """Return a domain's frames: read-only, the large arrays memory-mapped, checked once; numbers: as in `BeadFrames.check`."""
        return self._frames(domain, numbers)

    def source_frame(self, domain: str) -> np.ndarray:
        """Return [n_frames] int32: each frame's place in its source trajectory."""
        return _load_array(self._folder(domain), "source_frame")

    def split(self, name: str) -> dict[str, np.ndarray]:
        """Return domain -> sorted frame indices [n] int64 of a split, for the domains that have any."""
        if name not in SPLITS:
            raise UserError(f"split {name!r}: expected one of {', '.join(SPLITS)}")
        held_out = name == "held_out_domains"
        frames = {
            domain: self.domain(domain).split_frames(name) for domain, entry in self.info.domains.items() if entry.held_out == held_out
        }
        return {domain: indices for domain, indices in frames.items() if len(indices)}

    def _folder(self, domain: str) -> Path:
        if domain not in self.info.domains:
            raise UserError(f"{self.path}: no domain {domain!r}; it has {_some(self.domains)}")
        return self.path / "domains" / domain

    def _read_record(self, domain: str) -> DomainRecord:
        path = self._folder(domain) / "domain.json"
        record = read_record(path)
        if sha256(path) != self.info.domains[domain].record_sha256:
            raise UserError(f"{path}: changed since the index was written; run cg-data merge on {self.path}")
        return record

    def _read_frames(self, domain: str, numbers: bool) -> BeadFrames:
        return load_frames(self._folder(domain), self.domain(domain), numbers)


def load_frames(folder: Path, record: DomainRecord, numbers: bool = True) -> BeadFrames:
    """Return the memory-mapped, checked frames of a domain's folder; numbers: as in `BeadFrames.check`."""
    names = [name for name in ARRAYS if name != "source_frame" and (name != "forces" or record.has_forces)]
    names += [name for name in OPTIONAL_ARRAYS if f"{name}.npy" in record.checksums]
    arrays = {name: _load_array(folder, name) for name in names}
    frames = BeadFrames(**{"forces": None, **arrays}).check(str(folder), numbers)
    if (frames.n_frames, frames.n_beads) != (record.n_frames, record.n_beads):
        raise UserError(
            f"{folder}: expected {record.n_frames} frames of {record.n_beads} beads, "
            f"received {frames.n_frames} of {frames.n_beads}: prepare the domain again"
        )
    return frames


def open_dataset(path: Path | str) -> Dataset:
    """Open a dataset folder.

    Raises `UserError` where it is not one, is of another version, or is damaged.
    """
    path = Path(path)
    index = path / "dataset.json"
    if not index.is_file():
        raise UserError(f"{path}: expected a dataset folder with dataset.json, found none: make one with cg-data prepare")
    values = _read_json(index)
    version = values.get("version") if isinstance(values, dict) else None
    if not isinstance(values, dict) or values.get("format") != "cg-dataset":
        raise UserError(f"{index}: not the index of a dataset (format is not 'cg-dataset'): make one with cg-data prepare")
    if version != DATASET_VERSION:
        raise UserError(f"{index}: dataset version {version}, this cg-data reads version {DATASET_VERSION}: prepare the data again")
    info = _validate(DatasetInfo, values, index)
    _allow_open_files(len(MAPPED_ARRAYS) * len(info.domains) + OTHER_OPEN_FILES)
    return Dataset(path, info)


def write_dataset(
    path: Path | str,
    domains: Mapping[str, DomainData | BeadFrames],
    species_names: Sequence[str] = RESIDUE_SPECIES,
    split: SplitConfig | None = None,
    mapping: str = "ca",
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Write a dataset folder at once and open it; for data that are in memory.

    domains: id -> `DomainData`, or `BeadFrames` alone (residue names are then the species names).
    """
    with atomic_folder(path, overwrite=overwrite) as aside:
        for domain, data in domains.items():
            if isinstance(data, BeadFrames):
                data = DomainData(frames=data, residue_names=[species_names[s] for s in np.asarray(data.species)])
            write_domain(aside, domain, data, split or SplitConfig())
        write_index(aside, species_names=species_names, mapping=mapping, options=options or {})
    return open_dataset(path)


def check_domain_id(domain: str) -> None:
    """Raise `UserError` where a domain's name cannot be a folder's."""
    plain = domain.isprintable() and not set("/\\") & set(domain) and not domain.startswith(".")
    if not domain or not plain or len(domain.encode(errors="replace")) > MAX_ID_BYTES:
        raise UserError(f"domain id {domain!r}: expected a plain name that can be a folder's, at most {MAX_ID_BYTES} bytes long")


def write_domain(path: Path, domain: str, data: DomainData, split: SplitConfig) -> DomainRecord:
    """Write one domain's folder under `path`, atomically, replacing an older one."""
    check_domain_id(domain)
    frames = data.frames.check(domain)
    with atomic_folder(path / "domains" / domain, overwrite=True) as aside:
        arrays = {name: getattr(frames, name) for name in (*ARRAYS, *OPTIONAL_ARRAYS) if name != "source_frame"}
        arrays["source_frame"] = np.arange(frames.n_frames) if data.source_frame is None else data.source_frame
        arrays["source_frame"] = np.asarray(arrays["source_frame"], np.int32)
        checksums = {}
        for name, array in arrays.items():
            if array is not None:
                _save_array(aside / f"{name}.npy", np.ascontiguousarray(array))
                checksums[f"{name}.npy"] = sha256(aside / f"{name}.npy")
        record = _make_record(domain, data, split, checksums)
        (aside / "domain.json").write_text(_to_json(record))
    return record


def _save_array(path: Path, array: np.ndarray) -> None:
    """Write what `np.save` does. That closes its file without a look at what the system says: on a full disk the end may be missing."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.reshape(-1).view(np.uint8).data)


def write_index(
    path: Path,
    species_names: Sequence[str],
    mapping: str,
    options: Mapping[str, Any],
    refused: Mapping[str, str] | None = None,
) -> DatasetInfo:
    """Write `dataset.json` from the records of all domains under `path`, atomically."""
    entries: dict[str, DomainEntry] = {}
    temperatures: set[float] = set()
    rejected: dict[str, int] = {}
    with_forces: list[bool] = []
    for file in sorted((path / "domains").glob("[!.]*/domain.json")):
        record = read_record(file)
        entries[record.domain] = DomainEntry(
            n_beads=record.n_beads, n_frames=record.n_frames, held_out=record.held_out, record_sha256=sha256(file)
        )
        temperatures |= {t.temperature_kelvin for t in record.trajectories if t.n_frames}
        with_forces.append(record.has_forces)
        for reason, count in record.rejected.items():
            rejected[reason] = rejected.get(reason, 0) + count
    info = DatasetInfo(
        species_names=tuple(species_names),
        mapping=mapping,
        has_forces=bool(with_forces) and all(with_forces),
        temperatures_kelvin=tuple(sorted(temperatures)),
        rejected=dict(sorted(rejected.items())),
        refused=dict(sorted((refused or {}).items())),
        options=dict(options),
        domains=entries,
    )
    with atomic_file(path / "dataset.json") as aside:
        aside.write_text(_to_json(info))
    return info


def read_record(path: Path) -> DomainRecord:
    """Read a `domain.json`."""
    return _validate(DomainRecord, _read_json(path), path)


def _make_record(domain: str, data: DomainData, split: SplitConfig, checksums: dict[str, str]) -> DomainRecord:
    frames = data.frames
    trajectory = np.asarray(frames.trajectory)
    if len(data.residue_names) != frames.n_beads:
        raise UserError(f"{domain}: {len(data.residue_names)} residue names for {frames.n_beads} beads; expected one for each")
    n_trajectories = len(data.replicas) if data.replicas is not None else int(trajectory.max(initial=-1)) + 1
    if (np.diff(trajectory) < 0).any() or (len(trajectory) and (trajectory.min() < 0 or trajectory.max() >= n_trajectories)):
        raise UserError(f"{domain}: frames must be in order of trajectory, numbered 0 to {n_trajectories - 1}: sort them")
    first = np.searchsorted(trajectory, np.arange(n_trajectories))
    lengths = np.bincount(trajectory, minlength=n_trajectories)
    if data.trajectory_temperatures is None:
        temperatures = [float(frames.temperature[f]) if n else 0.0 for f, n in zip(first, lengths, strict=True)]
    else:
        temperatures = list(data.trajectory_temperatures)
    replicas = list(data.replicas) if data.replicas is not None else _count_replicas(temperatures)
    source_lengths = lengths if data.source_lengths is None else data.source_lengths
    superfamilies = read_superfamilies(split.superfamilies)
    held_out = is_held_out(domain, split, superfamilies)
    segments = data.segments
    if segments is None:
        segments = assign_segments(replicas, temperatures, lengths.tolist(), held_out, split)
    check_segments(segments, lengths.tolist(), domain)
    return DomainRecord(
        domain=domain,
        n_beads=frames.n_beads,
        n_frames=frames.n_frames,
        residue_names=tuple(data.residue_names),
        residue_numbers=tuple(range(frames.n_beads)) if data.residue_numbers is None else tuple(map(int, data.residue_numbers)),
        bead_names=("CA",) * frames.n_beads if data.bead_names is None else tuple(data.bead_names),
        has_forces=frames.forces is not None,
        held_out=held_out,
        superfamily=superfamilies.get(domain),
        trajectories=tuple(
            TrajectoryRecord(
                index=i,
                temperature_kelvin=float(temperatures[i]),
                replica=int(replicas[i]),
                first_frame=int(first[i]),
                n_frames=int(lengths[i]),
                n_source_frames=int(source_lengths[i]),
                segments=segments[i],
            )
            for i in range(n_trajectories)
        ),
        rejected=dict(sorted(data.rejected.items())),
        notes=tuple(data.notes),
        force_map=data.force_map or ForceMapRecord(kind="given", requested="given"),
        source=data.source,
        fingerprint=data.fingerprint,
        checksums=checksums,
    )


def _count_replicas(temperatures: Sequence[float]) -> list[int]:
    return [list(temperatures[:i]).count(temperature) for i, temperature in enumerate(temperatures)]


def _load_array(folder: Path, name: str) -> np.ndarray:
    path = folder / f"{name}.npy"
    try:
        array: np.ndarray = np.load(path, mmap_mode="r" if name in MAPPED_ARRAYS else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.EMFILE, errno.ENFILE):
            raise UserError(f"{path}: too many open files: raise the limit (ulimit -n); each domain needs {len(MAPPED_ARRAYS)}") from None
        if number not in (None, errno.ENOENT):
            raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}): expected the {name} of a domain") from None
        reason = "is missing" if number == errno.ENOENT else "is truncated or not a NumPy array"
        raise UserError(f"{path}: {reason}; expected the {name} of a domain: remove the domain's folder and prepare it again") from None
    array.flags.writeable = False
    return array


def _allow_open_files(wanted: int) -> None:
    """Let this process have that many files open, as far as its own limit may be raised: many systems start with 1024 or 256."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        # Where the system allows less than the limit it states, the first file too many says so.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error.__class__.__name__}): prepare the data again") from None


def _validate(model: type[Model], values: Any, path: Path) -> Model:
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"{path}: {key}: {problem['msg']}: prepare the data again") from None


def _to_json(record: pydantic.BaseModel) -> str:
    return json.dumps(record.model_dump(mode="json"), indent=1) + "\n"


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
