"""All-atom trajectories that are not mdCATH, described by a small YAML file.

    domain: villin                       # name in the dataset
    topology: villin.pdb                 # PDB; any other topology MDAnalysis reads (PSF, GRO, TPR, ...)
    trajectories:
      - {positions: run0.npz, temperature_kelvin: 300}
      - {positions: run1.npz, temperature_kelvin: 300, replica: 1}
    length_unit: nm                      # of NPZ, NPY and HDF5 arrays; converted once, here
    force_unit: kJ/mol/nm

An NPZ or HDF5 file (.h5, .hdf5) holds `positions` and `forces` [n_frames, n_atoms, 3] (and may hold `box` [3, 3], or
[n_frames, 3, 3] where it changes, rows are lattice vectors); an NPY file holds one of them, the other is named by `forces`. HDF5 and
NPY are read slice by slice. Other files (TRR, XTC, DCD, H5MD, ...) are read by MDAnalysis, which knows their units and boxes; TRR and
H5MD can carry forces. Paths are relative to the YAML file.
"""

import contextlib
import functools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import h5py
import numpy as np
import pydantic

from cg_data.atomic import sampled_sha256
from cg_data.atoms import AtomTable, Buffers, SourceTrajectory, make_atom_table, parse_pdb_atoms
from cg_data.configuration import Configuration
from cg_data.errors import UserError, require
from cg_data.mdcath import BLOCK_ATOMS, ELEMENTS
from cg_data.units import KJ_PER_KCAL

LENGTH_FACTOR = {"angstrom": 1.0, "nm": 10.0}
KCAL_PER_EV = 23.060548
FORCE_FACTOR = {
    "kcal/mol/angstrom": 1.0,
    "kJ/mol/angstrom": 1 / KJ_PER_KCAL,
    "kJ/mol/nm": 0.1 / KJ_PER_KCAL,
    "eV/angstrom": KCAL_PER_EV,
}
HDF5_SUFFIXES = (".h5", ".hdf5")
ARRAY_SUFFIXES = (".npz", ".npy", *HDF5_SUFFIXES)


class TrajectoryFiles(Configuration):
    """The files of one trajectory."""

    positions: str
    """NPZ or HDF5 with positions and forces, NPY with positions, or a trajectory that MDAnalysis reads."""
    forces: str | None = None
    """NPY with forces, where `positions` is an NPY file."""
    temperature_kelvin: float = pydantic.Field(gt=0)
    replica: int = pydantic.Field(default=0, ge=0)

    @pydantic.model_validator(mode="after")
    def _forces_beside_positions(self) -> Self:
        if self.forces is not None and not self.positions.endswith(".npy"):
            raise ValueError(f"forces: a file of its own goes with positions in NPY; {self.positions} holds both")
        if self.forces is not None and not self.forces.endswith(".npy"):
            raise ValueError(f"forces: expected an NPY file, received {self.forces!r}")
        return self


class SourceConfig(Configuration):
    """One domain from other formats."""

    domain: str
    topology: str
    trajectories: tuple[TrajectoryFiles, ...] = pydantic.Field(min_length=1)
    length_unit: Literal["angstrom", "nm"] = "angstrom"
    force_unit: Literal["kcal/mol/angstrom", "kJ/mol/angstrom", "kJ/mol/nm", "eV/angstrom"] = "kcal/mol/angstrom"
    selection: str = "protein"
    """Atoms that MDAnalysis keeps, in its selection language."""


@dataclass(frozen=True)
class _Reader:
    """Positions and forces of one trajectory, by slices, in angstrom and kcal/mol/angstrom."""

    positions: Any
    forces: Any
    length_factor: float
    force_factor: float

    def read(self, start: int, stop: int, with_forces: bool) -> tuple[np.ndarray, np.ndarray | None]:
        positions = np.asarray(self.positions[start:stop], np.float32) * np.float32(self.length_factor)
        return positions, self.read_forces(start, stop) if with_forces and self.forces is not None else None

    def read_forces(self, start: int, stop: int) -> np.ndarray:
        return np.asarray(self.forces[start:stop], np.float32) * np.float32(self.force_factor)


