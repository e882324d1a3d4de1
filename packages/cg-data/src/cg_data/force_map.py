"""Linear maps from all-atom forces to bead forces, in closed form.

A map F = W f is consistent with beads R = C r when C W^T = 1 and atoms joined by a rigid bond share one weight in each row (Noid
et al., J. Chem. Phys. 128, 244114 (2008); Kramer et al., J. Phys. Chem. Lett. 14, 3970 (2023)). With the forces of a rigid group
summed, w = E x, the map of least mean square force solves, for each bead,

    minimise x^T P x  subject to  B x = e,    P = G + ridge * E^T E,    B = C E,

where G [n_groups, n_groups] is the mean product of group forces: x = P^-1 B^T (B P^-1 B^T)^-1 e. A local map lets x be non-zero on
a few groups only, the same few in every frame.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array, diags_array

from cg_data.atoms import by_atom
from cg_data.config import ForceMapConfig
from cg_data.errors import UserError


@dataclass(frozen=True)
class Reduction:
    """Atoms gathered into rigid groups, and beads as sums over groups.

    groups [n_groups, n_atoms] sparse, 1 where an atom belongs to a group (E^T); sizes [n_groups]; atom_beads [n_beads, n_atoms]
    sparse, the bead map C; slice [n_beads, n_atoms] sparse, the map by each bead's own atoms alone (C with rows scaled so that
    C slice^T = 1).
    """

    groups: csr_array
    sizes: np.ndarray
    atom_beads: csr_array
    slice: csr_array

    @functools.cached_property
    def beads(self) -> np.ndarray:
        """Beads as sums over groups [n_beads, n_groups], dense: B = C E. Made where a map is fitted; the slice map needs none."""
        return np.asarray((self.atom_beads @ self.groups.T).toarray())

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
    return Reduction(groups, sizes, atom_beads, csr_array(scale @ atom_beads))


def group_forces(reduction: Reduction, forces: np.ndarray) -> np.ndarray:
    """Return [n_groups, 3 n_frames] float64: forces [n_frames, n_atoms, 3] summed over each rigid group; see `by_atom`."""
    return np.asarray(reduction.groups @ by_atom(forces))


def of_frames(rows: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return [n, 3 n_chosen]: the columns of rows [n, 3 n_frames], as of `by_atom`, that belong to frames [n_frames] bool."""
    return rows if frames.all() else rows.reshape(len(rows), 3, -1)[:, :, frames].reshape(len(rows), -1)


def map_rows(weights: csr_array, rows: np.ndarray) -> np.ndarray:
    """Return [n_frames, n_beads, 3] float32: weights [n_beads, n] times rows [n, 3 n_frames], as of `by_atom`."""
    mapped = (weights @ rows).reshape(weights.shape[0], 3, -1)
    return np.ascontiguousarray(mapped.transpose(2, 0, 1), np.float32)


def local_supports(
    atom_residues: np.ndarray, bead_residues: np.ndarray, linked: np.ndarray, neighbours: int, groups: csr_array
) -> list[np.ndarray]:
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


@dataclass(frozen=True)
class LocalProblem:
    """The problems of all beads' local rows, padded to the widest support, so that they are solved at once.

    index [n_beads, width] groups of each support, inside [n_beads, width] False in padding; sizes [n_beads, width] atoms per group;
    constraints [n_beads, n_rows, width] the rows of B that reach into the support, right [n_beads, n_rows] their right-hand side,
    real [n_beads, n_rows] False in padding.
    """

    index: np.ndarray
    inside: np.ndarray
    sizes: np.ndarray
    constraints: np.ndarray
    right: np.ndarray
    real: np.ndarray

    def rows(self, weights: csr_array) -> np.ndarray:
        """Return the local rows [n_beads, width] of a map [n_beads, n_groups] that is zero outside the supports."""
        return np.where(self.inside, weights.toarray()[np.arange(len(self.index))[:, None], self.index], 0.0)

    def spread(self, rows: np.ndarray, n_groups: int) -> csr_array:
        """Return the map [n_beads, n_groups] of local rows [n_beads, width]."""
        bead = np.nonzero(self.inside)[0]
        return csr_array((rows[self.inside], (bead, self.index[self.inside])), shape=(len(rows), n_groups))


def local_problem(reduction: Reduction, supports: Sequence[np.ndarray]) -> LocalProblem:
    """Return the padded local problems of beads whose rows are restricted to `supports`."""
    n_beads, width = len(supports), max(map(len, supports))
    index, inside = np.zeros((n_beads, width), np.int64), np.zeros((n_beads, width), bool)
    for bead, support in enumerate(supports):
        index[bead, : len(support)], inside[bead, : len(support)] = support, True
    touched = [np.flatnonzero(reduction.beads[:, support].any(axis=1)) for support in supports]
    n_rows = max(map(len, touched))
    constraints, right = np.zeros((n_beads, n_rows, width)), np.zeros((n_beads, n_rows))
    real = np.zeros((n_beads, n_rows), bool)
    for bead, rows in enumerate(touched):
        constraints[bead, : len(rows)] = np.where(inside[bead], reduction.beads[np.ix_(rows, index[bead])], 0.0)
        right[bead, : len(rows)] = rows == bead
        real[bead, : len(rows)] = True
    return LocalProblem(index, inside, reduction.sizes[index], constraints, right, real)


