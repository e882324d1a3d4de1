"""Formulas of one coordinate: what a bond, an angle, a dihedral or a pair costs, in kcal/mol.

`formula(x, p, settings)`: x [n] angstrom or radian; p maps parameter names to arrays with leading axis n (or 1, broadcast);
settings are fixed numbers of the term. Returns [n] kcal/mol. NumPy or JAX arrays in, the same kind out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np

from cg_data.contracts import Array
from cg_priors.safe import namespace

Parameters = Mapping[str, Array]
Settings = Mapping[str, float]


@dataclass(frozen=True)
class Form:
    """One functional form.

    parameters: name -> unit, the arrays it reads; energies: the names that scale with an energy (times T'/T in `.at(T')`);
    settings: names of fixed numbers it needs; energy_settings: those of them that scale with an energy.
    """

    formula: Callable[[Array, Parameters, Settings], Array]
    parameters: Mapping[str, str]
    energies: tuple[str, ...]
    settings: tuple[str, ...] = ()
    energy_settings: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()


def harmonic(x: Array, p: Parameters, settings: Settings) -> Array:
    """Return 1/2 k (x - x0)^2."""
    return 0.5 * p["force_constant"] * (x - p["length"]) ** 2


def cis_trans(x: Array, p: Parameters, settings: Settings) -> Array:
    """Return two harmonic wells joined as their populations are: -kB T ln(sum of both Boltzmann factors).

    The trans well is at `length`; the cis well, `cis_energy` higher, at `cis_length`. For the bond before proline.
    """
    xp = namespace(x, dict(p))
    kt = settings["thermal_energy"]
    trans = 0.5 * p["force_constant"] * (x - p["length"]) ** 2
    cis = 0.5 * p["cis_force_constant"] * (x - p["cis_length"]) ** 2 + p["cis_energy"]
    return -kt * xp.logaddexp(-trans / kt, -cis / kt)


def series(x: Array, a: Array, b: Array) -> Array:
    """Return sum_n a_n cos(n x) + b_n sin(n x), n = 1..order, [...]; a, b [..., order]; by the angle-sum recurrence.

    Summed term by term: stacking the harmonics first makes XLA compute each of them from the first one again.
    """
    xp = namespace(x, a, b)
    c1, s1 = xp.cos(x), xp.sin(x)
    c, s = c1, s1
    total = a[..., 0] * c + b[..., 0] * s
    for n in range(1, a.shape[-1]):
        c, s = c * c1 - s * s1, s * c1 + c * s1
        total = total + a[..., n] * c + b[..., n] * s
    return total


def fourier(x: Array, p: Parameters, settings: Settings) -> Array:
    """Return sum_n a_n cos(n x) + b_n sin(n x), n = 1..order."""
    return series(x, p["cosine"], p["sine"])


def periodic(x: Array, p: Parameters, settings: Settings) -> Array:
    """Return sum_n k_n (1 + cos(n x - gamma_n)), n = 1..order."""
    xp = namespace(x, dict(p))
    k, phases = p["force_constants"], p["phases"]
    return k.sum(-1) + series(x, k * xp.cos(phases), k * xp.sin(phases))


def quartic(x: Array, p: Parameters, settings: Settings) -> Array:
    """Return k2 d^2 + k3 d^3 + k4 d^4 with d = x - x0 (the convention of LAMMPS `angle_style quartic`)."""
    d = x - p["angle"]
    return d * d * (p["quadratic"] + d * (p["cubic"] + d * p["quartic"]))


SMALLEST_SINE_SQUARED = 1e-6
"""Below this sin^2(theta) the restricted-bending wall is held at its value there: within 0.06 degrees of a straight line."""


def restricted(x: Array, p: Parameters, settings: Settings) -> Array:
    """Return 1/2 k (cos x - cos x0)^2 / sin^2 x, which walls off 0 and pi (Bulacu et al., doi:10.1021/ct400219n, eq. 4)."""
    xp = namespace(x, dict(p))
    sine_squared = xp.maximum(xp.sin(x) ** 2, SMALLEST_SINE_SQUARED)
    return 0.5 * p["force_constant"] * (xp.cos(x) - xp.cos(p["angle"])) ** 2 / sine_squared


def gaussians(x: Array, p: Parameters, settings: Settings) -> Array:
    """Return -kB T ln sum_i w_i exp((cos(x - m_i) - 1) / s_i^2): periodic Gaussians of centre m_i, width s_i, stored as ln w_i."""
    xp = namespace(x, dict(p))
    exponents = p["log_weights"] + (xp.cos(x[..., None] - p["centres"]) - 1) / p["widths"] ** 2
    largest = exponents.max(-1, keepdims=True)
    if xp is not np:
        # It cancels; its own derivative asks which exponent equals it, and a compiler that computes them twice may find none.
        largest = jax.lax.stop_gradient(largest)
    return -settings["thermal_energy"] * (largest[..., 0] + xp.log(xp.exp(exponents - largest).sum(-1)))


def spline(x: Array, p: Parameters, settings: Settings) -> Array:
    """Return the uniform cubic B-spline with these coefficients on [low, high]; twice continuously differentiable.

    Outside a range that is not periodic it goes on as the parabola with the value, slope and curvature of the end. A spline
    of m coefficients has m - 3 intervals, or m where it is periodic.
    """
    xp = namespace(x, dict(p))
    coefficients = p["coefficients"]
    low, high, is_periodic = settings["low"], settings["high"], bool(settings["periodic"])
    n = coefficients.shape[-1]
    width = (high - low) / (n if is_periodic else n - 3)
    position = (x - low) / width
    inside = position if is_periodic else xp.clip(position, 0, n - 3)
    first = xp.floor(inside).astype(np.int32)
    if not is_periodic:
        first = xp.clip(first, 0, n - 4)
    t = inside - first
    columns = (first[..., None] + xp.arange(4)) % n
    c = xp.take_along_axis(xp.broadcast_to(coefficients, (*x.shape, n)), columns, -1)
    c0, c1, c2, c3 = c[..., 0], c[..., 1], c[..., 2], c[..., 3]
    value = ((1 - t) ** 3 * c0 + (3 * t**3 - 6 * t**2 + 4) * c1 + (-3 * t**3 + 3 * t**2 + 3 * t + 1) * c2 + t**3 * c3) / 6
    if is_periodic:
        return value
    slope = (-((1 - t) ** 2) * c0 + (3 * t**2 - 4 * t) * c1 + (-3 * t**2 + 2 * t + 1) * c2 + t**2 * c3) / 2
    curvature = (1 - t) * c0 + (3 * t - 2) * c1 + (1 - 3 * t) * c2 + t * c3
    beyond = position - inside
    return value + beyond * (slope + 0.5 * beyond * curvature)


INNER_FRACTION = 0.25
"""Below this fraction of sigma the soft sphere goes on along its tangent: coincident beads have a finite energy and force."""


def soft_sphere(x: Array, p: Parameters, settings: Settings) -> Array:
    """Return eps (sigma/r)^4 S(r), S falling smoothly (C2) from 1 at `switch` to 0 at `cutoff`, both in angstrom."""
    xp = namespace(x, dict(p))
    inner = INNER_FRACTION * p["sigma"]
    r = xp.maximum(x, inner)
    power = (p["sigma"] / r) ** 4
    tangent = power * (1 + 4 * (r - x) / r)
    t = xp.clip((x - settings["switch"]) / (settings["cutoff"] - settings["switch"]), 0, 1)
    return p["epsilon"] * tangent * (1 - t**3 * (10 - 15 * t + 6 * t**2))


def soft_sphere_slope(x: np.ndarray, sigma: np.ndarray, settings: Settings) -> np.ndarray:
    """Return the derivative of `soft_sphere` with eps = 1, [n] per angstrom; NumPy."""
    r = np.maximum(x, INNER_FRACTION * sigma)
    power = (sigma / r) ** 4
    width = settings["cutoff"] - settings["switch"]
    t = np.clip((x - settings["switch"]) / width, 0, 1)
    switch = 1 - t**3 * (10 - 15 * t + 6 * t**2)
    return -4 * power / r * switch - power * (1 + 4 * (r - x) / r) * 30 * t**2 * (1 - t) ** 2 / width


FORMS: Mapping[str, Form] = {
    "harmonic": Form(harmonic, {"force_constant": "kcal/mol/angstrom^2", "length": "angstrom"}, ("force_constant",)),
    "cis_trans": Form(
        cis_trans,
        {
            "force_constant": "kcal/mol/angstrom^2",
            "length": "angstrom",
            "cis_force_constant": "kcal/mol/angstrom^2",
            "cis_length": "angstrom",
            "cis_energy": "kcal/mol",
        },
        ("force_constant", "cis_force_constant", "cis_energy"),
        ("thermal_energy",),
        ("thermal_energy",),
    ),
    "fourier": Form(fourier, {"cosine": "kcal/mol", "sine": "kcal/mol"}, ("cosine", "sine"), vectors=("cosine", "sine")),
    "quartic": Form(
        quartic,
        {"angle": "radian", "quadratic": "kcal/mol/radian^2", "cubic": "kcal/mol/radian^3", "quartic": "kcal/mol/radian^4"},
        ("quadratic", "cubic", "quartic"),
    ),
    "restricted": Form(restricted, {"force_constant": "kcal/mol", "angle": "radian"}, ("force_constant",)),
    "periodic": Form(
        periodic, {"force_constants": "kcal/mol", "phases": "radian"}, ("force_constants",), vectors=("force_constants", "phases")
    ),
    "gaussians": Form(
        gaussians,
        {"log_weights": "1", "centres": "radian", "widths": "radian"},
        (),
        ("thermal_energy",),
        ("thermal_energy",),
        ("log_weights", "centres", "widths"),
    ),
    "spline": Form(spline, {"coefficients": "kcal/mol"}, ("coefficients",), ("low", "high", "periodic"), vectors=("coefficients",)),
    "soft_sphere": Form(soft_sphere, {"epsilon": "kcal/mol", "sigma": "angstrom"}, ("epsilon",), ("switch", "cutoff")),
}
"""Every form by its name in files and configurations."""
