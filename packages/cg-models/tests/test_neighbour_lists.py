"""Energies on neighbour lists as jax-md makes them; with jax-md itself in cg-eval's tests."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.topology import neighbour_edges
from cg_models.bundle import load_bundle
from cg_models.testing import SPECIES, random_chain

N = 8
RESIDUES = [SPECIES[i % len(SPECIES)] for i in range(N)]


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(Path(__file__).parent / "data" / "bundle_v1")


def lists(positions, cutoff, spare=3):
    """The same pairs in the three formats, with free slots, and in the dense one with beads that neighbour themselves."""
    senders, receivers = neighbour_edges(positions, cutoff)
    rows = [[bead, *senders[receivers == bead]] for bead in range(N)]
    dense = np.full((N, max(map(len, rows)) + spare), N)
    for bead, row in enumerate(rows):
        dense[bead, : len(row)] = row
    free = np.full((2, spare), N)
    sparse = np.concatenate([np.stack([receivers, senders]), free], 1)
    ordered = np.concatenate([np.stack([receivers, senders])[:, receivers < senders], free], 1)
    return {name: jnp.asarray(idx) for name, idx in (("Dense", dense), ("Sparse", sparse), ("OrderedSparse", ordered))}


def neighbour_list(name, idx, code):
    return SimpleNamespace(idx=idx, format=SimpleNamespace(name=name), error=SimpleNamespace(code=code))


@pytest.fixture(scope="module")
def evaluated(bundle):
    """Values and gradients without a list and with each kind of it, at an error code."""
    positions = random_chain(N)
    energy = jax.value_and_grad(bundle.jax_md_energy(RESIDUES))
    found = lists(positions, bundle.cutoff_angstrom)

    @jax.jit
    def evaluate(x, code):
        return [energy(x), *(energy(x, neighbour_list(name, idx, code)) for name, idx in found.items())]

    return lambda code: evaluate(positions, np.uint8(code))


def test_every_format_of_list_gives_the_energy_and_forces_of_the_graph(bundle, evaluated):
    energies, forces = bundle.energy_and_forces(bundle.graph(random_chain(N), RESIDUES))
    results = evaluated(0)
    assert len(results) == 4
    for value, gradient in results:
        np.testing.assert_allclose(value, energies.sum(), rtol=1e-6)
        np.testing.assert_allclose(gradient, -forces, rtol=1e-5, atol=1e-5)


def test_a_list_that_overflowed_gives_no_number(evaluated):
    for value, gradient in evaluated(1)[1:]:
        assert np.isnan(value)
        assert np.isnan(gradient).all()


@pytest.mark.parametrize("idx", [np.zeros((N, 0), int), np.full((N, 1), N), np.arange(N)[:, None]], ids=["no column", "free", "itself"])
def test_beads_without_neighbours_have_the_energy_of_beads_alone(bundle, idx):
    positions = 100.0 * random_chain(N)
    energy = bundle.jax_md_energy(RESIDUES, part="backbone")
    alone = bundle.energy_fn("backbone")(bundle.params, bundle.graph(positions, RESIDUES)).sum()
    np.testing.assert_allclose(energy(positions, neighbour_list("Dense", jnp.asarray(idx), np.uint8(0))), alone, rtol=1e-6)


def test_a_bead_that_was_lost_is_not_a_bead_alone(bundle):
    positions = random_chain(N)
    positions[2] = np.nan
    found = neighbour_list("Sparse", jnp.zeros((2, 0), int), np.uint8(0))
    assert np.isnan(bundle.jax_md_energy(RESIDUES, part="backbone")(positions, found))


def test_a_periodic_box_changes_nothing_when_beads_move_by_whole_boxes(bundle):
    box = 40.0
    positions = random_chain(N)
    moved = positions + box * np.array([1.0, -2.0, 0.0])

    def displacement(first, second):
        apart = first - second
        return apart - box * jnp.round(apart / box)

    # Two chains, one of them moved as a whole: its bonds stay short, its pairs with the other are nearest images.
    both, split = np.concatenate([positions, positions[:3] + 6.0]), np.concatenate([positions, moved[:3] + 6.0])
    chains = np.repeat([0, 1], [N, 3])
    energy = jax.jit(jax.value_and_grad(bundle.jax_md_energy([*RESIDUES, *RESIDUES[:3]], chain_index=chains, displacement=displacement)))
    expected, expected_gradient = energy(both)
    value, gradient = energy(split)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)
    free = bundle.graph(both, [*RESIDUES, *RESIDUES[:3]], chain_index=chains)
    np.testing.assert_allclose(expected, bundle.energy(free).sum(), rtol=1e-6)
