"""Which trajectories and frames of a domain are read."""

from typing import Any

import h5py
import numpy as np

from cg_data.atoms import AtomSource, SourceTrajectory
from cg_data.config import SelectConfig
from cg_data.errors import UserError
from cg_data.mdcath import ANGSTROM_PER_NANOMETRE, TEMPERATURE_GROUP


def wanted(temperature_kelvin: float, replica: int, config: SelectConfig) -> bool:
    """Return whether a trajectory's temperature and replica are asked for."""
    return (config.temperatures_kelvin is None or temperature_kelvin in config.temperatures_kelvin) and (
        config.replicas is None or replica in config.replicas
    )


def choose_frames(source: AtomSource, trajectory: SourceTrajectory, config: SelectConfig) -> np.ndarray:
    """Return the sorted frames [n] int64 of a trajectory that are to be read.

    Filters by structure come first, then the stride, then the limit on their number.
    """
    chosen = np.ones(trajectory.n_frames, bool)
    for name in ("gyration_radius_angstrom", "helix_fraction", "strand_fraction"):
        accepted = getattr(config, name)
        if accepted is not None:
            values = source.series(trajectory, name)
            chosen &= (values >= accepted[0]) & (values <= accepted[1])
    frames = np.flatnonzero(chosen)[:: config.stride]
    if config.max_frames is None or len(frames) <= config.max_frames:
        return frames
    if config.choose == "first":
        return frames[: config.max_frames]
    if config.choose == "even":
        return frames[np.linspace(0, len(frames) - 1, config.max_frames).round().astype(np.int64)]
    seed = [config.seed, round(trajectory.temperature_kelvin), trajectory.replica, *source.domain.encode()]
    return np.sort(np.random.default_rng(seed).choice(frames, config.max_frames, replace=False))


def wanted_domains(config: SelectConfig) -> frozenset[str] | None:
    """Return the ids of the domains asked for by name and by the index `mdcath_source.h5`; None where neither limits them."""
    named = None if config.domains is None else frozenset(config.domains)
    if config.index is None:
        return named
    try:
        with h5py.File(config.index, "r") as file:
            found = frozenset(name for name, group in file.items() if _is_indexed(group, config))
    except OSError:
        raise UserError(f"{config.index}: cannot be read as HDF5; expected mdCATH's index mdcath_source.h5") from None
    return found if named is None else found & named


def _is_indexed(group: Any, config: SelectConfig) -> bool:
    n_residues = group.attrs.get("numResidues")
    if config.residues is not None and n_residues is not None and not config.residues[0] <= n_residues <= config.residues[1]:
        return False
    return any(
        _run_is_indexed(run, float(match[1]), int(replica), config)
        for temperature, runs in group.items()
        if (match := TEMPERATURE_GROUP.fullmatch(temperature))
        for replica, run in runs.items()
    )


def _run_is_indexed(run: Any, temperature_kelvin: float, replica: int, config: SelectConfig) -> bool:
    if not wanted(temperature_kelvin, replica, config) or run.attrs.get("numFrames", 1) == 0:
        return False
    accepted = config.gyration_radius_angstrom
    low, high = run.attrs.get("min_gyration_radius"), run.attrs.get("max_gyration_radius")
    if accepted is None or low is None or high is None:
        return True
    return bool(low * ANGSTROM_PER_NANOMETRE <= accepted[1] and high * ANGSTROM_PER_NANOMETRE >= accepted[0])
