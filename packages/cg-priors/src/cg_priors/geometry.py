"""Features of bead tuples: distance, bend angle, dihedral; every gradient finite at every configuration.

NumPy or JAX arrays in, the same kind out, in the dtype of the positions.
"""

import numpy as np

from cg_data.contracts import Array
from cg_priors.safe import namespace, safe_arctan2, safe_norm


def distance(points: Array) -> Array:
    """Return |x1 - x0| in angstrom, [..., 2, 3] -> [...]; gradient 0 at coincident points."""
    return safe_norm(points[..., 1, :] - points[..., 0, :])


def bend_angle(points: Array) -> Array:
    """Return the angle at the middle point in [0, pi] radian, [..., 3, 3] -> [...].

    theta = arctan2(|u x v|, u.v) with u, v from the middle to the ends: unlike arccos it neither loses digits nor divides by
    sin(theta) near 0 and pi. Coincident points give 0. The gradient is 0 at exactly collinear points.
    """
    u = points[..., 0, :] - points[..., 1, :]
    v = points[..., 2, :] - points[..., 1, :]
    return safe_arctan2(safe_norm(cross(u, v)), (u * v).sum(-1))


def dihedral_angle(points: Array) -> Array:
    """Return the dihedral of four points in (-pi, pi] radian, IUPAC sign (cis 0, trans pi), [..., 4, 3] -> [...].

    phi = arctan2(|b2| b1.(b2 x b3), (b1 x b2).(b2 x b3)) (Blondel and Karplus, doi:10.1002/(SICI)1096-987X(19960715)17:9%3C1132::
    AID-JCC5%3E3.0.CO;2-T). Where three points are collinear phi is undefined: 0 with gradient 0.
    """
    b1 = points[..., 1, :] - points[..., 0, :]
    b2 = points[..., 2, :] - points[..., 1, :]
    b3 = points[..., 3, :] - points[..., 2, :]
    n1, n2 = cross(b1, b2), cross(b2, b3)
    return safe_arctan2(safe_norm(b2) * (b1 * n2).sum(-1), (n1 * n2).sum(-1))


def feature_gradient(points: np.ndarray) -> np.ndarray:
    """Return the gradient of distance, bend angle or dihedral, by the number of points, with respect to the points.

    NumPy only, [n, width, 3] -> [n, width, 3], closed form, for fits that need it tuple by tuple; 0 at degenerate tuples.
    """
    if points.shape[1] == 2:
        unit = _unit(points[:, 1] - points[:, 0])
        return np.stack([-unit, unit], 1)
    if points.shape[1] == 3:
        u, v = points[:, 0] - points[:, 1], points[:, 2] - points[:, 1]
        plane = np.cross(u, v)
        # Perpendicular to each arm, in the plane, away from the other arm.
        first = _unit(np.cross(u, plane)) / _length(u)
        last = _unit(np.cross(plane, v)) / _length(v)
        return np.stack([first, -first - last, last], 1)
    b1, b2, b3 = (points[:, k + 1] - points[:, k] for k in range(3))
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    middle = _length(b2)
    first = -middle * _unit(n1) / _length(n1)
    last = middle * _unit(n2) / _length(n2)
    along_1 = (b1 * b2).sum(-1, keepdims=True) / middle**2
    along_3 = (b3 * b2).sum(-1, keepdims=True) / middle**2
    second = -first * (1 + along_1) + last * along_3
    return np.stack([first, second, -first - second - last, last], 1)


def _length(vectors: np.ndarray) -> np.ndarray:
    """Return norms [n, 1], never zero."""
    return np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / _length(vectors)


def cross(a: Array, b: Array) -> Array:
    """Return the cross product over the last axis, [..., 3] x [..., 3] -> [..., 3].

    The components lie one after the other in memory, which keeps NumPy's inner loops long where those of the arguments do.
    """
    xp = namespace(a, b)
    a0, a1, a2 = a[..., 0], a[..., 1], a[..., 2]
    b0, b1, b2 = b[..., 0], b[..., 1], b[..., 2]
    return xp.moveaxis(xp.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0]), 0, -1)
