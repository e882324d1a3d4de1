"""A prior as OpenMM custom forces: analytic expressions where a form has one, tabulated functions for splines.

OpenMM counts in nm and kJ/mol: expressions convert their coordinate to angstrom and their energy from kcal/mol.
"""

import functools
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cg_data.atomic import atomic_folder
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_data.mapping import RESIDUE_MASSES_AMU
from cg_data.units import KJ_PER_KCAL
from cg_priors.energy import REPULSION_SEPARATION, TERM_KINDS, sequence_separation
from cg_priors.export_lammps import TYPICAL_MASS_AMU
from cg_priors.force_frames import all_pairs_graph
from cg_priors.forms import FORMS, INNER_FRACTION, SMALLEST_SINE_SQUARED
from cg_priors.keys import KEY_COLUMNS, row_lookup
from cg_priors.parameters import BONDED, PriorParameters

NM_PER_ANGSTROM = 0.1
POINTS_PER_INTERVAL = 10
LONGEST_BOND_ANGSTROM = 12.0


def export_openmm(output: Path | str, prior: PriorParameters, molecule: BeadFrames) -> list[Path]:
    """Write `system.xml`, which `openmm.XmlSerializer` reads, into a new folder; return the file."""
    system = openmm_system(prior, molecule)
    with atomic_folder(output) as folder:
        (folder / "system.xml").write_text(_openmm().XmlSerializer.serialize(system))
    return [Path(output) / "system.xml"]


def openmm_system(prior: PriorParameters, molecule: BeadFrames) -> Any:
    """Return an `openmm.System` of the molecule's beads with one custom force per term and row."""
    openmm = _openmm()
    prior.check("export")
    graph = all_pairs_graph(molecule, np.asarray(molecule.positions[0], np.float64))
    system = openmm.System()
    for species in graph.species:
        system.addParticle(RESIDUE_MASSES_AMU.get(prior.species_names[int(species)], TYPICAL_MASS_AMU))
    for name, term in prior.terms.items():
        if name == "repulsion":
            system.addForce(_repulsion(openmm, prior, graph))
            continue
        tuples, mask = TERM_KINDS[name].tuples(graph)
        tuples = tuples[mask]
        if name not in BONDED:
            tuples = tuples[tuples[:, 0] < tuples[:, 1]]
        rows = row_lookup(name, term.rows, prior.species_names)[tuple(graph.species[tuples[:, k]] for k in KEY_COLUMNS[name])]
        for row in np.unique(rows):
            system.addForce(_bonded(openmm, prior, name, int(row), tuples[rows == row]))
    return system


def _openmm() -> Any:
    try:
        return importlib.import_module("openmm")
    except ImportError:
        raise UserError("the openmm format needs OpenMM, which is not installed: pip install 'cg-priors[openmm]'") from None


def _bonded(openmm: Any, prior: PriorParameters, name: str, row: int, tuples: np.ndarray) -> Any:
    """Return the force of one row of a bonded term or of the excluded volume."""
    term = prior.terms[name]
    p = {key: np.asarray(value, np.float64)[row] for key, value in prior.arrays[name].items()}
    scale = term.weight * KJ_PER_KCAL
    width = tuples.shape[1]
    if term.form == "spline":
        coordinate = {2: "distance(p1,p2)/0.1", 3: "angle(p1,p2,p3)", 4: "dihedral(p1,p2,p3,p4)"}[width]
        force = openmm.CustomCompoundBondForce(width, f"{scale!r}*table({coordinate})")
        x = _table_points(name, term.settings, p["coefficients"].shape[-1])
        energy = FORMS["spline"].formula(x, {key: value[None] for key, value in p.items()}, term.settings)
        if name == "dihedral":
            energy[-1] = energy[0]
        force.addTabulatedFunction("table", openmm.Continuous1DFunction(energy.tolist(), float(x[0]), float(x[-1]), name == "dihedral"))
        for beads in tuples:
            force.addBond(beads.tolist(), [])
        return force
    expression = f"{scale!r}*energy; energy={_expression(term.form, p, term.settings)}"
    make = {2: openmm.CustomBondForce, 3: openmm.CustomAngleForce, 4: openmm.CustomTorsionForce}[width]
    force = make(expression + ("; x=r/0.1" if width == 2 else "; x=theta"))
    add = {2: "addBond", 3: "addAngle", 4: "addTorsion"}[width]
    for beads in tuples:
        getattr(force, add)(*beads.tolist(), [])
    return force


def _table_points(name: str, settings: Any, n_coefficients: int) -> np.ndarray:
    """Return even points that contain the knots: OpenMM's cubic interpolation then is the spline itself."""
    intervals = n_coefficients if settings["periodic"] else n_coefficients - 3
    width = (settings["high"] - settings["low"]) / intervals
    below = int(settings["low"] / width) if name == "bond" else 0
    above = int((LONGEST_BOND_ANGSTROM - settings["high"]) / width) if name == "bond" else 0
    steps = np.arange(-below * POINTS_PER_INTERVAL, (intervals + above) * POINTS_PER_INTERVAL + 1)
    return settings["low"] + steps * (width / POINTS_PER_INTERVAL)


