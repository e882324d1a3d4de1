"""mdCATH files: one domain, five temperatures, several replicas, in HDF5.

Layout: the dataset's generator (github.com/compsciencelab/mdCATH) and Mirarchi et al., arXiv 2407.14794.
"""

import contextlib
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cg_data.atomic import sampled_sha256
from cg_data.atoms import AtomTable, Buffers, SourceTrajectory, make_atom_table, parse_pdb_atoms
from cg_data.errors import UserError, require

logger = logging.getLogger("cg_data")

TEMPERATURE_GROUP = re.compile(r"(?:sims)?(\d+)K?")
"""`348` in current releases, `sims348K` in older ones."""

ANGSTROM_PER_NANOMETRE = 10.0
BLOCK_ATOMS = 500_000
"""Atoms times frames read at once: 6 MB of positions and as much of forces."""

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "NA": 11, "MG": 12, "P": 15, "S": 16, "CL": 17, "CA": 20, "ZN": 30, "SE": 34}
HELIX, STRAND = b"HGI", b"EB"


class MdcathSource:
    """One domain of an open mdCATH file; an `AtomSource`."""

    def __init__(self, file: h5py.File, domain: str):
        self.domain = domain
        self.where = f"{file.filename}: /{domain}"
        self._group = file[domain]
        self.atoms = _read_atoms(self._group, self.where)
        self.notes: tuple[str, ...] = ()
        self._paths: dict[SourceTrajectory, str] = {}
        for path, group in _trajectory_groups(self._group):
            trajectory = self._describe(path, group)
            self._paths[trajectory] = path
        self.trajectories = tuple(sorted(self._paths, key=lambda t: (t.temperature_kelvin, t.replica)))
        require(bool(self.trajectories), f"{self.where}: no trajectory found; expected groups such as /{domain}/348/0 with coords")

    def read(
        self, trajectory: SourceTrajectory, start: int, stop: int, into: Buffers | None = None, with_forces: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return positions and forces [stop - start, n_atoms, 3] float32 in angstrom and kcal/mol/angstrom, perhaps in buffers."""
        group = self._group[self._paths[trajectory]]
        first, second = (None, None) if into is None else into
        positions = _read_frames(group["coords"], start, stop, f"{trajectory.where}/coords", first)
        if not (trajectory.has_forces and with_forces):
            return positions, None
        return positions, _read_frames(group["forces"], start, stop, f"{trajectory.where}/forces", second)

    def read_forces(self, trajectory: SourceTrajectory, start: int, stop: int) -> np.ndarray:
        """Return forces alone, as `read` does, of a trajectory that has them."""
        group = self._group[self._paths[trajectory]]
        return _read_frames(group["forces"], start, stop, f"{trajectory.where}/forces")

    def series(self, trajectory: SourceTrajectory, name: str) -> np.ndarray:
        """Return [n_frames]: `gyration_radius_angstrom`, `helix_fraction` or `strand_fraction` of each frame."""
        group = self._group[self._paths[trajectory]]
        key = "gyrationRadius" if name == "gyration_radius_angstrom" else "dssp"
        require(key in group, f"{trajectory.where}: no {key}; it is needed to choose frames by {name}: drop that filter")
        values = _read(group[key], f"{trajectory.where}/{key}")
        if len(values) != trajectory.n_frames:
            raise UserError(f"{trajectory.where}/{key}: {len(values)} values for {trajectory.n_frames} frames: drop the filter {name}")
        if key == "gyrationRadius":
            return np.asarray(values, np.float64) * ANGSTROM_PER_NANOMETRE
        codes = HELIX if name == "helix_fraction" else STRAND
        return np.isin(values.astype("S1"), [bytes([code]) for code in codes]).mean(axis=1)

    def _describe(self, path: str, group: h5py.Group) -> SourceTrajectory:
        where = f"{self.where}/{path}"
        temperature, replica = path.split("/")
        match = TEMPERATURE_GROUP.fullmatch(temperature)
        require(match is not None and replica.isdigit(), f"{where}: expected a group named by temperature and replica, such as 348/0")
        coords = _array(group, "coords", where)
        n_atoms = self.atoms.n_atoms
        if coords.ndim != 3 or coords.shape[1:] != (n_atoms, 3) or coords.dtype.kind != "f":
            raise UserError(f"{where}/coords: expected floats [frames, {n_atoms}, 3], received {coords.dtype} {list(coords.shape)}")
        if "forces" in group and _array(group, "forces", where).shape != coords.shape:
            shape = list(group["forces"].shape)
            raise UserError(f"{where}/forces: expected the shape of coords {list(coords.shape)}, received {shape}: get the file again")
        if "forces" in group and group["forces"].dtype.kind != "f":
            raise UserError(f"{where}/forces: expected floats, received {group['forces'].dtype}: get the file again")
        stated = _stated(group, "numFrames")
        if stated is not None and stated != coords.shape[0]:
            self.notes += (f"{path}: numFrames says {stated}, coords hold {coords.shape[0]}",)
        chunk = coords.chunks[0] if coords.chunks else 1
        return SourceTrajectory(
            temperature_kelvin=float(match[1]) if match else 0.0,
            replica=int(replica),
            n_frames=int(coords.shape[0]),
            where=where,
            has_forces="forces" in group,
            box=_read_box(group, where),
            block_frames=chunk * max(1, BLOCK_ATOMS // (chunk * n_atoms)),
        )


class MdcathFile:
    """An open mdCATH file."""

    def __init__(self, file: h5py.File):
        self._file = file
        self.domains = tuple(name for name, item in file.items() if isinstance(item, h5py.Group))

    @functools.cached_property
    def digest(self) -> str:
        """What tells this file from another of its name."""
        return sampled_sha256(self._file.filename)

    def n_residues(self, domain: str) -> int | None:
        """Return the number of residues the file states for a domain, None where it does not."""
        return _stated(self._file[domain], "numResidues")

    def source(self, domain: str) -> MdcathSource:
        """Return a domain's atoms and trajectories; `UserError` where they are not laid out as mdCATH."""
        return MdcathSource(self._file, domain)


@contextlib.contextmanager
def open_mdcath(path: Path | str) -> Iterator[MdcathFile]:
    """Open an mdCATH file.

    Raises `UserError` where it is missing, not HDF5, truncated, or not laid out as mdCATH.
    """
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: give the path of an mdCATH HDF5 file") from None
    except OSError as error:
        raise UserError(f"{path}: {_open_failure(error)}") from None
    with file:
        try:
            opened = MdcathFile(file)
            require(bool(opened.domains), f"{path}: no domain found; expected one group per domain, as in mdcath_dataset_<domain>.h5")
            yield opened
        except (KeyError, RuntimeError) as error:
            # What h5py raises where the file's own index is damaged.
            if "Unable to" not in str(error):
                raise
            raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:100]}): download it again") from None


