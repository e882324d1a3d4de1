"""Coordinates to fit from: a dataset folder, plain arrays in an NPZ file, or anything MDAnalysis reads."""

import importlib
import inspect
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_data.mapping import RESIDUE_SPECIES, RESIDUE_VARIANTS, residue_species
from cg_data.store import open_dataset
from cg_priors.fit import split_frames
from cg_priors.parameters import read_npz

logger = logging.getLogger(__name__)

LARGEST_LINK_ANGSTROM = 5.0
"""Consecutive beads further apart than this in the first frame are of different segments, where nothing else tells."""
STRUCTURES = (".pdb", ".gro")
"""Files that are their own topology."""
READER_ERRORS = (ValueError, TypeError, OSError, EOFError, LookupError, AttributeError, RuntimeError)
"""What the readers of MDAnalysis raise for files they cannot use."""


def read_frames(
    path: Path | str, split: str = "train", topology: Path | str | None = None, temperature_kelvin: float | None = None
) -> tuple[list[BeadFrames], tuple[str, ...]]:
    """Return the frames of each domain and the species names.

    path: a dataset folder (one split of it), an `.npz` file (see `frames_from_arrays` for its arrays), or for MDAnalysis a `.pdb` or
    `.gro` file, or any trajectory with its `topology`. temperature_kelvin: of data that do not state theirs.
    """
    path = Path(path)
    require(path.exists(), f"{path}: no such file or folder: give a dataset folder, an .npz file, a structure or a trajectory")
    if topology is not None or path.suffix.lower() in STRUCTURES:
        return [_read_mdanalysis(path, None if topology is None else Path(topology), temperature_kelvin)], RESIDUE_SPECIES
    if path.is_dir():
        dataset = open_dataset(path)
        return split_frames(dataset, split), dataset.species_names
    require(
        path.suffix == ".npz",
        f"{path}: expected a dataset folder, an .npz, .pdb or .gro file, or a trajectory together with --topology: give one of them",
    )
    arrays = read_npz(path, remedy="write it with numpy.savez")
    for name in ("positions", "residue_names"):
        require(name in arrays, f"{path}: expected an array {name!r}, received {', '.join(sorted(arrays)) or 'none'}: add it")
    known = [name for name in inspect.signature(frames_from_arrays).parameters if name != "where"]
    unread = sorted(set(arrays) - set(known))
    if unread:
        logger.warning("%s: not read: %s; arrays that are read: %s", path, ", ".join(unread), ", ".join(known))
    values: dict[str, Any] = {name: arrays[name] for name in known if name in arrays}
    if "temperature_kelvin" not in values and temperature_kelvin is not None:
        values["temperature_kelvin"] = np.asarray(temperature_kelvin)
    require(
        "temperature_kelvin" in values,
        f"{path}: expected an array 'temperature_kelvin' or the option temperature_kelvin=... (plot: --temperature), received neither: "
        "state it",
    )
    return [frames_from_arrays(**values, where=str(path))], RESIDUE_SPECIES


def frames_from_arrays(
    positions: Any,
    residue_names: Sequence[Any],
    temperature_kelvin: Any,
    forces: Any = None,
    residue_index: Any = None,
    chain_index: Any = None,
    trajectory: Any = None,
    weight: Any = None,
    where: str = "arrays",
) -> BeadFrames:
    """Return checked frames of one molecule from plain arrays.

    positions [n_frames, n_beads, 3] angstrom; residue_names [n_beads] three-letter names; temperature_kelvin a number or
    [n_frames]; forces like positions, kcal/mol/angstrom; residue_index [n_beads], by default counted; chain_index [n_beads], by
    default one chain broken where residue_index starts again and where beads of consecutive residues are more than 5 angstrom
    apart in the first frame; trajectory [n_frames], by default one; weight [n_frames] above 0, by default 1 each.
    """
    positions = np.asarray(_numbers(positions, "positions", where), np.float32)
    species = _species(residue_names, where)
    require(
        positions.ndim == 3 and positions.shape[2] == 3 and positions.shape[0] > 0 and positions.shape[1] == len(species),
        f"{where}: positions: expected shape [n_frames, {len(species)}, 3] for {len(species)} residue names, "
        f"received {list(positions.shape)}: correct one of them",
    )
    n_frames, n_beads, _ = positions.shape
    temperature = _numbers(temperature_kelvin, "temperature_kelvin", where)
    require(
        temperature.shape in ((), (1,), (n_frames,)),
        f"{where}: temperature_kelvin: expected one number or one for each of {n_frames} frames, received shape "
        f"{list(temperature.shape)}: correct it",
    )
    residues = np.arange(n_beads, dtype=np.int32) if residue_index is None else _integers(residue_index, n_beads, "residue_index", where)
    if chain_index is None:
        chains = _segments(positions[0], residues, np.zeros(n_beads, int))
    else:
        chains = _integers(chain_index, n_beads, "chain_index", where)
    return BeadFrames(
        positions=positions,
        forces=None if forces is None else np.asarray(_numbers(forces, "forces", where), np.float32),
        species=species,
        residue_index=residues,
        chain_index=chains,
        temperature=np.broadcast_to(temperature.astype(np.float32), (n_frames,)).copy(),
        trajectory=np.zeros(n_frames, np.int32) if trajectory is None else _integers(trajectory, n_frames, "trajectory", where),
        weight=None if weight is None else np.asarray(_numbers(weight, "weight", where), np.float32),
    ).check(where)


