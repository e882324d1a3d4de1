"""Scores of one structure against another of the same chain, by CA beads: GDT-TS, TM-score, lDDT-CA.

model, reference [n_beads, 3] A, bead i of one being bead i of the other.
"""

import numpy as np

from cg_data.contracts import Array
from cg_eval.observables import superpose

GDT_CUTOFFS = (1.0, 2.0, 4.0, 8.0)
LDDT_CUTOFFS = (0.5, 1.0, 2.0, 4.0)
SEED_FRACTIONS = (1, 2, 4, 8)
SMALLEST_SEED = 4


def tm_score(model: Array, reference: Array) -> float:
    """Return the TM-score in (0, 1]: the largest mean of 1 / (1 + (d/d0)^2) over superpositions.

    d0 = 1.24 (n - 15)^(1/3) - 1.8 A, at least 0.5 (Zhang and Skolnick, doi:10.1002/prot.20264). The search starts from
    fragments and refines on the beads within reach; like every such search it gives a lower bound.
    """
    n_beads = len(reference)
    d0 = max(0.5, 1.24 * float(np.cbrt(n_beads - 15)) - 1.8)
    return max(float(np.mean(1 / (1 + (d / d0) ** 2))) for d in _superposition_distances(model, reference, max(d0, 4.5)))


def gdt_ts(model: Array, reference: Array) -> float:
    """Return GDT-TS in [0, 1]: the mean over 1, 2, 4, 8 A of the largest fraction of beads that can be brought within it.

    Zemla, doi:10.1093/nar/gkg571; each cutoff has its own superposition.
    """
    fractions = [max(float((d < cutoff).mean()) for d in _superposition_distances(model, reference, cutoff)) for cutoff in GDT_CUTOFFS]
    return float(np.mean(fractions))


def lddt_ca(model: Array, reference: Array, inclusion_radius: float = 15.0) -> float:
    """Return lDDT of CA in [0, 1]: the fraction of reference distances below the radius that are kept, no superposition.

    Mean over tolerances 0.5, 1, 2, 4 A (Mariani et al., doi:10.1093/bioinformatics/btt473), without stereochemistry checks.
    """
    first, second = np.triu_indices(len(reference), k=1)
    distances = [np.linalg.norm(np.asarray(x, np.float64)[second] - np.asarray(x, np.float64)[first], axis=-1) for x in (model, reference)]
    near = distances[1] < inclusion_radius
    change = np.abs(distances[0] - distances[1])[near]
    return float(np.mean([(change < cutoff).mean() for cutoff in LDDT_CUTOFFS]))


def _superposition_distances(model: Array, reference: Array, reach: float, n_iterations: int = 10) -> list[np.ndarray]:
    """Return the distances [n_beads] of many superpositions, started from fragments and refined on beads within `reach`."""
    x, target = np.asarray(model, np.float64), np.asarray(reference, np.float64)
    n_beads = len(target)
    found = []
    for fraction in SEED_FRACTIONS:
        length = max(min(SMALLEST_SEED, n_beads), n_beads // fraction)
        for start in range(0, n_beads - length + 1, max(1, length // 2)):
            chosen = np.zeros(n_beads, bool)
            chosen[start : start + length] = True
            for _ in range(n_iterations):
                distance = np.linalg.norm(superpose(x[None], target, chosen.astype(np.float64))[0] - target, axis=-1)
                found.append(distance)
                closer = distance < reach
                if closer.sum() < 3 or (closer == chosen).all():
                    break
                chosen = closer
    return found
