"""Trajectories that other programs open: a PDB of the beads as topology, and DCD for positions.

DCD is the binary format of CHARMM and NAMD: Fortran records of little-endian 32-bit numbers, positions in A, time step in the
AKMA unit (48.88821 fs). VMD, MDAnalysis, MDTraj and OpenMM read it. Free space: no unit cell is written.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cg_data.atomic import atomic_file
from cg_data.contracts import Array
from cg_data.errors import UserError

AKMA_TIME_PS = 0.04888821
"""The unit of time of CHARMM and NAMD, in ps."""


def write_dcd(path: Path | str, positions: Array, frame_interval_ps: float) -> None:
    """Write positions [n_frames, n_beads, 3] A, `frame_interval_ps` apart."""
    x = np.asarray(positions, "<f4")
    n_frames, n_beads, _ = x.shape
    control = [n_frames, 0, 1, n_frames, 0, 0, 0, 0, 0]
    header = (
        b"CORD" + struct.pack("<9i", *control) + struct.pack("<f", frame_interval_ps / AKMA_TIME_PS) + struct.pack("<10i", *[0] * 9, 24)
    )
    title = "positions of coarse-grained beads, written by cg-eval".ljust(80).encode("ascii")
    with atomic_file(path) as aside, open(aside, "wb") as file:
        for record in (header, struct.pack("<i", 1) + title, struct.pack("<i", n_beads)):
            _write_record(file, record)
        for frame in x:
            for axis in range(3):
                _write_record(file, np.ascontiguousarray(frame[:, axis]).tobytes())


def read_dcd(path: Path | str) -> tuple[np.ndarray, float]:
    """Return (positions [n_frames, n_beads, 3] float32 A, frame interval in ps) of a DCD without unit cell or fixed atoms.

    Raises `UserError` where the file is another kind of DCD, or none.
    """
    records = _read_records(Path(path))
    try:
        header, _, number = next(records), next(records), next(records)
        if header[:4] != b"CORD" or struct.unpack("<i", header[44:48])[0] != 0:
            raise UserError(f"{path}: expected a DCD of positions without unit cell")
        n_beads = struct.unpack("<i", number)[0]
        axes = np.frombuffer(b"".join(records), "<f4").reshape(-1, 3, n_beads)
    except (StopIteration, struct.error, ValueError):
        raise UserError(f"{path}: not a DCD file, or truncated: write it again") from None
    return np.swapaxes(axes, 1, 2), struct.unpack("<f", header[40:44])[0] * AKMA_TIME_PS


def write_pdb(path: Path | str, positions: Array, residue_names: Sequence[str], residue_index: Array, chain_index: Array) -> None:
    """Write one frame [n_beads, 3] A as CA atoms with CONECT records along unbroken segments; a topology for viewers."""
    x, residue_index, chain_index = np.asarray(positions), np.asarray(residue_index), np.asarray(chain_index)
    lines = []
    for bead, (name, residue, chain) in enumerate(zip(residue_names, residue_index, chain_index, strict=True)):
        place = "".join(f"{value:8.3f}" for value in x[bead])
        letter = chr(ord("A") + int(chain) % 26)
        number = (int(residue) + 1) % 10_000
        lines.append(f"ATOM  {(bead + 1) % 100_000:5d}  CA  {name:>3s} {letter}{number:4d}    {place}  1.00  0.00           C  ")
    for bead in range(len(x) - 1):
        if chain_index[bead] == chain_index[bead + 1]:
            lines.append(f"CONECT{bead + 1:5d}{bead + 2:5d}")
    with atomic_file(path) as aside:
        aside.write_text("\n".join([*lines, "END"]) + "\n")


def _write_record(file: object, content: bytes) -> None:
    length = struct.pack("<i", len(content))
    file.write(length + content + length)  # type: ignore[attr-defined]


def _read_records(path: Path) -> Iterator[bytes]:
    data, place = path.read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<i", data, place)
        content = data[place + 4 : place + 4 + length]
        if len(content) != length or length < 0:
            raise ValueError("truncated record")
        yield content
        place += length + 8
