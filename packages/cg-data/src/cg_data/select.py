"""Which trajectories and frames of a domain are read."""

import numpy as np

from cg_data.atoms import AtomSource, SourceTrajectory
from cg_data.config import SelectConfig


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
