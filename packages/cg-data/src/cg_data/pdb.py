"""CA beads of a PDB file: where a chain starts, without a trajectory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cg_data.errors import UserError, require
from cg_data.mapping import residue_species

MAXIMUM_BOND_ANGSTROM = 4.6
"""Neighbours in a PDB file with CA atoms further apart than this are a chain break."""


@dataclass(frozen=True)
class PdbBeads:
    """Beads in file order: residue_names [n_beads] (standard), positions [n_beads, 3] angstrom, indices as in `BeadFrames`."""

    residue_names: tuple[str, ...]
    positions: np.ndarray
    residue_index: np.ndarray
    chain_index: np.ndarray


def read_pdb_beads(path: Path | str) -> PdbBeads:
    """Return the CA beads of the first model of a PDB file.

    A segment ends where the chain identifier changes, residue numbers jump by more than one, or neighbouring CA atoms are more than
    `MAXIMUM_BOND_ANGSTROM` apart. Raises `UserError` where the file has no CA atom or a residue is unknown.
    """
    path = Path(path)
    require(path.is_file(), f"{path}: no such file: give a PDB file")
    names: list[str] = []
    positions: list[list[float]] = []
    keys: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if line.startswith("ENDMDL"):
            break
        if not line.startswith(("ATOM", "HETATM")) or line[12:16].strip() != "CA" or line[76:78].strip() == "CA":
            continue
        key = (line[21:22], line[22:27])
        if keys and keys[-1] == key:
            continue  # a further alternate location
        try:
            positions.append([float(line[start : start + 8]) for start in (30, 38, 46)])
        except ValueError:
            raise UserError(f"{path}: line {number}: expected three coordinates in columns 31-54, received {line[30:54]!r}") from None
        names.append(residue_species(line[17:20].strip()))
        keys.append(key)
    require(bool(names), f"{path}: expected CA atoms, found none: give the PDB file of a protein")
    beads = np.array(positions)
    breaks = [False] + [
        before[0] != after[0] or _residue_number(after) - _residue_number(before) > 1 or distance > MAXIMUM_BOND_ANGSTROM
        for before, after, distance in zip(keys[:-1], keys[1:], np.linalg.norm(np.diff(beads, axis=0), axis=1), strict=True)
    ]
    return PdbBeads(tuple(names), beads, np.arange(len(names), dtype=np.int32), np.cumsum(breaks).astype(np.int32))


def _residue_number(key: tuple[str, str]) -> int:
    digits = "".join(character for character in key[1] if character.isdigit() or character == "-")
    return int(digits) if digits else 0
