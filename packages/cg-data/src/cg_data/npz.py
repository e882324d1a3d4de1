"""Padded NPZ files, for exchange with other training codes.

One array per field over all frames of several domains, padded to the largest domain: R [n_frames, N_max, 3] angstrom and F
[n_frames, N_max, 3] kcal/mol/angstrom (float32), species [n_frames, N_max] int32 (-1 in padding), mask [n_frames, N_max] bool, Z
[n_frames] int32 (number of beads), N_max int, aa_to_id: species names [n_species] in the order of their indices; and what a dataset
needs to come back whole: residue_index, chain_index [n_frames, N_max] int32, temperature [n_frames], trajectory, domain_index
[n_frames] int32, domains [n_domains]; where a domain has them, weight [n_frames] (1 for frames without) and, NaN for frames without,
F_error [n_frames, N_max, 3], the standard error of F, energy [n_frames], cell [n_frames, 3, 3], stress [n_frames, 6]. Padding is zero
but for species. No object arrays, so loading runs no code.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.atomic import atomic_file, atomic_folder, room_at
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_data.mapping import RESIDUE_SPECIES
from cg_data.split import SplitConfig
from cg_data.store import Dataset, DomainData, write_dataset

NEEDED = ("R", "F", "species", "mask")
INTEGERS = ("species", "residue_index", "chain_index", "trajectory", "domain_index")
OF_FRAMES = {"energy": (), "cell": (3, 3), "stress": (6,)}
"""Further arrays of `BeadFrames` with one entry per frame, and its shape; NaN where a domain has none."""


def to_npz(dataset: Dataset, path: Path | str, per_domain: bool = False) -> list[Path]:
    """Write a dataset as one NPZ file, or into a folder with one file per domain; return the files."""
    path = Path(path)
    inside = dataset.path.resolve() in path.resolve().parents
    require(not inside, f"{path}: is in the dataset itself: choose another place")
    require(dataset.info.has_forces, f"{dataset.path}: has no forces; the padded layout needs them")
    if not per_domain:
        with room_at(path), atomic_file(path) as aside, open(aside, "wb") as file:
            np.savez_compressed(file, **_padded(dataset, dataset.domains))
        return [path]
    with room_at(path), atomic_folder(path) as folder:
        for domain in dataset.domains:
            np.savez_compressed(folder / f"{domain}.npz", **_padded(dataset, (domain,)))
    return [path / f"{domain}.npz" for domain in dataset.domains]


def _padded(dataset: Dataset, domains: Sequence[str]) -> dict[str, Any]:
    parts = [dataset.frames(domain) for domain in domains]
    width = max((frames.n_beads for frames in parts), default=0)
    per_frame = {"R": "positions", "F": "forces"}
    per_bead = {"species": ("species", -1), "residue_index": ("residue_index", 0), "chain_index": ("chain_index", 0)}
    arrays: dict[str, Any] = {
        key: np.concatenate([_pad(np.asarray(getattr(frames, name)), width) for frames in parts]) for key, name in per_frame.items()
    }
    for key, (name, fill) in per_bead.items():
        rows = [np.broadcast_to(getattr(frames, name), (frames.n_frames, frames.n_beads)) for frames in parts]
        arrays[key] = np.concatenate([_pad(row, width, fill) for row in rows])
    if any(frames.weight is not None for frames in parts):
        weights = [np.ones(frames.n_frames, np.float32) if frames.weight is None else frames.weight for frames in parts]
        arrays["weight"] = np.concatenate(weights)
    if any(frames.force_error is not None for frames in parts):
        errors = [np.full_like(frames.forces, np.nan) if frames.force_error is None else frames.force_error for frames in parts]
        arrays["F_error"] = np.concatenate([_pad(np.asarray(error), width) for error in errors])
    for name, shape in OF_FRAMES.items():
        if any(getattr(frames, name) is not None for frames in parts):
            arrays[name] = np.concatenate([_or_nan(getattr(frames, name), (frames.n_frames, *shape)) for frames in parts])
    arrays["mask"] = np.concatenate([_pad(np.ones((frames.n_frames, frames.n_beads), bool), width) for frames in parts])
    arrays["Z"] = np.repeat([frames.n_beads for frames in parts], [frames.n_frames for frames in parts]).astype(np.int32)
    arrays["N_max"] = np.array(width)
    arrays["aa_to_id"] = np.array(dataset.species_names)
    arrays["temperature"] = np.concatenate([frames.temperature for frames in parts])
    arrays["trajectory"] = np.concatenate([frames.trajectory for frames in parts])
    arrays["domain_index"] = np.repeat(np.arange(len(parts)), [frames.n_frames for frames in parts]).astype(np.int32)
    arrays["domains"] = np.array(domains)
    return arrays


def _or_nan(array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan) if array is None else np.asarray(array, np.float64)


def _pad(array: np.ndarray, width: int, fill: int = 0) -> np.ndarray:
    padding = [(0, 0), (0, width - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
    return np.pad(array, padding, constant_values=fill)


def from_npz(
    paths: Sequence[Path | str], output: Path | str, temperature_kelvin: float | None = None, split: SplitConfig | None = None
) -> Dataset:
    """Write a dataset folder from NPZ files in the padded layout, and open it.

    temperature_kelvin: of files that do not hold it. Frames without a domain are grouped by their species into domains named by
    the file; without a chain, beads are one unbroken segment. Raises `UserError` for files in another layout.
    """
    require(bool(paths), "no NPZ file given")
    domains: dict[str, DomainData] = {}
    species_names: tuple[str, ...] | None = None
    for path in map(Path, paths):
        arrays = _load(path)
        names = tuple(str(name) for name in arrays["aa_to_id"]) if "aa_to_id" in arrays else RESIDUE_SPECIES
        require(species_names in (None, names), f"{path}: species differ from those of {paths[0]}; expected one list for all files")
        species_names = names
        for domain, rows in _domains_of(arrays, path):
            require(domain not in domains, f"{path}: domain {domain!r} is in another file too: rename one")
            domains[domain] = _domain(arrays, rows, names, temperature_kelvin, f"{path}: {domain}")
    with room_at(output):
        return write_dataset(output, domains, species_names=species_names or RESIDUE_SPECIES, split=split, mapping="given")


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: give the path of an NPZ file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not an NPZ file of plain arrays ({error.__class__.__name__}): write it without objects") from None
    except (zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path}: not an NPZ file; expected arrays R, F, species, mask") from None
    missing = [name for name in NEEDED if name not in arrays]
    require(not missing, f"{path}: no array {', '.join(missing)}; expected R, F, species, mask")
    shape = arrays["mask"].shape
    require(len(shape) == 2, f"{path}: mask: expected shape [frames, beads], received {list(shape)}")
    per_bead = dict.fromkeys(("species", "residue_index", "chain_index"), shape)
    per_frame = dict.fromkeys(("weight", "temperature", "trajectory", "domain_index"), shape[:1])
    vectors = dict.fromkeys(("R", "F", "F_error"), (*shape, 3))
    wanted = {**per_bead, **per_frame, **vectors, **{name: (shape[0], *of_frame) for name, of_frame in OF_FRAMES.items()}}
    for name in sorted(wanted.keys() & arrays.keys()):
        array = arrays[name]
        require(array.shape == wanted[name], f"{path}: {name}: expected shape {list(wanted[name])}, received {list(array.shape)}")
        kinds, what = ("iu", "integers") if name in INTEGERS else ("iuf", "numbers")
        require(array.dtype.kind in kinds, f"{path}: {name}: expected {what}, received {array.dtype}")
    for name in sorted({"aa_to_id", "domains"} & arrays.keys()):
        require(arrays[name].ndim == 1, f"{path}: {name}: expected a list of names, received {list(arrays[name].shape)}")
    return arrays


def _domains_of(arrays: dict[str, np.ndarray], path: Path) -> list[tuple[str, np.ndarray]]:
    """Return (name, rows [n]) of each domain of a file."""
    if "domain_index" in arrays and "domains" in arrays:
        number, last = arrays["domain_index"], len(arrays["domains"]) - 1
        low, high = number.min(initial=0), number.max(initial=0)
        require(low >= 0 and high <= last, f"{path}: domain_index: expected 0 to {last}, received {low} to {high}")
        return [(str(name), np.flatnonzero(arrays["domain_index"] == i)) for i, name in enumerate(arrays["domains"])]
    keys = np.where(arrays["mask"], arrays["species"], -1)
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    names = [path.stem if len(order) == 1 else f"{path.stem}-{i}" for i in range(len(order))]
    return [(name, np.flatnonzero(group.ravel() == unique)) for name, unique in zip(names, order, strict=True)]


def _domain(
    arrays: dict[str, np.ndarray], rows: np.ndarray, names: tuple[str, ...], temperature_kelvin: float | None, where: str
) -> DomainData:
    mask = arrays["mask"][rows].astype(bool)
    require(len(rows) > 0 and bool((mask == mask[0]).all()), f"{where}: expected frames with the same beads in each")
    beads = mask[0]
    require(bool(beads.any()), f"{where}: no bead; expected mask to be true for some")
    species = arrays["species"][rows[0]][beads].astype(np.int32)
    require(bool(((species >= 0) & (species < len(names))).all()), f"{where}: species outside 0 to {len(names) - 1}")
    if "temperature" not in arrays and temperature_kelvin is None:
        raise UserError(f"{where}: the file holds no temperature: state it with temperature_kelvin")
    temperature = arrays["temperature"][rows] if "temperature" in arrays else np.full(len(rows), temperature_kelvin)
    # Frames of several temperatures are of several trajectories.
    trajectory = arrays["trajectory"][rows] if "trajectory" in arrays else np.unique(temperature, return_inverse=True)[1]
    for number in np.unique(trajectory):
        own = temperature[trajectory == number]
        require(
            bool((own == own[0]).all() or np.isnan(own).any()),
            f"{where}: temperature changes along trajectory {number}, from {own.min():g} to {own.max():g} K: number trajectories apart",
        )
    order = np.argsort(trajectory, kind="stable")
    numbered = {name: arrays[name][rows[0]][beads] if name in arrays else None for name in ("residue_index", "chain_index")}
    residue_index = np.arange(beads.sum()) if numbered["residue_index"] is None else numbered["residue_index"]
    weight, error = arrays.get("weight"), arrays["F_error"][rows][:, beads][order] if "F_error" in arrays else None
    chain_index = np.zeros(beads.sum()) if numbered["chain_index"] is None else numbered["chain_index"]
    linked = np.diff(chain_index) == 0
    require(
        bool((np.diff(residue_index)[linked] == 1).all()),
        f"{where}: residue_index must rise by one along a segment: give beads after a break another chain_index",
    )
    further = {name: arrays[name][rows][order] for name in OF_FRAMES if name in arrays}
    # A frame may be without energy or stress, a domain is without a cell.
    further = {name: values for name, values in further.items() if not np.isnan(values).all()}
    frames = BeadFrames(
        positions=arrays["R"][rows][:, beads][order].astype(np.float32),
        forces=arrays["F"][rows][:, beads][order].astype(np.float32),
        species=species,
        residue_index=np.asarray(residue_index, np.int32),
        chain_index=np.asarray(chain_index, np.int32),
        temperature=np.asarray(temperature, np.float32)[order],
        trajectory=np.unique(trajectory[order], return_inverse=True)[1].astype(np.int32),
        weight=None if weight is None or (weight[rows] == 1).all() else weight[rows][order].astype(np.float32),
        force_error=None if error is None or np.isnan(error).all() else error.astype(np.float32),
        **{name: values.astype(np.float64 if name == "energy" else np.float32) for name, values in further.items()},
    )
    return DomainData(frames=frames.check(where), residue_names=[names[s] for s in species])
