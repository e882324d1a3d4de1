"""How far predicted forces are from reference forces, from sums that add up over frames, blocks and domains.

Every metric here is a function of a short vector of sums (`COLUMNS`), so a data set of any size is judged in one pass, and a
bootstrap resamples blocks of sums instead of frames of forces.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cg_data.contracts import Array

COLUMNS = (
    "components",
    "squared_error",
    "absolute_error",
    "predicted",
    "reference",
    "predicted_squared",
    "reference_squared",
    "product",
    "vectors",
    "cosine",
)
"""What `force_sums` adds up: a count of components, sums over components, a count of vectors, a sum over vectors."""

METRICS = ("mse", "rmse", "mae", "pearson", "r2", "cosine", "reference_rms")
"""Names of the metrics that `metrics` returns."""

ERROR_UNITS = {
    "mse": "(kcal/mol/A)^2",
    "rmse": "kcal/mol/A",
    "mae": "kcal/mol/A",
    "maximum": "kcal/mol/A",
    "reference_rms": "kcal/mol/A",
    "pearson": "1",
    "r2": "1",
    "cosine": "1",
}


def force_sums(predicted: Array, reference: Array) -> np.ndarray:
    """Return [..., len(COLUMNS)] float64: the sums of each force vector over its last axis.

    predicted, reference [..., d] kcal/mol/A; d is 3 for vectors and 1 for one component or a magnitude. A vector of length
    zero, in either, has cosine 0: the zero model points nowhere.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(reference, np.float64)
    error = p - t
    dot, pp, tt = (p * t).sum(-1), (p * p).sum(-1), (t * t).sum(-1)
    norm = np.sqrt(pp * tt)
    cosine = np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0)
    count = np.full(dot.shape, p.shape[-1], np.float64)
    return np.stack(
        [count, (error**2).sum(-1), np.abs(error).sum(-1), p.sum(-1), t.sum(-1), pp, tt, dot, np.ones_like(dot), cosine],
        axis=-1,
    )


def metrics(sums: Array) -> dict[str, np.ndarray]:
    """Return the metrics of sums [..., len(COLUMNS)], each of shape [...]; NaN where a metric is undefined.

    mse   mean over components of (F_predicted - F_reference)^2, (kcal/mol/A)^2; rmse its root; mae the mean modulus
    r2    1 - squared error / squared deviation of the reference from its mean: 0 for a model that predicts that mean
    pearson   correlation of components; undefined (NaN) for the zero model
    cosine    mean over vectors of the cosine between prediction and reference
    reference_rms   root mean square component of the reference: the RMSE of the zero model
    """
    column = dict(zip(COLUMNS, np.moveaxis(np.asarray(sums, np.float64), -1, 0), strict=True))
    n, t, p = column["components"], column["reference"], column["predicted"]
    with np.errstate(divide="ignore", invalid="ignore"):
        mse = column["squared_error"] / n
        spread_t = np.maximum(column["reference_squared"] - t**2 / n, 0.0)
        spread_p = np.maximum(column["predicted_squared"] - p**2 / n, 0.0)
        covariance = column["product"] - p * t / n
        return {
            "mse": mse,
            "rmse": np.sqrt(mse),
            "mae": column["absolute_error"] / n,
            "pearson": covariance / np.sqrt(spread_t * spread_p),
            "r2": 1.0 - column["squared_error"] / spread_t,
            "cosine": column["cosine"] / column["vectors"],
            "reference_rms": np.sqrt(column["reference_squared"] / n),
        }


def skill(mse_prior: float, mse_model: float, mse_floor: float = 0.0) -> float:
    """Return (MSE_prior - MSE) / (MSE_prior - MSE_floor): 0 for the prior, 1 for a model that reaches the floor.

    The floor is the MSE of a perfect model, above zero where labels are instantaneous forces (their fluctuation at fixed bead
    positions cannot be predicted). Without a known floor it is 0 and the skill is a lower bound.
    """
    return float((mse_prior - mse_model) / (mse_prior - mse_floor))


def chain_positions(residue_index: Array, chain_index: Array, terminal: int = 3) -> np.ndarray:
    """Return [n_beads] bool: True for the `terminal` beads at either end of each unbroken segment."""
    residue_index, chain_index = np.asarray(residue_index), np.asarray(chain_index)
    at_end = np.zeros(len(residue_index), bool)
    for chain in np.unique(chain_index):
        members = np.flatnonzero(chain_index == chain)
        inside = residue_index[members]
        at_end[members] = (inside - inside.min() < terminal) | (inside.max() - inside < terminal)
    return at_end


@dataclass(frozen=True)
class FrameErrors:
    """Errors of each frame over one group of beads: force sums [n_frames, len(COLUMNS)], largest |component error| [n_frames]."""

    sums: np.ndarray
    maximum: np.ndarray

    def select(self, frames: Array) -> "FrameErrors":
        """Return the errors of some frames."""
        return FrameErrors(self.sums[frames], self.maximum[frames])


def errors_by_group(
    predicted: Array, reference: Array, bead_groups: Mapping[str, Array], weight: Array | None = None
) -> dict[str, FrameErrors]:
    """Return {group: FrameErrors} over the beads of each group.

    predicted, reference [n_frames, n_beads, 3] kcal/mol/A; bead_groups {name: [n_beads] bool}, empty ones left out; weight
    [n_frames] of each frame in every sum, 1 where None. Besides those groups: `all`, `component/x|y|z` and `magnitude` (the
    error of |F|).
    """
    predicted, reference = np.asarray(predicted, np.float64), np.asarray(reference, np.float64)
    weights = np.ones(len(predicted)) if weight is None else np.asarray(weight, np.float64)
    groups = {"all": _frame_errors(predicted, reference, weights)}
    for index, name in enumerate("xyz"):
        one = slice(index, index + 1)
        groups[f"component/{name}"] = _frame_errors(predicted[..., one], reference[..., one], weights)
    lengths = [np.linalg.norm(forces, axis=-1, keepdims=True) for forces in (predicted, reference)]
    groups["magnitude"] = _frame_errors(lengths[0], lengths[1], weights)
    for name, members in bead_groups.items():
        if np.any(members):
            groups[name] = _frame_errors(predicted[:, members], reference[:, members], weights)
    return groups


def _frame_errors(predicted: np.ndarray, reference: np.ndarray, weight: np.ndarray) -> FrameErrors:
    return FrameErrors(force_sums(predicted, reference).sum(axis=1) * weight[:, None], np.abs(predicted - reference).max(axis=(1, 2)))
