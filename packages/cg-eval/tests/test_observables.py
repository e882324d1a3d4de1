"""Observables of structures whose answers are known."""

import numpy as np
import pytest

from cg_data.errors import UserError
from cg_eval import observables

RESIDUES, CHAIN = np.arange(8), np.zeros(8, int)


def rotation(seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


@pytest.fixture
def structure():
    return np.random.default_rng(0).normal(scale=5.0, size=(8, 3))


def test_rg_of_a_rod_equals_its_closed_form():
    n, bond = 50, 3.8
    rod = np.zeros((1, n, 3))
    rod[0, :, 0] = bond * np.arange(n)
    assert observables.radius_of_gyration(rod)[0] == pytest.approx(bond * np.sqrt((n**2 - 1) / 12))


def test_mean_squared_rg_of_an_ideal_chain_equals_its_closed_form():
    n, bond, frames = 20, 3.8, 20_000
    steps = np.random.default_rng(1).normal(size=(frames, n - 1, 3))
    steps *= bond / np.linalg.norm(steps, axis=-1, keepdims=True)
    chain = np.concatenate([np.zeros((frames, 1, 3)), np.cumsum(steps, axis=1)], axis=1)
    squared = observables.radius_of_gyration(chain) ** 2
    expected = bond**2 * (n**2 - 1) / (6 * n)
    assert abs(squared.mean() - expected) < 5 * squared.std() / np.sqrt(frames)
    ends = observables.end_to_end(chain, np.arange(n), np.zeros(n, int))[:, 0] ** 2
    assert abs(ends.mean() - bond**2 * (n - 1)) < 5 * ends.std() / np.sqrt(frames)


def test_rg_weighs_by_mass():
    pair = np.array([[[0.0, 0, 0], [4.0, 0, 0]]])
    assert observables.radius_of_gyration(pair, [3.0, 1.0])[0] == pytest.approx(np.sqrt(3.0))


def test_end_to_end_is_measured_along_residues_and_per_segment():
    x = np.zeros((1, 5, 3))
    x[0, :, 0] = [10.0, 0.0, 5.0, 100.0, 103.0]
    ends = observables.end_to_end(x, [3, 1, 2, 1, 2], [0, 0, 0, 1, 1])
    np.testing.assert_allclose(ends, [[10.0, 3.0]])


def test_rmsd_of_a_rotated_and_moved_copy_is_zero(structure):
    copies = np.stack([structure @ rotation(seed) + seed for seed in range(4)])
    np.testing.assert_allclose(observables.rmsd(copies, structure), 0, atol=1e-9)


def test_rmsd_of_a_mirror_image_is_not_zero(structure):
    assert observables.rmsd((structure * [1, 1, -1])[None], structure)[0] > 1


def test_rmsd_of_a_stretched_pair_equals_its_hand_computed_value():
    first, second = np.array([[0.0, 0, 0], [2.0, 0, 0]]), np.array([[[0.0, 0, 0], [0.0, 4.0, 0]]])
    assert observables.rmsd(second, first)[0] == pytest.approx(1.0)


def test_rmsf_recovers_the_fluctuation_of_each_bead(structure):
    generator = np.random.default_rng(2)
    big = np.concatenate([structure * 10, generator.normal(scale=50, size=(150, 3))])
    spread = np.linspace(0.2, 0.6, len(big))
    frames = np.stack([(big + generator.normal(size=big.shape) * spread[:, None]) @ rotation(k) for k in range(600)])
    np.testing.assert_allclose(observables.rmsf(frames), spread * np.sqrt(3), rtol=0.12)


def test_q_of_the_native_structure_follows_its_definition_and_of_a_blown_up_one_is_zero(structure):
    pairs = observables.native_contacts(structure, RESIDUES, CHAIN, cutoff=15.0)
    r0 = observables.pair_distances(structure[None], pairs)[0]
    expected = np.mean(1 / (1 + np.exp(-5.0 * 0.2 * r0)))
    native, far = observables.fraction_of_native_contacts(np.stack([structure, 10 * structure]), structure, pairs)
    assert native == pytest.approx(expected)
    assert native > 0.9
    assert far < 1e-6


def test_q_without_contacts_is_an_error(structure):
    with pytest.raises(UserError, match="no contacts"):
        observables.fraction_of_native_contacts(structure[None], structure, np.zeros((0, 2), int))


def test_contacts_skip_near_neighbours_but_not_other_segments():
    x = np.zeros((6, 3))
    x[:, 0] = np.arange(6) * 0.1
    one = observables.native_contacts(x, np.arange(6), np.zeros(6, int), smallest_separation=4)
    assert one.tolist() == [[0, 4], [0, 5], [1, 5]]
    two = observables.native_contacts(x, [0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1], smallest_separation=4)
    assert len(two) == 9


def test_contact_map_is_the_fraction_of_frames_in_contact():
    near, far = np.zeros((2, 3)), np.array([[0.0, 0, 0], [20.0, 0, 0]])
    np.testing.assert_allclose(observables.contact_map(np.stack([near, far, far, far])), [[1, 0.25], [0.25, 1]])


def test_clashes_count_close_pairs_that_are_not_bonded():
    x = np.zeros((1, 4, 3))
    x[0, :, 0] = [0.0, 3.8, 3.9, 20.0]
    assert observables.clashes(x, np.arange(4), np.zeros(4, int)).tolist() == [1]
    assert observables.clashes(x, [0, 1, 3, 4], [0, 0, 1, 1]).tolist() == [2]


def test_helicity_of_an_ideal_helix_is_one_and_of_a_strand_zero():
    angles, dihedrals = np.full((2, 5), np.radians(91.0)), np.full((2, 4), np.radians(50.0))
    angles[1], dihedrals[1] = np.radians(120.0), np.radians(-170.0)
    np.testing.assert_allclose(observables.helicity(angles, dihedrals), [1.0, 0.0])