class ForceProducts:
    """Streamed sums of products of group forces, per block of frames ("fold"), in float64.

    Held for all pairs of groups, [n_folds, n_groups, n_groups], or for the groups of each bead's support only.
    """

    def __init__(self, n_folds: int, n_groups: int, supports: Sequence[np.ndarray], whole: bool):
        self.supports = supports
        # Supports are nearly always unbroken runs of groups, which need not be copied to be multiplied.
        self._rows = [slice(s[0], s[-1] + 1) if len(s) and s[-1] - s[0] + 1 == len(s) else s for s in supports]
        self.n_frames = np.zeros(n_folds, np.int64)
        width = max(map(len, supports), default=0)
        self._whole = np.zeros((n_folds, n_groups, n_groups)) if whole else None
        self._local = None if whole else np.zeros((n_folds, len(supports), width, width))

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
        elif self._local is not None:
            for bead, rows in enumerate(self._rows):
                part = forces[rows]
                self._local[fold, bead, : len(part), : len(part)] += part @ part.T

    def whole(self) -> np.ndarray:
        """Return the sums [n_folds, n_groups, n_groups]."""
        if self._whole is None:
            raise ValueError("products of all pairs of groups are not held")
        return self._whole

    def local(self, problem: LocalProblem) -> np.ndarray:
        """Return the sums [n_folds, n_beads, width, width] over each bead's support, zero in padding."""
        if self._local is not None:
            return self._local
        pairs = self.whole()[:, problem.index[:, :, None], problem.index[:, None, :]]
        return np.where(problem.inside[:, :, None] & problem.inside[:, None, :], pairs, 0.0)


def solve_map(products: np.ndarray, sizes: np.ndarray, beads: np.ndarray, ridge: float) -> np.ndarray:
    """Return reduced weights X^T [n_beads, n_groups] of the map of least mean square force.

    products [n_groups, n_groups] mean products of group forces, (kcal/mol/angstrom)^2; sizes [n_groups] atoms per group; beads
    [n_beads, n_groups]; ridge in the same unit as the products. Raises `LinAlgError` where products + ridge are singular, as
    they are without a ridge for fewer frames than weights.
    """
    regular = products.copy()
    regular[np.diag_indices_from(regular)] += ridge * sizes
    solved = cho_solve(cho_factor(regular, lower=True, overwrite_a=True, check_finite=False), beads.T, check_finite=False)
    return np.asarray(cho_solve(cho_factor(beads @ solved, lower=True, check_finite=False), solved.T, check_finite=False))


def solve_local_maps(products: np.ndarray, problem: LocalProblem, ridge: float) -> np.ndarray:
    """Return the local rows [n_beads, width]: as `solve_map`, for every bead on its own support.

    products [n_beads, width, width] mean products of group forces. Raises `LinAlgError` as `solve_map` does.
    """
    width, n_rows = problem.index.shape[1], problem.real.shape[1]
    regular = products.copy()
    regular[:, np.arange(width), np.arange(width)] += np.where(problem.inside, ridge * problem.sizes, 1.0)
    np.linalg.cholesky(regular)
    solved = np.linalg.solve(regular, problem.constraints.transpose(0, 2, 1))
    inner = problem.constraints @ solved
    inner[:, np.arange(n_rows), np.arange(n_rows)] += ~problem.real
    return np.asarray((solved @ np.linalg.solve(inner, problem.right[:, :, None]))[:, :, 0])


def uniform_map(reduction: Reduction) -> np.ndarray:
    """Return [n_beads, n_groups]: the plain sum of forces over the rigid groups a bead's atoms belong to."""
    return (reduction.beads != 0).astype(np.float64)


@dataclass(frozen=True)
class Candidate:
    """A kind of map at its best ridge: one map [n_beads, n_groups] per fold, and its score.

    A fold's map was fitted on the other folds. score is the mean square bead force per component over each fold's own frames,
    (kcal/mol/angstrom)^2.
    """

    kind: str
    ridge: float
    maps: tuple[csr_array, ...]
    score: float


@dataclass(frozen=True)
class ChosenMap:
    """The map in use: per fold a sparse [n_beads, n_groups] matrix, with the scores that led to the choice.

    `slice` is no map of group forces and has no weights here; it is `Reduction.slice`. n_weights: free weights of one bead for a
    fitted map, non-zero weights of all beads for `slice` and `uniform`.
    """

    kind: str
    ridge: float | None
    weights: tuple[csr_array, ...]
    n_weights: int
    scores: dict[str, float]
    note: str