def _numbers(values: Any, name: str, where: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:
        raise UserError(f"{where}: {name}: expected an array of numbers, received rows of different lengths: correct it") from None
    require(
        array.dtype.kind in "iuf",
        f"{where}: {name}: expected an array of numbers, received dtype {array.dtype}: convert it, for example with astype(float)",
    )
    return array


def _integers(values: Any, length: int, name: str, where: str) -> np.ndarray:
    array = _numbers(values, name, where)
    require(array.shape == (length,), f"{where}: {name}: expected shape [{length}], received {list(array.shape)}: correct it")
    require(bool((array == np.rint(array)).all()), f"{where}: {name}: expected integers, received fractions or NaN: correct it")
    return array.astype(np.int32)


def _species(residue_names: Any, where: str) -> np.ndarray:
    require(
        not isinstance(residue_names, str | bytes) and np.ndim(residue_names) == 1,
        f"{where}: residue_names: expected a list of three-letter names, one a bead, received "
        f"{f'{np.ndim(residue_names)} axes' if np.ndim(residue_names) else 'a single value'}: correct it",
    )
    names = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in residue_names]
    try:
        return np.array([RESIDUE_SPECIES.index(residue_species(name)) for name in names], np.int32)
    except UserError as error:
        raise UserError(f"{where}: residue_names: {error}") from None


def _segments(first: np.ndarray, residue_index: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the segment of each bead, [n_beads] int32, ascending with the labels of chains [n_beads] (0: nothing tells).

    Segments end where the label changes, where residues are numbered anew, and between consecutive residues further apart in
    the first frame [n_beads, 3] than a link is long. A gap in residue_index [n_beads] needs no new segment: no tuple crosses it.
    """
    unique = len(set(zip(labels.tolist(), residue_index.tolist(), strict=True))) == len(labels)
    order = np.lexsort((residue_index, labels)) if unique else np.argsort(labels, kind="stable")
    step = np.diff(residue_index[order])
    apart = np.linalg.norm(np.diff(first[order], axis=0), axis=1) > LARGEST_LINK_ANGSTROM
    broken = (np.diff(labels[order]) != 0) | (step < 1) | ((step == 1) & apart)
    segments = np.zeros(len(labels), np.int32)
    segments[order[1:]] = np.cumsum(broken)
    return segments


def _read_mdanalysis(path: Path, topology: Path | None, temperature_kelvin: float | None) -> BeadFrames:
    """Return the CA atoms of a trajectory, with the residues and chains of its topology; MDAnalysis gives angstrom for every format."""
    try:
        analysis = importlib.import_module("MDAnalysis")
    except ImportError:
        raise UserError(f"{path}: reading it needs MDAnalysis, which is not installed: pip install 'cg-priors[mdanalysis]'") from None
    files = [path] if topology is None else [topology, path]
    for file in files:
        require(file.is_file(), f"{file}: no such file: give a trajectory and its topology")
    require(
        temperature_kelvin is not None,
        f"{path}: trajectories do not state their temperature: give temperature_kelvin=... (plot: --temperature)",
    )
    try:
        with warnings.catch_warnings():
            # Of MDAnalysis to its own users.
            warnings.simplefilter("ignore", DeprecationWarning)
            universe = analysis.Universe(*map(str, files))
            # It does not know every modified residue that we do, such as SEP; a bead left out would be a gap in the chain.
            atoms = universe.select_atoms(f"name CA and (protein or resname {' '.join(RESIDUE_VARIANTS)})")
            # Alternative locations: one bead a residue.
            atoms = atoms[np.sort(np.unique(atoms.resindices, return_index=True)[1])]
            frames = [atoms.positions.astype(np.float32) for _ in universe.trajectory] if len(atoms) else []
    except READER_ERRORS as error:
        together = "" if topology is None else f" with the topology {topology}"
        # Its messages go on to list every format it knows.
        reason = " ".join(str(error).split()).split(". ")[0] or error.__class__.__name__
        raise UserError(f"{path}: MDAnalysis cannot read it{together} ({reason}): give files of one system, in formats it knows") from None
    require(len(atoms) > 1, f"{files[0]}: expected at least two protein CA atoms, received {len(atoms)}: check the topology")
    require(bool(frames), f"{path}: expected at least one frame, received none: give another trajectory")
    residues = _residue_numbers(atoms)
    chains = _segments(frames[0], residues, _chain_labels(atoms))
    return frames_from_arrays(
        np.stack(frames), list(atoms.resnames), temperature_kelvin, residue_index=residues, chain_index=chains, where=str(path)
    )


def _residue_numbers(atoms: Any) -> np.ndarray:
    """Return the residue numbers of a topology, [n_beads]; residues with insertion codes (52, 52A, 53) are counted on."""
    if not hasattr(atoms, "resids"):
        return np.arange(len(atoms))
    numbers = np.asarray(atoms.resids, int)
    if not hasattr(atoms, "icodes"):
        return numbers
    codes = np.asarray(atoms.icodes, str)
    same = _chain_labels(atoms)
    inserted = (np.diff(numbers) == 0) & (codes[1:] != codes[:-1]) & (np.diff(same) == 0)
    return numbers + np.concatenate([[0], np.cumsum(inserted)])


def _chain_labels(atoms: Any) -> np.ndarray:
    """Return the chain of each atom by segment and chain names, [n_beads] in order of appearance; all 0 where there are no names."""
    names = [getattr(atoms, name) if hasattr(atoms, name) else [""] * len(atoms) for name in ("segids", "chainIDs")]
    pairs = list(zip(*names, strict=True))
    appearance = {pair: label for label, pair in enumerate(dict.fromkeys(pairs))}
    return np.array([appearance[pair] for pair in pairs])
