"""What is compared of a chain: each observable's unit, its values in frames, and its range."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.topology import bonded_tuples
from cg_eval import observables, structure
from cg_eval.distributions import Bins
from cg_priors.geometry import bend_angle, dihedral_angle, distance

NATIVE_CUTOFF_ANGSTROM = 9.0
CLASH_BINS = 10


@dataclass(frozen=True)
class Observable:
    """What is compared: its unit, and the values of each frame [n_frames, m] in an order of frames.

    low, high: the range of bins, None to take it from the data; period: of a periodic observable; jacobian: which Jacobian its
    free energy has; most_frames: where the values are costly, so many frames, evenly chosen, are looked at.
    """

    unit: str
    values: Callable[[BeadFrames], np.ndarray]
    low: float | None = None
    high: float | None = None
    period: float | None = None
    jacobian: str = "other"
    most_frames: int | None = None
    n_bins: int | None = None

    def bins(self, number: int, *samples: np.ndarray) -> Bins:
        """Return bins that hold the samples, or the observable's own range."""
        low = self.low if self.low is not None else float(min(values.min() for values in samples))
        high = self.high if self.high is not None else float(max(values.max() for values in samples))
        return Bins(low, high if high > low else low + 1e-3, self.n_bins or number)


def chain_observables(
    reference: BeadFrames,
    native_cutoff: float = NATIVE_CUTOFF_ANGSTROM,
    native_tolerance: float = 1.2,
    clash_distance: float = 4.0,
    most_scored_frames: int = 200,
) -> dict[str, Observable]:
    """Return the observables of a chain; RMSD, native contacts and structure scores are to the reference's first frame.

    Helicity and the structure scores need some length, Q a contact; a chain without has no such observable.
    """
    residue_index, chain_index = np.asarray(reference.residue_index), np.asarray(reference.chain_index)
    tuples = {size: bonded_tuples(residue_index, chain_index, size) for size in (2, 3, 4)}
    native = np.asarray(reference.positions[0], np.float64)
    pi = float(np.pi)

    def of_tuples(feature: Callable[[np.ndarray], np.ndarray], size: int) -> Callable[[BeadFrames], np.ndarray]:
        return lambda frames: feature(positions_of(frames)[:, tuples[size]])

    def per_frame(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[BeadFrames], np.ndarray]:
        return lambda frames: function(positions_of(frames))[:, None]

    found: dict[str, Observable] = {}
    if len(tuples[2]):
        found["bond"] = Observable("A", of_tuples(distance, 2), 2.8, 4.8, jacobian="bond")
    if len(tuples[3]):
        found["angle"] = Observable("rad", of_tuples(bend_angle, 3), 1.0, pi, jacobian="angle")
    if len(tuples[4]):
        found["dihedral"] = Observable("rad", of_tuples(dihedral_angle, 4), -pi, pi, 2 * pi)
    found["rg"] = Observable("A", per_frame(observables.radius_of_gyration))
    found["end_to_end"] = Observable("A", lambda frames: observables.end_to_end(positions_of(frames), residue_index, chain_index))
    found["rmsd"] = Observable("A", per_frame(lambda x: observables.rmsd(x, native)))
    pairs = observables.native_contacts(native, residue_index, chain_index, native_cutoff)
    if len(pairs):
        q = per_frame(lambda x: observables.fraction_of_native_contacts(x, native, pairs, tolerance=native_tolerance))
        found["q"] = Observable("1", q, 0.0, 1.0)
    if len(tuples[4]):
        # 0, 1/m, ..., 1 for m dihedrals: as many bins as values.
        m = len(tuples[4])
        found["helicity"] = Observable(
            "1", per_frame(lambda x: observables.chain_helicity(x, tuples[4])), -0.5 / m, 1 + 0.5 / m, n_bins=min(m + 1, 51)
        )
    clash = per_frame(lambda x: observables.clashes(x, residue_index, chain_index, clash_distance))
    found["clashes"] = Observable("1", clash, -0.5, CLASH_BINS - 0.5, n_bins=CLASH_BINS)
    if len(native) >= structure.SMALLEST_SEED:
        for name, score in (("gdt_ts", structure.gdt_ts), ("tm_score", structure.tm_score), ("lddt_ca", structure.lddt_ca)):
            values = per_frame(lambda x, score=score: score(x, native))  # type: ignore[misc]
            found[name] = Observable("1", values, 0.0, 1.0, most_frames=most_scored_frames)
    return found


def positions_of(frames: BeadFrames) -> np.ndarray:
    """Return [n_frames, n_beads, 3] float64 A."""
    return np.asarray(frames.positions, np.float64)
