"""Free-energy surfaces over two collective variables: Rg and RMSD, Q and RMSD, the two slowest coordinates of the reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cg_data.contracts import BeadFrames
from cg_eval.bootstrap import Blocks, Interval, bootstrap
from cg_eval.chain_observables import Observable
from cg_eval.distributions import Bins, free_energy_surface
from cg_eval.tica import Tica, tica, tica_features
from cg_priors.divergence import js_divergence

PAIRS = (("rg", "rmsd"), ("q", "rmsd"), ("tica_1", "tica_2"))
N_BINS = 24
FRAMES_PER_DIMENSION = 10
"""TICA keeps at most one principal direction per so many pairs of frames: a covariance is not known better."""


@dataclass(frozen=True)
class Surface:
    """One pair of collective variables: free energies [x bins, y bins] kcal/mol of model and reference, NaN where never seen.

    divergence: Jensen-Shannon of the two histograms; noise: that of two halves of the reference. deviation: root mean squared
    difference of the free energies over the bins that both visit, each shifted to the same mean there, kcal/mol; None where none.
    """

    x: str
    y: str
    x_unit: str
    y_unit: str
    x_bins: Bins
    y_bins: Bins
    model: np.ndarray
    reference: np.ndarray
    divergence: Interval
    noise: float
    deviation: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "x": self.x,
            "y": self.y,
            "x_bins": vars(self.x_bins),
            "y_bins": vars(self.y_bins),
            "divergence": self.divergence.to_dict(),
            "noise": self.noise,
            "deviation_kcal_per_mol": self.deviation,
            "model_kcal_per_mol": self.model.tolist(),
            "reference_kcal_per_mol": self.reference.tolist(),
        }


def free_energy_surfaces(
    model: BeadFrames,
    reference: BeadFrames,
    halves: np.ndarray,
    blocks: Blocks,
    known: Mapping[str, Observable],
    temperature_kelvin: float,
    lag_frames: int,
    n_resamples: int,
    seed: int,
) -> tuple[Surface, ...]:
    """Return the surfaces that the chain has (no Q without contacts) and the reference allows (no TICA of short trajectories)."""
    values = {name: (known[name].values(model)[:, 0], known[name].values(reference)[:, 0]) for name in ("rg", "rmsd", "q") if name in known}
    slow = reference_tica(reference, lag_frames)
    if slow is not None:
        projected = [slow.project(tica_features(frames)) for frames in (model, reference)]
        values |= {f"tica_{n + 1}": (projected[0][:, n], projected[1][:, n]) for n in range(2)}
    surfaces = []
    for x, y in PAIRS:
        if x not in values or y not in values:
            continue
        units = ["A" if name in ("rg", "rmsd") else "1" for name in (x, y)]
        bins = [_bins(*values[name]) for name in (x, y)]
        cells = [_cells(values[x][side], values[y][side], bins) for side in (0, 1)]
        counts = np.zeros((blocks.n_blocks, N_BINS * N_BINS))
        np.add.at(counts, (blocks.block_of_frame, cells[0]), 1)
        expected = np.bincount(cells[1], minlength=N_BINS * N_BINS)
        parts = [np.bincount(cells[1][half], minlength=N_BINS * N_BINS) for half in (halves, ~halves)]

        def divergence(sums: np.ndarray, expected: np.ndarray = expected) -> np.ndarray:
            return np.array([js_divergence(row, expected) for row in sums])

        energies = [free_energy_surface(values[x][side], values[y][side], bins[0], bins[1], temperature_kelvin) for side in (0, 1)]
        surfaces.append(
            Surface(
                x, y, units[0], units[1], bins[0], bins[1], energies[0], energies[1],
                bootstrap(counts, divergence, blocks, n_resamples, seed=seed), js_divergence(*parts), _deviation(*energies),
            )
        )  # fmt: skip
    return tuple(surfaces)


def reference_tica(reference: BeadFrames, lag_frames: int) -> Tica | None:
    """Return the reference's two slowest coordinates, or None where too few of its trajectories are long enough."""
    features = tica_features(reference)
    trajectories = [features[reference.trajectory == name] for name in np.unique(reference.trajectory)]
    n_pairs = sum(max(0, len(x) - lag_frames) for x in trajectories)
    n_dimensions = min(n_pairs // FRAMES_PER_DIMENSION, features.shape[1])
    return tica(trajectories, lag_frames, most_dimensions=n_dimensions) if n_dimensions >= 2 else None


def _bins(*samples: np.ndarray) -> Bins:
    low, high = min(values.min() for values in samples), max(values.max() for values in samples)
    return Bins(float(low), float(high) if high > low else float(low) + 1e-3, N_BINS)


def _cells(x: np.ndarray, y: np.ndarray, bins: list[Bins]) -> np.ndarray:
    return bins[0].place(x) * N_BINS + bins[1].place(y)


def _deviation(model: np.ndarray, reference: np.ndarray) -> float | None:
    both = np.isfinite(model) & np.isfinite(reference)
    if both.sum() < 2:
        return None
    difference = (model - reference)[both]
    return float(np.std(difference))