def _expression(form: str, p: dict[str, np.ndarray], settings: Any) -> str:
    """Return a form as a Lepton expression of x, angstrom or radian, in kcal/mol."""
    v = {key: float(value) for key, value in p.items() if np.ndim(value) == 0}
    if form == "harmonic":
        return f"0.5*{v['force_constant']!r}*(x-{v['length']!r})^2"
    if form == "cis_trans":
        kt = float(settings["thermal_energy"])
        trans = f"trans=0.5*{v['force_constant']!r}*(x-{v['length']!r})^2"
        cis = f"cis=0.5*{v['cis_force_constant']!r}*(x-{v['cis_length']!r})^2+{v['cis_energy']!r}"
        # Both Boltzmann factors are zero far from the wells.
        return f"min(trans,cis)-{kt!r}*log(1+exp(-abs(trans-cis)/{kt!r})); {trans}; {cis}"
    if form == "fourier":
        return _sum(f"{a!r}*cos({n}*x)+{b!r}*sin({n}*x)" for n, (a, b) in _numbered(p["cosine"], p["sine"]))
    if form == "periodic":
        return _sum(f"{k!r}*(1+cos({n}*x-({g!r})))" for n, (k, g) in _numbered(p["force_constants"], p["phases"]))
    if form == "quartic":
        return _sum(f"{v[key]!r}*(x-{v['angle']!r})^{n}" for key, n in (("quadratic", 2), ("cubic", 3), ("quartic", 4)))
    if form == "restricted":
        return f"0.5*{v['force_constant']!r}*(cos(x)-cos({v['angle']!r}))^2/max(sin(x)^2,{SMALLEST_SINE_SQUARED!r})"
    if form == "gaussians":
        gaussians = enumerate(zip(p["log_weights"].tolist(), p["centres"].tolist(), p["widths"].tolist(), strict=True))
        exponents = [f"e{n}={w!r}+(cos(x-({m!r}))-1)/{s * s!r}" for n, (w, m, s) in gaussians]
        terms = _sum(f"exp(e{n}-largest)" for n in range(len(exponents)))
        # Far from all narrow centres every Gaussian is zero.
        largest = functools.reduce(lambda found, n: f"max({found},e{n})", range(1, len(exponents)), "e0")
        return f"-{float(settings['thermal_energy'])!r}*(largest+log({terms})); largest={largest}; {'; '.join(exponents)}"
    return _soft_sphere("x", repr(v["sigma"]), repr(v["epsilon"]), settings)


def _soft_sphere(x: str, sigma: str, epsilon: str, settings: Any) -> str:
    switch, cutoff = float(settings["switch"]), float(settings["cutoff"])
    inner = f"max({x},{INNER_FRACTION!r}*{sigma})"
    t = f"min(1,max(0,({x}-{switch!r})/{cutoff - switch!r}))"
    return f"{epsilon}*({sigma}/{inner})^4*(1+4*({inner}-{x})/{inner})*(1-({t})^3*(10-15*{t}+6*({t})^2))"


def _repulsion(openmm: Any, prior: PriorParameters, graph: Any) -> Any:
    """Return the pair force between residues six or more apart, by a table of sigma and eps over pairs of species."""
    term = prior.terms["repulsion"]
    lookup = row_lookup("repulsion", term.rows, prior.species_names)
    inner = _soft_sphere("x", "sigma", "eps", term.settings)
    force = openmm.CustomNonbondedForce(
        f"{term.weight * KJ_PER_KCAL!r}*({inner}); x=r/0.1; sigma=sigmas(kind1,kind2); eps=epsilons(kind1,kind2)"
    )
    n = len(prior.species_names)
    for label, key in (("sigmas", "sigma"), ("epsilons", "epsilon")):
        table = np.asarray(prior.arrays["repulsion"][key], np.float64)[lookup]
        force.addTabulatedFunction(label, openmm.Discrete2DFunction(n, n, table.reshape(-1).tolist()))
    force.addPerParticleParameter("kind")
    for species in graph.species:
        force.addParticle([float(species)])
    first, second = np.triu_indices(graph.n_beads, 1)
    near = sequence_separation(graph.residue_index, graph.chain_index, first, second) < REPULSION_SEPARATION
    for i, j in zip(first[near].tolist(), second[near].tolist(), strict=True):
        force.addExclusion(i, j)
    force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffNonPeriodic)
    force.setCutoffDistance(float(term.settings["cutoff"]) * NM_PER_ANGSTROM)
    return force


def _numbered(*arrays: np.ndarray) -> Any:
    return enumerate(zip(*(array.tolist() for array in arrays), strict=True), 1)


def _sum(parts: Iterable[str]) -> str:
    return "+".join(f"({part})" for part in parts)
