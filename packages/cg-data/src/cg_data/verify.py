"""Is a dataset folder what its index says, and is it sound?"""

from pathlib import Path

import numpy as np

from cg_data.atomic import sha256
from cg_data.errors import UserError
from cg_data.records import DomainRecord
from cg_data.split import check_segments
from cg_data.store import Dataset, load_frames, open_dataset, read_record


def verify(path: Path | str) -> list[str]:
    """Return one line per problem of a dataset folder; empty where it is sound.

    Every checksum is computed again, and shapes, finite values, residue and chain numbering, trajectories and splits are checked.
    Raises `UserError` where the folder has no readable index.
    """
    dataset = open_dataset(path)
    problems: list[str] = []
    records: list[DomainRecord] = []
    for domain, entry in dataset.info.domains.items():
        folder = dataset.path / "domains" / domain
        try:
            record = read_record(folder / "domain.json")
        except UserError as error:
            problems.append(str(error))
            continue
        records.append(record)
        if sha256(folder / "domain.json") != entry.record_sha256:
            problems.append(f"{folder / 'domain.json'}: checksum differs from the index")
        broken = _damaged_files(folder, record)
        problems += broken
        if not broken:
            problems += _unsound(folder, record, dataset)
    present = {file.parent.name for file in (dataset.path / "domains").glob("[!.]*/domain.json")}
    for domain in sorted(present - set(dataset.info.domains)):
        problems.append(f"{dataset.path / 'domains' / domain}: not in the index; run cg-data merge")
    return problems + superfamily_leaks(records)


def _damaged_files(folder: Path, record: DomainRecord) -> list[str]:
    problems = []
    for name, expected in record.checksums.items():
        if not (folder / name).is_file():
            problems.append(f"{folder / name}: missing")
        elif sha256(folder / name) != expected:
            problems.append(f"{folder / name}: checksum differs from the domain's record")
    return problems


def _unsound(folder: Path, record: DomainRecord, dataset: Dataset) -> list[str]:
    try:
        frames = load_frames(folder, record)
        check_segments([t.segments for t in record.trajectories], [t.n_frames for t in record.trajectories], str(folder))
    except UserError as error:
        return [str(error)]
    problems = []
    n_species = len(dataset.species_names)
    if frames.species.min() < 0 or frames.species.max() >= n_species:
        problems.append(f"{folder}: species outside 0 to {n_species - 1}")
    linked = np.diff(frames.chain_index) == 0
    if (np.diff(frames.residue_index)[linked] != 1).any():
        problems.append(f"{folder}: residue_index is not consecutive along a segment")
    lengths = [t.n_frames for t in record.trajectories]
    if not np.array_equal(np.bincount(frames.trajectory, minlength=len(lengths)), lengths) or (np.diff(frames.trajectory) < 0).any():
        problems.append(f"{folder}: trajectory does not match the record's trajectories")
    expected = np.repeat([t.temperature_kelvin for t in record.trajectories], lengths)
    if len(expected) == frames.n_frames and not np.allclose(frames.temperature, expected):
        problems.append(f"{folder}: temperature does not match the record's trajectories")
    if record.held_out != any("held_out_domains" in t.segments for t in record.trajectories):
        problems.append(f"{folder}: the record's held_out contradicts its splits")
    return problems


def superfamily_leaks(records: list[DomainRecord]) -> list[str]:
    """Return one line per domain that is trained on although a relative is held out."""
    held_out = {record.superfamily for record in records if record.held_out} - {None}
    return [
        f"domain {record.domain}: in training, but its superfamily {record.superfamily} is held out"
        for record in records
        if not record.held_out and record.superfamily in held_out
    ]
