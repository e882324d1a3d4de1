"""Scores of structures against another of the same chain, by CA beads: GDT-TS, TM-score, lDDT-CA.

models [n_frames, n_beads, 3], reference [n_beads, 3] A, bead i of one being bead i of the other; scores are [n_frames].
"""

from collections.abc import Iterator

import numpy as np

from cg_data.contracts import Array
from cg_eval.observables import superpose

GDT_CUTOFFS = (1.0, 2.0, 4.0, 8.0)
LDDT_CUTOFFS = (0.5, 1.0, 2.0, 4.0)
SEED_FRACTIONS = (1, 2, 4, 8)
SMALLEST_SEED = 4


def tm_score(models: Array, reference: Array) -> np.ndarray:
    """Return the TM-scores in (0, 1]: the largest mean of 1 / (1 + (d/d0)^2) over superpositions.

    d0 = 1.24 (n - 15)^(1/3) - 1.8 A, at least 0.5 (Zhang and Skolnick, doi:10.1002/prot.20264). The search starts from
    fragments and refines on the beads within reach; like every such search it gives a lower bound.
    """
    n_beads = len(reference)
    d0 = max(0.5, 1.24 * float(np.cbrt(n_beads - 15)) - 1.8)
    return np.max([np.mean(1 / (1 + (d / d0) ** 2), axis=1) for d in _superposition_distances(models, reference, max(d0, 4.5))], axis=0)


def gdt_ts(models: Array, reference: Array) -> np.ndarray:
    """Return GDT-TS in [0, 1]: the mean over 1, 2, 4, 8 A of the largest fraction of beads that can be brought within it.

    Zemla, doi:10.1093/nar/gkg571; each cutoff has its own superposition.
    """
    fractions = [
        np.max([(d < cutoff).mean(axis=1) for d in _superposition_distances(models, reference, cutoff)], axis=0) for cutoff in GDT_CUTOFFS
    ]
    return np.mean(fractions, axis=0)


def lddt_ca(models: Array, reference: Array, inclusion_radius: float = 15.0) -> np.ndarray:
    """Return lDDT of CA in [0, 1]: the fraction of reference distances below the radius that are kept, no superposition.

    Mean over tolerances 0.5, 1, 2, 4 A (Mariani et al., doi:10.1093/bioinformatics/btt473), without stereochemistry checks.
    """
    x, target = np.asarray(models, np.float64), np.asarray(reference, np.float64)
    first, second = np.triu_indices(len(target), k=1)
    distances = np.linalg.norm(target[second] - target[first], axis=-1)
    near = distances < inclusion_radius
    change = np.abs(np.linalg.norm(x[:, second[near]] - x[:, first[near]], axis=-1) - distances[near])
    return np.mean([(change < cutoff).mean(axis=1) for cutoff in LDDT_CUTOFFS], axis=0)


def _superposition_distances(models: Array, reference: Array, reach: float, n_iterations: int = 10) -> Iterator[np.ndarray]:
    """Yield the distances [n_frames, n_beads] of many superpositions, from fragments, refined on the beads within `reach`.

    A frame with fewer than three beads within reach stays with those it had.
    """
    x, target = np.asarray(models, np.float64), np.asarray(reference, np.float64)
    n_frames, n_beads, _ = x.shape
    for fraction in SEED_FRACTIONS:
        length = max(min(SMALLEST_SEED, n_beads), n_beads // fraction)
        for start in range(0, n_beads - length + 1, max(1, length // 2)):
            chosen = np.zeros((n_frames, n_beads), bool)
            chosen[:, start : start + length] = True
            for _ in range(n_iterations):
                distance = np.linalg.norm(superpose(x, target, chosen.astype(np.float64)) - target, axis=-1)
                yield distance
                closer = np.where((distance < reach).sum(axis=1, keepdims=True) >= 3, distance < reach, chosen)
                if (closer == chosen).all():
                    break
                chosen = closer
