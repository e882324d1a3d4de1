"""Linear maps from all-atom forces to bead forces, in closed form.

A map F = W f is consistent with beads R = C r when C W^T = 1 and atoms joined by a rigid bond share one weight in each row (Noid
et al., J. Chem. Phys. 128, 244114 (2008); Kramer et al., J. Phys. Chem. Lett. 14, 3970 (2023)). With the forces of a rigid group
summed, w = E x, the map of least mean square force solves, for each bead,

    minimise x^T P x  subject to  B x = e,    P = G + ridge * E^T E,    B = C E,

where G [n_groups, n_groups] is the mean product of group forces: x = P^-1 B^T (B P^-1 B^T)^-1 e. A local map lets x be non-zero on
a few groups only, the same few in every frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import csr_array, diags_array

from cg_data.config import ForceMapConfig
from cg_data.errors import UserError


@dataclass(frozen=True)
class Reduction:
    """Atoms gathered into rigid groups, and beads as sums over groups.

    groups [n_groups, n_atoms] sparse, 1 where an atom belongs to a group (E^T); sizes [n_groups]; beads [n_beads, n_groups] dense,
    B = C E; slice [n_beads, n_atoms] sparse, the map by each bead's own atoms alone (C with rows scaled so that C slice^T = 1).
    """

    groups: csr_array
    sizes: np.ndarray
    beads: np.ndarray
    slice: csr_array

    @property
    def n_groups(self) -> int:
        """Number of rigid groups: weights of an unrestricted row."""
        return len(self.sizes)


def reduce_atoms(groups: csr_array, atom_beads: csr_array, where: str) -> Reduction:
    """Return the reduction of atoms to rigid groups for a bead map.

    groups [n_groups, n_atoms], atom_beads [n_beads, n_atoms]. Raises `UserError` naming `where` if two beads share a rigid group:
    their forces cannot be told apart.
    """
    if ((atom_beads.power(2) @ groups.T > 0).sum(axis=0) > 1).any():
        raise UserError(f"{where}: two beads share a group of rigidly joined atoms; expected one bead at most: choose other beads")
    sizes = np.asarray(groups.sum(axis=1)).ravel()
    scale = diags_array(1.0 / np.asarray(atom_beads.power(2).sum(axis=1)).ravel())
    return Reduction(groups, sizes, (atom_beads @ groups.T).toarray(), csr_array(scale @ atom_beads))


def group_forces(reduction: Reduction, forces: np.ndarray) -> np.ndarray:
    """Return [n_groups, 3 n_frames] float64: forces [n_frames, n_atoms, 3] summed over each rigid group."""
    n_frames, n_atoms, _ = forces.shape
    return np.asarray(reduction.groups @ forces.transpose(1, 0, 2).reshape(n_atoms, 3 * n_frames).astype(np.float64))


def local_supports(atom_residues: np.ndarray, bead_residues: np.ndarray, linked: np.ndarray, neighbours: int, groups: csr_array) -> list:
    """Return, per bead, the sorted groups [n] of its residue and of up to `neighbours` residues to each side.

    atom_residues [n_atoms]; bead_residues [n_beads]; linked [n_residues - 1] bool, False at a chain break, which is not crossed.
    """
    segment = np.concatenate([[0], np.cumsum(~linked)])
    coo = groups.tocoo()
    group_residue = np.zeros(groups.shape[0], np.int64)
    group_residue[coo.row] = atom_residues[coo.col]
    supports = []
    for residue in bead_residues:
        near = (np.abs(group_residue - residue) <= neighbours) & (segment[group_residue] == segment[residue])
        supports.append(np.flatnonzero(near))
    return supports


class ForceProducts:
    """Streamed mean products of group forces, per block of frames ("fold"), in float64.

    Held for all pairs of groups, [n_folds, n_groups, n_groups], or per bead for the groups of its support only.
    """

    def __init__(self, n_folds: int, n_groups: int, supports: Sequence[np.ndarray], whole: bool):
        self.supports = supports
        self.n_frames = np.zeros(n_folds, np.int64)
        self._whole = np.zeros((n_folds, n_groups, n_groups)) if whole else None
        self._local = [] if whole else [np.zeros((n_folds, len(support), len(support))) for support in supports]

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return len(self.n_frames)

    @property
    def is_whole(self) -> bool:
        """Whether products of all pairs of groups are held."""
        return self._whole is not None

    def add(self, fold: int, forces: np.ndarray) -> None:
        """Add group forces [n_groups, 3 n_frames] of frames of one fold."""
        self.n_frames[fold] += forces.shape[1] // 3
        if self._whole is not None:
            self._whole[fold] += forces @ forces.T
            return
        for support, products in zip(self.supports, self._local, strict=True):
            part = forces[support]
            products[fold] += part @ part.T

    def mean(self, folds: Sequence[int], support: np.ndarray | None = None, bead: int = -1) -> np.ndarray:
        """Return the mean products per frame and component over some folds: of all groups, or of a bead's support."""
        folds = list(folds)
        count = 3 * int(self.n_frames[folds].sum())
        if self._whole is None:
            return self._local[bead][folds].sum(axis=0) / count
        if support is None:
            return sum(self._whole[fold] for fold in folds) / count
        return sum(self._whole[fold][np.ix_(support, support)] for fold in folds) / count


