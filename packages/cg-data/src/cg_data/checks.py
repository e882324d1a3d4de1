"""Quality control: which frames cannot be used and why; which data sets are in other units."""

from typing import Any

import numpy as np

from cg_data.config import QualityConfig
from cg_data.constraints import distances
from cg_data.errors import UserError

REASONS = ("non_finite", "all_zero", "out_of_range", "neighbour_distance", "broken_bond", "large_force")
"""Why a frame is rejected, in the order of the tests; a frame counts under the first that applies."""

CA_DISTANCE_ANGSTROM = (2.8, 4.6)
FORCE_RMS = (4.0, 60.0)
"""Median CA-CA distance of neighbours, and rms force per component in kcal/mol/angstrom, of any protein in solution near 300-500 K:
10-40 is usual. In nm, and in kJ/mol/angstrom, kJ/mol/nm or eV/angstrom, values fall outside."""


def extent(values: np.ndarray) -> np.ndarray:
    """Return [n_frames] the largest absolute component in each frame of values [n_frames, n_atoms, 3]; NaN where there is one."""
    flat = values.reshape(len(values), -1)
    # Minimum and maximum make no temporary array; NaN passes through both.
    return np.asarray(np.maximum(-flat.min(axis=1), flat.max(axis=1)))


def unreadable(positions: np.ndarray, forces: np.ndarray | None, config: QualityConfig) -> np.ndarray:
    """Return [n_frames] int: index into `REASONS` for frames that no molecule can have, -1 for the others.

    positions, forces [n_frames]: the extents. These tests come before molecules are made whole.
    """
    finite, zero = np.isfinite(positions), positions == 0
    if forces is not None:
        finite &= np.isfinite(forces)
        zero |= forces == 0
    return _first_reason(len(positions), non_finite=~finite, all_zero=zero, out_of_range=positions > config.max_coordinate_angstrom)


def implausible(steps: np.ndarray, longest_bonds: np.ndarray, forces: np.ndarray | None, config: QualityConfig) -> np.ndarray:
    """Return [n_frames] int as `unreadable`, for frames whose molecule is broken.

    steps [n_frames, n] angstrom, from anchor to anchor along unbroken chains; longest_bonds [n_frames] angstrom; forces [n_frames]
    the extents. Molecules are whole.
    """
    low, high = config.neighbour_distance_angstrom
    return _first_reason(
        len(steps),
        neighbour_distance=np.any((steps < low) | (steps > high), axis=1),
        broken_bond=longest_bonds > config.max_bond_angstrom,
        large_force=np.zeros(len(steps), bool) if forces is None else forces > config.max_force_kcal_mol_angstrom,
    )


def check_units(positions: np.ndarray, forces: np.ndarray | None, neighbours: np.ndarray, where: str) -> None:
    """Raise `UserError` naming the data set where values are plainly in other units.

    positions, forces [n_frames, n_atoms, 3], finite; neighbours [n, 2] atoms one residue apart; medians, so that a few broken
    frames do not matter.
    """
    check_lengths(positions, neighbours, where)
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
    distance = float(np.median(distances(positions, neighbours)))
    if CA_DISTANCE_ANGSTROM[0] <= distance <= CA_DISTANCE_ANGSTROM[1]:
        return
    hint = "; they look like nm: multiply by 10" if 0.28 <= distance <= 0.46 else ": convert them to angstrom"
    raise UserError(f"{where}/coords: median CA-CA distance of neighbours {distance:.3g}; expected about 3.8 angstrom{hint}")


def _first_reason(n_frames: int, **failed: Any) -> np.ndarray:
    reasons = np.full(n_frames, -1)
    for name, frames in reversed(failed.items()):
        reasons[frames] = REASONS.index(name)
    return reasons
