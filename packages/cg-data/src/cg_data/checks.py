"""Quality control: which frames cannot be used and why; which data sets are in other units."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cg_data.config import QualityConfig
from cg_data.constraints import bond_lengths
from cg_data.errors import UserError

REASONS = ("non_finite", "all_zero", "out_of_range", "neighbour_distance", "broken_bond", "large_force")
"""Why a frame is rejected, in the order of the tests; a frame counts under the first that applies."""

CA_DISTANCE_ANGSTROM = (2.8, 4.6)
FORCE_RMS = (4.0, 60.0)
"""Median CA-CA distance of neighbours, and rms force per component in kcal/mol/angstrom, of any protein in solution near 300-500 K:
10-40 is usual. In nm, and in kJ/mol/angstrom, kJ/mol/nm or eV/angstrom, values fall outside."""


@dataclass(frozen=True)
class Geometry:
    """What frames are checked against: neighbouring anchors (CA) along unbroken chains [n, 2] and covalent bonds [n, 2]."""

    neighbours: np.ndarray
    bonds: np.ndarray


def unreadable(positions: np.ndarray, forces: np.ndarray | None, config: QualityConfig) -> np.ndarray:
    """Return [n_frames] int: index into `REASONS` for frames that no molecule can have, -1 for the others.

    positions, forces [n_frames, n_atoms, 3]. These tests come before molecules are made whole.
    """
    n_frames = len(positions)
    flat = positions.reshape(n_frames, -1)
    # Minimum and maximum see every value once and make no temporary array; NaN passes through both.
    low, high = flat.min(axis=1), flat.max(axis=1)
    finite = np.isfinite(low) & np.isfinite(high)
    zero = (low == 0) & (high == 0)
    if forces is not None:
        force_low, force_high = forces.reshape(n_frames, -1).min(axis=1), forces.reshape(n_frames, -1).max(axis=1)
        finite &= np.isfinite(force_low) & np.isfinite(force_high)
        zero |= (force_low == 0) & (force_high == 0)
    far = np.maximum(-low, high) > config.max_coordinate_angstrom
    return _first_reason(n_frames, non_finite=~finite, all_zero=zero, out_of_range=far)


def implausible(
    positions: np.ndarray, forces: np.ndarray | None, lengths: np.ndarray, geometry: Geometry, config: QualityConfig
) -> np.ndarray:
    """Return [n_frames] int as `unreadable`, for frames whose molecule is broken.

    positions, forces [n_frames, n_atoms, 3], whole molecules; lengths [n_frames, n_bonds] angstrom.
    """
    n_frames = len(positions)
    low, high = config.neighbour_distance_angstrom
    steps = bond_lengths(positions, geometry.neighbours)
    strained = np.any((steps < low) | (steps > high), axis=1)
    broken = np.any(lengths > config.max_bond_angstrom, axis=1)
    large = np.zeros(n_frames, bool)
    if forces is not None:
        flat = forces.reshape(n_frames, -1)
        large = np.maximum(-flat.min(axis=1), flat.max(axis=1)) > config.max_force_kcal_mol_angstrom
    return _first_reason(n_frames, neighbour_distance=strained, broken_bond=broken, large_force=large)


def check_units(positions: np.ndarray, forces: np.ndarray | None, geometry: Geometry, where: str) -> None:
    """Raise `UserError` naming the data set where values are plainly in other units.

    positions, forces [n_frames, n_atoms, 3], finite; medians, so that a few broken frames do not matter.
    """
    check_lengths(positions, geometry.neighbours, where)
    if forces is None:
        return
    rms = float(np.median([np.sqrt(np.mean(np.square(frame, dtype=np.float64))) for frame in forces]))
    if not FORCE_RMS[0] <= rms <= FORCE_RMS[1]:
        guesses = {"kJ/mol/nm": 41.84, "kJ/mol/angstrom": 4.184, "eV/angstrom": 1 / 23.06, "hartree/bohr": 1 / 1185.8}
        close = [unit for unit, factor in guesses.items() if 10 <= rms / factor <= 40]
        hint = f"; they look like {close[0]}: convert them" if close else ": convert them"
        raise UserError(f"{where}/forces: rms {rms:.4g}; expected 10-40 kcal/mol/angstrom{hint}")


def check_lengths(positions: np.ndarray, neighbours: np.ndarray, where: str) -> None:
    """Raise `UserError` where the median distance of neighbouring CA atoms [n, 2] cannot be in angstrom."""
    if len(neighbours) == 0:
        return
    distance = float(np.median(bond_lengths(positions, neighbours)))
    if CA_DISTANCE_ANGSTROM[0] <= distance <= CA_DISTANCE_ANGSTROM[1]:
        return
    hint = "; they look like nm: multiply by 10" if 0.28 <= distance <= 0.46 else ": convert them to angstrom"
    raise UserError(f"{where}/coords: median CA-CA distance of neighbours {distance:.3g}; expected about 3.8 angstrom{hint}")


def _first_reason(n_frames: int, **failed: Any) -> np.ndarray:
    reasons = np.full(n_frames, -1)
    for name, frames in reversed(failed.items()):
        reasons[frames] = REASONS.index(name)
    return reasons