def _open_failure(error: OSError) -> str:
    text = str(error)
    if "truncated" in text:
        return "the HDF5 file is truncated: download it again"
    if "signature" in text:
        return "not an HDF5 file; expected mdcath_dataset_<domain>.h5"
    return f"cannot be opened as HDF5 ({' '.join(text.split())[:100]}): download it again"


def _trajectory_groups(group: h5py.Group) -> Iterator[tuple[str, h5py.Group]]:
    for temperature, replicas in group.items():
        if isinstance(replicas, h5py.Group) and TEMPERATURE_GROUP.fullmatch(temperature):
            for replica, trajectory in replicas.items():
                # A run that was never finished leaves a group without frames.
                if isinstance(trajectory, h5py.Group) and "coords" in trajectory and not _is_empty(trajectory["coords"]):
                    yield f"{temperature}/{replica}", trajectory


def _is_empty(coords: h5py.Dataset | h5py.Group) -> bool:
    return isinstance(coords, h5py.Dataset) and coords.shape[:1] == (0,)


def _read_atoms(group: h5py.Group, where: str) -> AtomTable:
    require("z" in group or "element" in group, f"{where}: neither z nor element is there; expected the atoms' elements: not mdCATH")
    atomic_numbers = _read_elements(group, where)
    n_atoms = len(atomic_numbers)
    require("pdbProteinAtoms" in group, f"{where}: no pdbProteinAtoms; atom names are needed: get the current release of the file")
    text = _text(_read(_array(group, "pdbProteinAtoms", where), f"{where}/pdbProteinAtoms"))
    names, residue_names, residue_numbers, codes = parse_pdb_atoms(text, f"{where}/pdbProteinAtoms")
    _require_count(len(names), n_atoms, f"{where}/pdbProteinAtoms")
    if "resid" in group:
        residue_numbers = _integers(group, "resid", where)
        _require_count(len(residue_numbers), n_atoms, f"{where}/resid")
    if "resname" in group:
        residue_names = _strings(group, "resname", where)
        _require_count(len(residue_names), n_atoms, f"{where}/resname")
    chains = np.zeros(n_atoms, "U1")
    if "chain" in group:
        chains = _strings(group, "chain", where)
        _require_count(len(chains), n_atoms, f"{where}/chain")
    bonds = _psf_bonds(_text(_read(_array(group, "psf", where), f"{where}/psf")), names) if "psf" in group else None
    atoms = make_atom_table(names, atomic_numbers, residue_names, residue_numbers, chains, bonds, codes)
    stated, found = _stated(group, "numResidues"), int((atoms.find("CA", 6) >= 0).sum())
    if stated is not None and stated != found:
        raise UserError(f"{where}: numResidues says {stated}, but {found} residues have a CA atom: get the file again")
    return atoms


