"""Reader of the original system's prior file, which has one row per term and no format line.

temperature_kelvin: 300
bond: {r0: 3.84, kr: 150.0}          1/2 kr (r - r0)^2
angle: {a: [...], b: [...]}          sum_n a_n cos(n theta) + b_n sin(n theta)
dihedral: {k: [...], gamma: [...]}   sum_n k_n (1 + cos(n phi - gamma_n))
repulsion: {epsilon: 1.0, sigma: 4.0}
spline_file: splines.npz             instead of any bonded term: arrays <term>_x (angstrom or radian), <term>_energy on an even grid
"""

from pathlib import Path
from typing import Any

import numpy as np

from cg_data.errors import UserError, require
from cg_data.mapping import RESIDUE_SPECIES
from cg_priors.boltzmann import least_squares
from cg_priors.config import PriorConfig
from cg_priors.fit_spline import spline_basis
from cg_priors.linear import Row
from cg_priors.parameters import BONDED, PriorParameters, Term, spline_arrays
from cg_priors.validate import AXES

KEYS = {
    "bond": ("harmonic", {"r0": "length", "kr": "force_constant"}),
    "angle": ("fourier", {"a": "cosine", "b": "sine"}),
    "dihedral": ("periodic", {"k": "force_constants", "gamma": "phases"}),
    "repulsion": ("soft_sphere", {"epsilon": "epsilon", "sigma": "sigma"}),
}
INTERVALS = 40
ROUNDING = 1e-5
"""How far the ends of an axis may lie outside it: pi in single precision."""


def parse_original(document: dict[str, Any], path: Path) -> PriorParameters:
    """Return the prior of an original file; default weights, and excluded volume added at its defaults where it has none."""
    temperature = document.get("temperature_kelvin", document.get("temperature"))
    require(
        isinstance(temperature, int | float),
        f"{path}: temperature_kelvin: expected the temperature of the data, received {temperature}: add the line to the file",
    )
    config = PriorConfig()
    stored = spline_arrays(document, path)
    terms: dict[str, Term] = {}
    arrays: dict[str, Row] = {}
    for name, (form, keys) in KEYS.items():
        options = getattr(config, name)
        if name in BONDED and f"{name}_x" in stored:
            terms[name], arrays[name] = _spline(name, options.weight, stored, path)
        elif name in document:
            group = document[name]
            for key in keys:
                require(isinstance(group, dict) and key in group, f"{path}: {name}: expected the key {key!r}: add it")
            try:
                arrays[name] = {ours: np.asarray(group[theirs], np.float64)[None] for theirs, ours in keys.items()}
            except (TypeError, ValueError):
                raise UserError(f"{path}: {name}: expected numbers, received {group}: correct it") from None
            settings = {"switch": options.switch_angstrom, "cutoff": options.cutoff_angstrom} if name == "repulsion" else {}
            weight = group.get("weight", options.weight)
            require(isinstance(weight, int | float), f"{path}: {name}: weight: expected a number, received {weight}: correct it")
            terms[name] = Term(form, float(weight), settings=settings)
    require(
        any(name in terms for name in BONDED),
        f"{path}: expected bond, angle or dihedral, or a spline_file with arrays such as bond_x, received "
        f"{', '.join(str(key) for key in [*document, *stored])}: add them",
    )
    excluded = config.excluded_volume
    if excluded is not None:
        settings = {"switch": excluded.switch_angstrom, "cutoff": excluded.cutoff_angstrom}
        terms["excluded_volume"] = Term("soft_sphere", excluded.weight, settings=settings, notes={"added": "not in the original"})
        arrays["excluded_volume"] = {"epsilon": np.ones(1), "sigma": np.full(1, 4.0)}
    return PriorParameters(RESIDUE_SPECIES, float(temperature or 0), terms, arrays, {"imported_from": path.name})


def _spline(name: str, weight: float, stored: dict[str, np.ndarray], path: Path) -> tuple[Term, Row]:
    require(f"{name}_energy" in stored, f"{path}: spline_file: expected an array '{name}_energy' beside '{name}_x': add it")
    for key in ("x", "energy"):
        kind = stored[f"{name}_{key}"].dtype
        require(kind.kind in "iuf", f"{path}: spline_file: {name}_{key}: expected numbers, received dtype {kind}: correct it")
    x, energy = (np.asarray(stored[f"{name}_{key}"], np.float64) for key in ("x", "energy"))
    require(
        x.shape == energy.shape and x.ndim == 1 and len(x) >= 4,
        f"{path}: {name}: expected x and energy of one length, 4 or more, received {list(x.shape)} and {list(energy.shape)}: correct them",
    )
    low, high = float(x.min()), float(x.max())
    first, last = AXES[name]
    unit = "angstrom" if name == "bond" else "radian"
    require(
        first - ROUNDING <= low < high <= last + ROUNDING,
        f"{path}: spline_file: {name}_x: expected values within {first:.5g} to {last:.5g} {unit}, "
        f"received {low:.5g} to {high:.5g}: convert it to {unit}",
    )
    require(bool(np.isfinite(energy).all()), f"{path}: spline_file: {name}_energy: expected finite numbers, received others: correct it")
    low, high = max(low, first), min(high, last)
    basis = spline_basis(name, low, high, INTERVALS)
    coefficients = least_squares(basis, x, energy, basis.demands(low, high))
    statistics = {"low": np.array([low]), "high": np.array([high]), "count": np.zeros(1)}
    term = Term("spline", weight, settings=basis.settings, statistics=statistics)
    return term, {key: value[None] for key, value in basis.arrays(coefficients).items()}