def cross_fit(
    kind: str,
    sums: np.ndarray,
    n_frames: np.ndarray,
    ridges: Sequence[float],
    solve: Callable[[np.ndarray, float], np.ndarray],
    spread: Callable[[np.ndarray], csr_array],
    score: Callable[[np.ndarray, np.ndarray], float],
) -> Candidate | None:
    """Return a kind of map with the ridge of the best held-out score; None where none could be fitted.

    sums [n_folds, ...] products per fold, n_frames [n_folds]; solve(mean products, ridge) gives rows, spread makes them a map
    [n_beads, n_groups], score(rows, mean products) is their mean square force.
    """
    total, n_total = sums.sum(axis=0), int(n_frames.sum())
    best: tuple[float, float, list[np.ndarray]] | None = None
    for ridge in sorted(ridges):
        try:
            rows = [solve((total - own) / (3 * (n_total - n)), ridge) for own, n in zip(sums, n_frames, strict=True)]
        except np.linalg.LinAlgError:
            continue
        held_out = sum(score(r, own) for r, own in zip(rows, sums, strict=True)) / (3 * n_total)
        if best is None or held_out < best[0]:
            best = (held_out, ridge, rows)
    return None if best is None else Candidate(kind, best[1], tuple(spread(rows) for rows in best[2]), best[0])


def fit_maps(products: ForceProducts, reduction: Reduction, config: ForceMapConfig) -> list[Candidate]:
    """Return the optimal maps that are asked for and could be fitted, each with the ridge of the best held-out score."""
    if np.count_nonzero(products.n_frames) < 2:
        return []
    problem = local_problem(reduction, products.supports)
    candidates = [
        cross_fit(
            "optimal-local",
            products.local(problem),
            products.n_frames,
            config.ridges,
            lambda mean, ridge: solve_local_maps(mean, problem, ridge),
            lambda rows: problem.spread(rows, reduction.n_groups),
            _local_square,
        )
    ]
    enough = reduction.n_groups * config.min_frames_per_weight <= products.n_frames.sum()
    if config.kind == "optimal" and products.is_whole and enough:
        candidates.append(
            cross_fit(
                "optimal",
                products.whole(),
                products.n_frames,
                config.ridges,
                lambda mean, ridge: solve_map(mean, reduction.sizes, reduction.beads, ridge),
                csr_array,
                _whole_square,
            )
        )
    return [candidate for candidate in candidates if candidate is not None]


def fit_one(kind: str, ridge: float, products: ForceProducts, reduction: Reduction) -> csr_array:
    """Return the map [n_beads, n_groups] of a kind fitted on all frames."""
    n = 3 * int(products.n_frames.sum())
    if kind == "optimal":
        return csr_array(solve_map(products.whole().sum(axis=0) / n, reduction.sizes, reduction.beads, ridge))
    problem = local_problem(reduction, products.supports)
    return problem.spread(solve_local_maps(products.local(problem).sum(axis=0) / n, problem, ridge), reduction.n_groups)


def mean_square(weights: csr_array, products: ForceProducts, reduction: Reduction) -> float:
    """Return the mean square bead force per component over all frames of a map [n_beads, n_groups] zero outside the supports."""
    problem = local_problem(reduction, products.supports)
    rows = problem.rows(weights)
    return _local_square(rows, products.local(problem).sum(axis=0)) / (3 * int(products.n_frames.sum()))


def _local_square(rows: np.ndarray, products: np.ndarray) -> float:
    return float(np.einsum("bi,bij,bj->b", rows, products, rows, optimize=True).mean())


def _whole_square(rows: np.ndarray, products: np.ndarray) -> float:
    return float(np.einsum("bi,bi->b", rows @ products, rows).mean())


def choose_map(products: ForceProducts, reduction: Reduction, slice_score: float, config: ForceMapConfig) -> ChosenMap:
    """Fit what is asked for and return the best; `uniform` where that scores better on frames held out of the fit.

    slice_score: mean square force per component of the slice map, for the report.
    """
    n_folds = products.n_folds
    if config.kind == "slice":
        return ChosenMap("slice", None, (), reduction.slice.nnz, {"slice": slice_score}, "")
    uniform = csr_array(uniform_map(reduction))
    scores = {"slice": slice_score, "uniform": mean_square(uniform, products, reduction)}
    n_summed = csr_array(uniform @ reduction.groups).nnz
    if config.kind == "uniform":
        return ChosenMap("uniform", None, (uniform,) * n_folds, n_summed, scores, "")
    candidates = fit_maps(products, reduction, config)
    scores |= {candidate.kind: candidate.score for candidate in candidates}
    best = min(candidates, key=lambda candidate: candidate.score, default=None)
    if best is None or best.score >= scores["uniform"]:
        reason = "too few frames to fit" if best is None else f"held-out score {best.score:.4g} is not below uniform's"
        note = f"{config.kind} refused: {reason}; fell back to uniform"
        return ChosenMap("uniform", None, (uniform,) * n_folds, n_summed, scores, note)
    maps = best.maps
    if not config.cross_fit:
        maps = (fit_one(best.kind, best.ridge, products, reduction),) * n_folds
    n_weights = reduction.n_groups if best.kind == "optimal" else max(map(len, products.supports))
    return ChosenMap(best.kind, best.ridge, maps, n_weights, scores, "")
