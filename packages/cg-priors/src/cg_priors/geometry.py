"""Features of bead tuples: distance, bend angle, dihedral; every gradient finite at every configuration.

NumPy or JAX arrays in, the same kind out, in the dtype of the positions. The steps from point to point are held by component, in
arrays of their own: loops over [n] fill vector registers, loops over [n, 3] do not.
"""

from collections.abc import Callable

import numpy as np

from cg_data.contracts import Array
from cg_priors.safe import safe_arctan2, safe_root

Vector = tuple[Array, Array, Array]
"""Components x, y, z of vectors, each [...]."""


def distance(points: Array) -> Array:
    """Return |x1 - x0| in angstrom, [..., 2, 3] -> [...]; gradient 0 at coincident points."""
    return step_length(*steps(points))


def bend_angle(points: Array) -> Array:
    """Return the angle at the middle point in [0, pi] radian, [..., 3, 3] -> [...]; see `step_bend`."""
    return step_bend(*steps(points))


def dihedral_angle(points: Array) -> Array:
    """Return the dihedral of four points in (-pi, pi] radian, IUPAC sign (cis 0, trans pi), [..., 4, 3] -> [...].

    See `step_dihedral`.
    """
    return step_dihedral(*steps(points))


def steps(points: Array) -> list[Vector]:
    """Return the vectors from each point to the next, [..., width, 3] -> width - 1 vectors of [...]."""
    x, y, z = (points[..., c] for c in range(3))
    return [(x[..., k + 1] - x[..., k], y[..., k + 1] - y[..., k], z[..., k + 1] - z[..., k]) for k in range(points.shape[-2] - 1)]


def step_length(step: Vector) -> Array:
    """Return the length of a step in its unit, [...]; gradient 0 at zero length."""
    return safe_root(_dot(step, step))


def step_bend(first: Vector, second: Vector, *, arctan2: Callable[[Array, Array], Array] = safe_arctan2) -> Array:
    """Return the angle in [0, pi] radian between the way back and the way on, [...].

    theta = arctan2(|a x b|, -a.b): unlike arccos it neither loses digits nor divides by sin(theta) near 0 and pi. A step of no
    length gives 0. The gradient is 0 at exactly collinear points.
    """
    normal = _cross(first, second)
    return arctan2(safe_root(_dot(normal, normal)), -_dot(first, second))


def step_dihedral(first: Vector, second: Vector, third: Vector, *, arctan2: Callable[[Array, Array], Array] = safe_arctan2) -> Array:
    """Return the dihedral of three steps in (-pi, pi] radian, IUPAC sign, [...].

    phi = arctan2(|b2| b1.(b2 x b3), (b1 x b2).(b2 x b3)) (Blondel and Karplus, doi:10.1002/(SICI)1096-987X(19960715)17:9%3C1132::
    AID-JCC5%3E3.0.CO;2-T). Where three points are collinear phi is undefined: 0 with gradient 0.
    """
    n1, n2 = _cross(first, second), _cross(second, third)
    return arctan2(step_length(second) * _dot(first, n2), _dot(n1, n2))


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


def _dot(a: Vector, b: Vector) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
