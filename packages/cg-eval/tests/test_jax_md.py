"""A bundle's energy on jax-md's own neighbour lists, in jax-md's own integrator."""

import jax
import numpy as np
import pytest
from jax_md import partition, simulate, space

from cg_models.testing import random_chain

POSITIONS = random_chain(12)
RESIDUES = ["ALA", "GLY", "LEU", "SER"] * 3


def neighbour_lists(bundle, list_format=partition.Dense):
    return partition.neighbor_list(space.free()[0], 60.0, bundle.cutoff_angstrom, dr_threshold=1.0, format=list_format)


def test_a_bundle_has_the_same_energy_on_the_neighbour_lists_of_jax_md(prior_bundle):
    found = [neighbour_lists(prior_bundle, kind).allocate(POSITIONS) for kind in (partition.Dense, partition.OrderedSparse)]
    energy = jax.value_and_grad(prior_bundle.jax_md_energy(RESIDUES))
    results = jax.jit(lambda x, found: [energy(x, one) for one in found])(POSITIONS, found)
    energies, forces = prior_bundle.energy_and_forces(prior_bundle.graph(POSITIONS, RESIDUES))
    assert np.abs(prior_bundle.model.energy_terms(prior_bundle.params, prior_bundle.graph(POSITIONS, RESIDUES))["repulsion"]).max() > 0
    for value, gradient in results:
        np.testing.assert_allclose(value, energies.sum(), rtol=1e-6)
        np.testing.assert_allclose(gradient, -forces, rtol=1e-5, atol=1e-5)


def test_the_integrator_of_jax_md_keeps_the_energy_of_a_bundle(prior_bundle):
    energy = prior_bundle.jax_md_energy(RESIDUES)
    found = neighbour_lists(prior_bundle).allocate(POSITIONS)
    start, step = simulate.nve(energy, space.free()[1], dt=0.02)
    state = start(jax.random.key(0), POSITIONS, 0.6, mass=110.0, neighbor=found)

    @jax.jit
    def advance(state, found):
        def one(_, carry):
            state, found = carry
            found = found.update(state.position)
            return step(state, neighbor=found), found

        state, found = jax.lax.fori_loop(0, 200, one, (state, found))
        return state, energy(state.position, found) + (state.momentum**2).sum() / (2 * 110.0)

    state, first = advance(state, found)
    later, last = advance(state, found)
    assert np.abs(later.position - state.position).max() > 0.1
    assert float(last) == pytest.approx(float(first), abs=0.02)