class DescribedSource:
    """The domain of a YAML description; an `AtomSource`."""

    def __init__(self, config: SourceConfig, path: Path, atoms: AtomTable, universes: list[Any]):
        self.domain = config.domain
        self.where = f"{path}: {config.domain}"
        self.atoms = atoms
        self.notes: tuple[str, ...] = ()
        self._readers: dict[SourceTrajectory, _Reader] = {}
        for files, universe in zip(config.trajectories, universes, strict=True):
            trajectory, reader = _open_trajectory(files, config, path, atoms.n_atoms, universe)
            self._readers[trajectory] = reader
        self.trajectories = tuple(sorted(self._readers, key=lambda t: (t.temperature_kelvin, t.replica)))

    def read(
        self, trajectory: SourceTrajectory, start: int, stop: int, into: Buffers | None = None, with_forces: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return positions and forces [stop - start, n_atoms, 3] float32 in angstrom and kcal/mol/angstrom, in arrays of their own."""
        return self._readers[trajectory].read(start, stop, with_forces)

    def read_forces(self, trajectory: SourceTrajectory, start: int, stop: int) -> np.ndarray:
        """Return forces alone, as `read` does, of a trajectory that has them."""
        return self._readers[trajectory].read_forces(start, stop)

    def series(self, trajectory: SourceTrajectory, name: str) -> np.ndarray:
        """Not known for these sources: raises `UserError`."""
        raise UserError(f"{trajectory.where}: {name} is not in this format: drop that filter of select")


class DescribedFile:
    """A YAML description; has the methods of an open mdCATH file."""

    def __init__(self, path: Path):
        self._path = path
        self._config = SourceConfig.load(path)
        self.domains = (self._config.domain,)
        files = [self._config.topology, *(name for t in self._config.trajectories for name in (t.positions, t.forces) if name)]
        for name in files:
            require((path.parent / name).is_file(), f"{path}: no such file {name!r}; paths are relative to the YAML file")
        self._files = (path, *(path.parent / name for name in files))

    @functools.cached_property
    def digest(self) -> str:
        """What tells this description and its files from others of their names."""
        return " ".join(sampled_sha256(file) for file in self._files)

    def n_residues(self, domain: str) -> int | None:
        """Not stated by a description."""
        return None

    def source(self, domain: str) -> DescribedSource:
        """Return the domain's atoms and trajectories."""
        config, folder = self._config, self._path.parent
        topology = folder / config.topology
        in_arrays = [t.positions.endswith(ARRAY_SUFFIXES) for t in config.trajectories]
        if topology.suffix == ".pdb" and all(in_arrays):
            return DescribedSource(config, self._path, _atoms_of_pdb(topology), [None] * len(in_arrays))
        universes = [_universe(topology, None if a else folder / t.positions) for t, a in zip(config.trajectories, in_arrays, strict=True)]
        groups = [_select(universe, config.selection, self._path) for universe in universes]
        if "selection" not in config.model_fields_set:
            _require_whole_chains(groups[0], config.selection, self._path)
        loaded = [None if a else group for group, a in zip(groups, in_arrays, strict=True)]
        return DescribedSource(config, self._path, _atoms_of_group(groups[0], self._path), loaded)


@contextlib.contextmanager
def open_described(path: Path | str) -> Iterator[DescribedFile]:
    """Open a YAML description of a source; `UserError` where it cannot be used."""
    yield DescribedFile(Path(path))


def _open_trajectory(
    files: TrajectoryFiles, config: SourceConfig, path: Path, n_atoms: int, group: Any
) -> tuple[SourceTrajectory, _Reader]:
    where = f"{path}: {files.positions}"
    box: np.ndarray | None = None
    boxes: Callable[[np.ndarray], np.ndarray] | None = None
    arrays: dict[str, Any] = {}
    if group is not None:
        frames = _UniverseFrames(group, "positions", where)
        forces = _UniverseFrames(group, "forces", where) if group.universe.trajectory.ts.has_forces else None
        # MDAnalysis gives angstrom and kJ/mol/angstrom whatever the format.
        reader = _Reader(frames, forces, 1.0, FORCE_FACTOR["kJ/mol/angstrom"])
        dimensions = group.universe.trajectory.ts.triclinic_dimensions
        if dimensions is not None:
            box, boxes = np.asarray(dimensions, np.float64), _UniverseBoxes(group.universe, dimensions)
    else:
        arrays = _load_arrays(path.parent / files.positions, None if files.forces is None else path.parent / files.forces)
        factor = LENGTH_FACTOR[config.length_unit]
        reader = _Reader(arrays["positions"], arrays.get("forces"), factor, FORCE_FACTOR[config.force_unit])
    shape = reader.positions.shape
    if len(shape) != 3 or shape[1:] != (n_atoms, 3):
        raise UserError(f"{where}: expected positions [frames, {n_atoms}, 3] for the topology's atoms, received {list(shape)}")
    require(shape[0] > 0, f"{where}: no frames; expected at least one: leave it out of trajectories")
    for name, array in (("positions", reader.positions), ("forces", reader.forces)):
        require(array is None or array.dtype.kind == "f", f"{where}: expected {name} as floats, received {getattr(array, 'dtype', None)}")
    if reader.forces is not None and reader.forces.shape != shape:
        raise UserError(f"{where}: expected forces of the shape of positions {list(shape)}, received {list(reader.forces.shape)}")
    if "box" in arrays:
        box, boxes = _array_boxes(arrays["box"], shape[0], LENGTH_FACTOR[config.length_unit], where)
    trajectory = SourceTrajectory(
        temperature_kelvin=files.temperature_kelvin,
        replica=files.replica,
        n_frames=shape[0],
        where=where,
        has_forces=reader.forces is not None,
        box=box,
        block_frames=max(1, BLOCK_ATOMS // n_atoms),
        boxes=boxes,
    )
    return trajectory, reader


def _array_boxes(
    array: Any, n_frames: int, factor: float, where: str
) -> tuple[np.ndarray | None, Callable[[np.ndarray], np.ndarray] | None]:
    """Return the box of the first frame in angstrom, None where it is zero, and the boxes by frame where there is one for each."""
    require(array.dtype.kind in "fi", f"{where}: box: expected numbers, received {array.dtype}")
    if array.shape not in ((3, 3), (n_frames, 3, 3)):
        wanted = f"[3, 3] or [{n_frames}, 3, 3], rows are lattice vectors"
        raise UserError(f"{where}: box: expected {wanted}, received {list(array.shape)}")
    boxes = np.asarray(array, np.float64) * factor
    if not boxes.any():
        return None, None
    volumes = np.abs(np.linalg.det(boxes))
    require(bool((volumes > 1e-3).all()), f"{where}: box: expected three independent vectors in every frame: give no box for free space")
    return (boxes, None) if boxes.ndim == 2 else (boxes[0], lambda frames: boxes[frames])


class _Hdf5Array:
    """One data set of an HDF5 file, by slices; the file is open only while it is read."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype):
        self._path, self._name, self.shape, self.dtype = path, name, shape, dtype

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def __getitem__(self, frames: Any) -> np.ndarray:
        try:
            with h5py.File(self._path, "r") as file:
                return np.asarray(file[self._name][frames])
        except OSError:
            raise UserError(f"{self._path}: {self._name} cannot be read; the file is damaged: write it again") from None

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self[()], dtype)


def _hdf5_arrays(path: Path) -> dict[str, Any]:
    try:
        with h5py.File(path, "r") as file:
            found = {name: file[name] for name in ("positions", "forces", "box") if isinstance(file.get(name), h5py.Dataset)}
            return {name: _Hdf5Array(path, name, dataset.shape, dataset.dtype) for name, dataset in found.items()}
    except OSError:
        raise UserError(f"{path}: cannot be opened as HDF5; expected data sets positions and forces [frames, atoms, 3]") from None


def _load_arrays(positions: Path, forces: Path | None) -> dict[str, Any]:
    if positions.suffix in HDF5_SUFFIXES:
        arrays = _hdf5_arrays(positions)
        require("positions" in arrays, f"{positions}: no data set 'positions'; expected positions and forces [frames, atoms, 3]")
        return arrays
    try:
        if positions.suffix == ".npy":
            arrays = {"positions": np.load(positions, mmap_mode="r", allow_pickle=False)}
            return arrays if forces is None else {**arrays, "forces": np.load(forces, mmap_mode="r", allow_pickle=False)}
        with np.load(positions, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("positions", "forces", "box") if name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{positions}: cannot be read as plain NumPy arrays ({error.__class__.__name__})") from None
    require("positions" in arrays, f"{positions}: no array 'positions'; expected positions and forces [frames, atoms, 3]")
    return arrays


def _atoms_of_pdb(path: Path) -> AtomTable:
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a PDB file (not text)") from None
    # Of several models, the first.
    text = text.split("\nENDMDL")[0]
    names, residue_names, numbers, codes = parse_pdb_atoms(text, str(path))
    lines = [line for line in text.splitlines() if line.startswith(("ATOM  ", "HETATM"))]
    require(bool(lines), f"{path}: no ATOM line; expected a PDB file")
    symbols = [line[76:78].strip().upper() or line[12:14].strip(" 0123456789").upper()[:1] for line in lines]
    return make_atom_table(
        names, _atomic_numbers(symbols, str(path)), residue_names, numbers, np.array([line[21:22] for line in lines]), insertion_codes=codes
    )


def _atomic_numbers(symbols: list[str], where: str) -> np.ndarray:
    unknown = sorted({symbol for symbol in symbols if symbol not in ELEMENTS})
    require(not unknown, f"{where}: unknown element {', '.join(unknown)}; expected one of {', '.join(ELEMENTS)}")
    return np.array([ELEMENTS[symbol] for symbol in symbols])


class _UniverseFrames:
    """Frames of an MDAnalysis atom group, by slices."""

    dtype = np.dtype(np.float32)

    def __init__(self, group: Any, attribute: str, where: str):
        self._group, self._attribute, self._where = group, attribute, where
        self.shape = (len(group.universe.trajectory), len(group), 3)

    def __getitem__(self, frames: slice) -> np.ndarray:
        read: list[np.ndarray] = []
        try:
            for step in self._group.universe.trajectory[frames]:
                if not getattr(step, f"has_{self._attribute}"):
                    remedy = "write them with the others" + (", or ask for force_map.kind=none" if self._attribute == "forces" else "")
                    raise UserError(f"{self._where}: frame {step.frame} has no {self._attribute}; expected them in every frame: {remedy}")
                read.append(getattr(self._group, self._attribute).copy())
        except (OSError, EOFError) as error:
            frame = (frames.start or 0) + len(read)
            raise UserError(f"{self._where}: frame {frame} cannot be read; the file is damaged: {_words(error)}") from None
        return np.asarray(read, np.float32)


class _UniverseBoxes:
    """Boxes [n, 3, 3] in angstrom of frames of an MDAnalysis universe: at constant pressure each has its own."""

    def __init__(self, universe: Any, first: np.ndarray):
        self._universe, self._first = universe, np.asarray(first, np.float64)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        found = [self._universe.trajectory[int(frame)].triclinic_dimensions for frame in frames]
        return np.array([self._first if box is None else box for box in found], np.float64).reshape(-1, 3, 3)


def _universe(topology: Path, trajectory: Path | None) -> Any:
    try:
        import MDAnalysis  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise UserError(f"{trajectory or topology}: this format needs MDAnalysis: install cg-data[trajectories]") from None
    try:
        return MDAnalysis.Universe(str(topology), *([] if trajectory is None else [str(trajectory)]))
    except (OSError, ValueError, TypeError, IndexError, EOFError, KeyError) as error:
        raise UserError(f"{trajectory or topology}: MDAnalysis cannot read it: {_words(error)}") from None


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _select(universe: Any, selection: str, path: Path) -> Any:
    from MDAnalysis.exceptions import SelectionError  # type: ignore[import-not-found, import-untyped, unused-ignore]

    try:
        group = universe.select_atoms(selection)
    except (SelectionError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: selection {selection!r}: {_words(error)}: change it") from None
    require(len(group) > 0, f"{path}: selection {selection!r} matches no atom: change it")
    return group


def _require_whole_chains(group: Any, selection: str, path: Path) -> None:
    """Raise `UserError` where a selection that was not asked for leaves out a residue with the atoms of a protein's backbone."""
    others = (group.universe.atoms - group).select_atoms("name N CA C").residues
    for residue in others:
        if {"N", "CA", "C"} <= set(residue.atoms.names):
            raise UserError(
                f"{path}: selection {selection!r} leaves out residue {residue.resname} {residue.resid}, which has atoms N, CA and C: state "
                f"the selection, such as '{selection} or resname {residue.resname}'"
            )


def _atoms_of_group(group: Any, path: Path) -> AtomTable:
    if not hasattr(group, "elements") or not all(group.elements):
        group.universe.guess_TopologyAttrs(to_guess=["elements"])
    symbols = [str(element).upper() for element in group.elements]
    index = {int(atom): i for i, atom in enumerate(group.indices)}
    bonds = None
    if hasattr(group, "bonds") and len(group.bonds):
        inside = [(index[int(i)], index[int(j)]) for i, j in group.bonds.indices if int(i) in index and int(j) in index]
        bonds = np.array(inside, np.int64).reshape(-1, 2)
    segments = group.chainIDs if hasattr(group, "chainIDs") else group.segids
    return make_atom_table(
        np.array(group.names, str),
        _atomic_numbers(symbols, str(path)),
        np.array(group.resnames, str),
        np.array(group.resids, np.int64),
        np.array(segments, str),
        bonds,
        np.array(group.icodes, str) if hasattr(group, "icodes") else None,
    )