def solve_map(products: np.ndarray, sizes: np.ndarray, beads: np.ndarray, ridge: float) -> np.ndarray:
    """Return reduced weights X^T [n_beads, n_groups] of the map of least mean square force.

    products [n_groups, n_groups] mean products of group forces, (kcal/mol/angstrom)^2; sizes [n_groups] atoms per group; beads
    [n_beads, n_groups]; ridge in the same unit as the products. Raises `LinAlgError` where products + ridge are singular, as
    they are without a ridge for fewer frames than weights.
    """
    regular = products.copy()
    regular[np.diag_indices_from(regular)] += ridge * sizes
    factor = cho_factor(regular, lower=True, overwrite_a=True, check_finite=False)
    solved = cho_solve(factor, beads.T, check_finite=False)
    return np.asarray(solve_symmetric(beads @ solved, solved.T))


def solve_symmetric(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve `matrix x = right` for a symmetric positive definite matrix."""
    return np.asarray(cho_solve(cho_factor(matrix, lower=True, check_finite=False), right, check_finite=False))


def solve_local_row(products: np.ndarray, sizes: np.ndarray, beads: np.ndarray, bead: int, ridge: float) -> np.ndarray:
    """Return one row [n_support] of a local map: as `solve_map` with everything already restricted to the bead's support."""
    touched = np.flatnonzero(beads.any(axis=1))
    rows = solve_map(products, sizes, beads[touched], ridge)
    return rows[int(np.searchsorted(touched, bead))]


def uniform_map(reduction: Reduction) -> np.ndarray:
    """Return [n_beads, n_groups]: the plain sum of forces over the rigid groups a bead's atoms belong to."""
    return (reduction.beads != 0).astype(np.float64)


@dataclass(frozen=True)
class Candidate:
    """A kind of map: its rows [n_beads, n_groups], one map per fold, and its score on each fold's own frames.

    A fold's map was fitted on the other folds. score is the mean square bead force per component, (kcal/mol/angstrom)^2.
    """

    kind: str
    ridge: float | None
    maps: tuple[csr_array, ...]
    score: float


@dataclass(frozen=True)
class ChosenMap:
    """The map in use: per fold a sparse [n_beads, n_atoms] matrix, with the scores that led to the choice."""

    kind: str
    ridge: float | None
    weights: tuple[csr_array, ...]
    n_weights: int
    scores: dict[str, float]
    note: str


def fit_maps(products: ForceProducts, reduction: Reduction, config: ForceMapConfig) -> list[Candidate]:
    """Return the optimal maps that could be fitted, each with the ridge of the best held-out score."""
    folds = [k for k in range(products.n_folds) if products.n_frames[k]]
    if len(folds) < 2:
        return []
    candidates = []
    kinds = ["optimal-local"]
    weights_allowed = reduction.n_groups * config.min_frames_per_weight <= products.n_frames.sum()
    if config.kind == "optimal" and products.is_whole and weights_allowed:
        kinds.append("optimal")
    for kind in kinds:
        best: Candidate | None = None
        for ridge in sorted(config.ridges):
            try:
                candidate = _cross_fit(kind, ridge, products, reduction, folds)
            except LinAlgError:
                continue
            if best is None or candidate.score < best.score:
                best = candidate
        if best is not None:
            candidates.append(best)
    return candidates


def fit_one(kind: str, ridge: float, products: ForceProducts, reduction: Reduction, folds: Sequence[int]) -> csr_array:
    """Return the map [n_beads, n_groups] fitted on the frames of some folds."""
    n_beads = len(reduction.beads)
    if kind == "optimal":
        return csr_array(solve_map(products.mean(folds), reduction.sizes, reduction.beads, ridge))
    rows, columns, values = [], [], []
    for bead, support in enumerate(products.supports):
        local = products.mean(folds, support, bead)
        row = solve_local_row(local, reduction.sizes[support], reduction.beads[:, support], bead, ridge)
        rows.append(np.full(len(support), bead))
        columns.append(support)
        values.append(row)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return csr_array(entries, shape=(n_beads, reduction.n_groups))


def mean_square(weights: csr_array, products: ForceProducts, folds: Sequence[int]) -> float:
    """Return the mean square bead force per component, over the frames of some folds, of a map [n_beads, n_groups].

    Where products are held per support, the map must be zero outside it.
    """
    if products.is_whole:
        dense = weights.toarray()
        return float(np.mean(np.einsum("bg,bg->b", dense @ products.mean(folds), dense)))
    total = 0.0
    for bead, support in enumerate(products.supports):
        row = weights[[bead]].toarray()[0, support]
        total += float(row @ products.mean(folds, support, bead) @ row)
    return total / len(products.supports)


def _cross_fit(kind: str, ridge: float, products: ForceProducts, reduction: Reduction, folds: Sequence[int]) -> Candidate:
    maps: list[csr_array] = []
    score = 0.0
    for fold in range(products.n_folds):
        others = [k for k in folds if k != fold]
        maps.append(fit_one(kind, ridge, products, reduction, others))
        if fold in folds:
            score += mean_square(maps[-1], products, [fold]) * products.n_frames[fold]
    return Candidate(kind, ridge, tuple(maps), score / products.n_frames.sum())


def choose_map(products: ForceProducts, reduction: Reduction, slice_score: float, config: ForceMapConfig) -> ChosenMap:
    """Fit what is asked for and return the best; `uniform` where that scores better on frames held out of the fit.

    slice_score: mean square force per component of the slice map, for the report.
    """
    n_folds = products.n_folds
    uniform = csr_array(uniform_map(reduction))
    every = [k for k in range(n_folds) if products.n_frames[k]]
    scores = {"slice": slice_score, "uniform": mean_square(uniform, products, every)}
    baseline = {"slice": reduction.slice, "uniform": csr_array(uniform @ reduction.groups)}
    if config.kind in baseline:
        weights = baseline[config.kind]
        return ChosenMap(config.kind, None, (weights,) * n_folds, weights.nnz, scores, "")
    candidates = fit_maps(products, reduction, config)
    scores |= {candidate.kind: candidate.score for candidate in candidates}
    best = min(candidates, key=lambda candidate: candidate.score, default=None)
    if best is None or best.ridge is None or best.score >= scores["uniform"]:
        reason = "too few frames to fit" if best is None else f"held-out score {best.score:.4g} is not below uniform's"
        note = f"{config.kind} refused: {reason}; fell back to uniform"
        return ChosenMap("uniform", None, (baseline["uniform"],) * n_folds, baseline["uniform"].nnz, scores, note)
    maps = best.maps
    if not config.cross_fit:
        maps = (fit_one(best.kind, best.ridge, products, reduction, every),) * n_folds
    weights_per_bead = reduction.n_groups if best.kind == "optimal" else max(len(support) for support in products.supports)
    atom_maps = tuple(csr_array(rows @ reduction.groups) for rows in maps)
    return ChosenMap(best.kind, best.ridge, atom_maps, weights_per_bead, scores, "")
