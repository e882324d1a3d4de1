"""Coordinates to fit from: a dataset folder, plain arrays in an NPZ file, or anything MDAnalysis reads."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_data.mapping import RESIDUE_SPECIES, residue_species
from cg_data.store import open_dataset
from cg_priors.fit import split_frames
from cg_priors.parameters import read_npz

LARGEST_LINK_ANGSTROM = 5.0
"""Consecutive beads further apart than this in the first frame are of different segments, where nothing else tells."""


def read_frames(
    path: Path | str, split: str = "train", topology: Path | str | None = None, temperature_kelvin: float | None = None
) -> tuple[list[BeadFrames], tuple[str, ...]]:
    """Return the frames of each domain and the species names.

    path: a dataset folder (one split of it), an `.npz` file (see `frames_from_arrays` for its arrays), or with `topology` a
    trajectory for MDAnalysis. temperature_kelvin: of data that do not state theirs.
    """
    path = Path(path)
    if topology is not None:
        return [_read_mdanalysis(path, Path(topology), temperature_kelvin)], RESIDUE_SPECIES
    if path.is_dir() or not path.exists():
        dataset = open_dataset(path)
        return split_frames(dataset, split), dataset.species_names
    require(
        path.suffix == ".npz",
        f"{path}: expected a dataset folder, an .npz file, or a trajectory together with --topology: give one of them",
    )
    arrays = read_npz(path)
    for name in ("positions", "residue_names"):
        require(name in arrays, f"{path}: expected an array {name!r}, received {', '.join(sorted(arrays))}: add it")
    known = ("positions", "residue_names", "forces", "temperature_kelvin", "residue_index", "chain_index", "trajectory")
    values: dict[str, Any] = {name: arrays[name] for name in known if name in arrays}
    if "temperature_kelvin" not in values and temperature_kelvin is not None:
        values["temperature_kelvin"] = np.asarray(temperature_kelvin)
    require(
        "temperature_kelvin" in values,
        f"{path}: expected an array 'temperature_kelvin' or the option temperature_kelvin=..., received neither: state it",
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
    where: str = "arrays",
) -> BeadFrames:
    """Return checked frames of one molecule from plain arrays.

    positions [n_frames, n_beads, 3] angstrom; residue_names [n_beads] three-letter names; temperature_kelvin a number or
    [n_frames]; forces like positions, kcal/mol/angstrom; residue_index, chain_index [n_beads], by default one chain broken
    where neighbours in the first frame are more than 5 angstrom apart; trajectory [n_frames], by default one.
    """
    positions = np.asarray(positions, np.float32)
    require(
        positions.ndim == 3 and positions.shape[2] == 3 and positions.shape[0] > 0 and positions.shape[1] == len(residue_names),
        f"{where}: positions: expected shape [n_frames, {len(residue_names)}, 3] for {len(residue_names)} residue names, "
        f"received {list(positions.shape)}: correct one of them",
    )
    n_frames, n_beads, _ = positions.shape
    if chain_index is None:
        apart = np.linalg.norm(np.diff(positions[0], axis=0), axis=1) > LARGEST_LINK_ANGSTROM
        chain_index = np.concatenate([[0], np.cumsum(apart)])
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in residue_names]
    return BeadFrames(
        positions=positions,
        forces=None if forces is None else np.asarray(forces, np.float32),
        species=np.array([RESIDUE_SPECIES.index(residue_species(name)) for name in names], np.int32),
        residue_index=np.asarray(np.arange(n_beads) if residue_index is None else residue_index, np.int32),
        chain_index=np.asarray(chain_index, np.int32),
        temperature=np.broadcast_to(np.asarray(temperature_kelvin, np.float32), (n_frames,)).copy(),
        trajectory=np.asarray(np.zeros(n_frames) if trajectory is None else trajectory, np.int32),
    ).check(where)


def _read_mdanalysis(path: Path, topology: Path, temperature_kelvin: float | None) -> BeadFrames:
    """Return the CA atoms of a trajectory; MDAnalysis gives angstrom for every format."""
    try:
        analysis = importlib.import_module("MDAnalysis")
    except ImportError:
        raise UserError(f"{path}: reading it needs MDAnalysis, which is not installed: pip install 'cg-priors[mdanalysis]'") from None
    for file in (path, topology):
        require(file.is_file(), f"{file}: no such file: give a trajectory and its topology")
    require(temperature_kelvin is not None, f"{path}: trajectories do not state their temperature: give temperature_kelvin=...")
    universe = analysis.Universe(str(topology), str(path))
    atoms = universe.select_atoms("protein and name CA")
    require(len(atoms) > 1, f"{topology}: expected at least two protein CA atoms, received {len(atoms)}: check the topology")
    positions = np.stack([atoms.positions.astype(np.float32) for _ in universe.trajectory])
    return frames_from_arrays(positions, list(atoms.resnames), temperature_kelvin, where=str(path))