def _read_elements(group: h5py.Group, where: str) -> np.ndarray:
    if "z" in group:
        return _integers(group, "z", where)
    symbols = _strings(group, "element", where)
    unknown = sorted({str(symbol) for symbol in symbols if symbol.upper() not in ELEMENTS})
    require(not unknown, f"{where}/element: unknown element {', '.join(unknown)}; expected one of {', '.join(ELEMENTS)}")
    return np.array([ELEMENTS[symbol.upper()] for symbol in symbols])


def _psf_bonds(text: str, names: np.ndarray) -> np.ndarray | None:
    """Return the bonds [n, 2] among the protein's atoms, or None where the PSF does not begin with them in the same order, or is broken."""
    lines = text.splitlines()
    at = next((i for i, line in enumerate(lines) if "!NATOM" in line), None)
    bond_line = next((i for i, line in enumerate(lines) if "!NBOND" in line), None)
    if at is None or bond_line is None:
        return None
    fields = [line.split() for line in lines[at + 1 : at + 1 + len(names)]]
    if [field[4] if len(field) > 4 else "" for field in fields] != names.tolist():
        return None
    numbers: list[int] = []
    try:
        n_bonds = int(lines[bond_line].split()[0])
        for line in lines[bond_line + 1 :]:
            if len(numbers) >= 2 * n_bonds or not line.strip():
                break
            numbers.extend(map(int, line.split()))
    except ValueError:
        return None
    bonds = np.array(numbers[: 2 * n_bonds], np.int64).reshape(-1, 2) - 1
    bonds = bonds[(bonds < len(names)).all(axis=1)]
    return bonds if len(bonds) else None


def _read_box(group: h5py.Group, where: str) -> np.ndarray | None:
    if "box" not in group:
        return None
    box = np.asarray(_read(_array(group, "box", where), f"{where}/box"))
    if box.dtype.kind not in "fi" or box.shape != (3, 3) or not np.isfinite(box).all() or abs(np.linalg.det(box)) < 1e-6:
        return None
    return np.asarray(box, np.float64) * ANGSTROM_PER_NANOMETRE


def _read_frames(dataset: h5py.Dataset, start: int, stop: int, where: str, into: np.ndarray | None = None) -> np.ndarray:
    frames = np.empty((stop - start, *dataset.shape[1:]), np.float32) if into is None else into[: stop - start]
    try:
        dataset.read_direct(frames, np.s_[start:stop])
        return frames
    except OSError:
        raise UserError(f"{where}: frames {start}-{stop - 1} cannot be read; the file is damaged: download it again") from None


def _read(dataset: h5py.Dataset, where: str) -> Any:
    try:
        return dataset[()]
    except OSError:
        raise UserError(f"{where}: cannot be read; the file is damaged: download it again") from None


def _array(group: h5py.Group, name: str, where: str) -> h5py.Dataset:
    require(isinstance(group[name], h5py.Dataset), f"{where}/{name}: expected an array, found a group: get the file again")
    return group[name]


def _integers(group: h5py.Group, name: str, where: str) -> np.ndarray:
    values = np.asarray(_read(_array(group, name, where), f"{where}/{name}"))
    whole = values.ndim == 1 and (values.dtype.kind in "iu" or (values.dtype.kind == "f" and bool((values == np.rint(values)).all())))
    require(whole, f"{where}/{name}: expected a list of integers, received {values.dtype} {list(values.shape)}: get the file again")
    return values.astype(np.int64)


def _stated(group: h5py.Group, name: str) -> int | None:
    """Return a number that a group's attribute states, None where it states none: attributes drift between files."""
    try:
        return int(group.attrs[name])
    except (KeyError, ValueError, TypeError):
        return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _strings(group: h5py.Group, name: str, where: str) -> np.ndarray:
    dataset = _array(group, name, where)
    values = np.asarray(_read(dataset, f"{where}/{name}"))
    require(values.dtype.kind in "OS" and values.ndim == 1, f"{where}/{name}: expected texts, received {values.dtype}: get the file again")
    # One conversion for all: one for each takes long in files of many atoms.
    joined = b"\n".join(values.tolist()).decode(errors="replace")
    return np.array([text.strip() for text in joined.split("\n")], str)


def _require_count(count: int, n_atoms: int, where: str) -> None:
    require(count == n_atoms, f"{where}: {count} atoms, but z (or element) has {n_atoms}; expected the same number: get the file again")
