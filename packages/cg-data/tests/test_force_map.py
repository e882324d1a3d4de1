from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from cg_data.atoms import chain_links, make_atom_table, parse_pdb_atoms
from cg_data.config import ForceMapConfig, PrepareConfig
from cg_data.constraints import find_bonds, rigid_bonds, rigid_groups
from cg_data.errors import UserError
from cg_data.force_map import (
    ForceProducts,
    choose_map,
    fit_one,
    group_forces,
    local_supports,
    mean_square,
    reduce_atoms,
    solve_map,
    uniform_map,
)
from cg_data.mdcath import open_mdcath
from cg_data.pipeline import prepare

REFERENCE = Path(__file__).parent / "data" / "aggforce"


@pytest.fixture(scope="module")
def chignolin(chignolin_file):
    """Forces of 160 + 60 frames, the reduction, and the supports of local maps."""
    with open_mdcath(chignolin_file) as opened:
        source = opened.source("5awlA00")
        atoms = source.atoms
        positions, first = source.read(source.trajectories[0], 0, 160)
        _, second = source.read(source.trajectories[1], 0, 60)
    rigid = rigid_bonds(find_bonds(atoms, positions[:5]), atoms.atomic_numbers, "h-bonds", "here")
    anchors = atoms.find("CA", 6)
    beads = csr_array((np.ones(10), (np.arange(10), anchors)), shape=(10, 175))
    reduction = reduce_atoms(rigid_groups(rigid, 175), beads, "here")
    supports = local_supports(atoms.residues, np.arange(10), chain_links(atoms, positions[:5]), 1, reduction.groups)
    return first, second, reduction, supports, rigid, anchors


def products_of(reduction, supports, blocks, whole=True):
    products = ForceProducts(len(blocks), reduction.n_groups, supports, whole)
    for fold, forces in enumerate(blocks):
        products.add(fold, group_forces(reduction, forces))
    return products


def test_the_closed_form_agrees_with_a_brute_force_kkt_solve(chignolin):
    forces, _, reduction, _, rigid, anchors = chignolin
    n_atoms, ridge = 175, 10.0
    flat = forces.astype(np.float64).transpose(0, 2, 1).reshape(-1, n_atoms)
    hessian = 2 * (flat.T @ flat / len(flat) + ridge * np.eye(n_atoms))
    equal = np.zeros((len(rigid), n_atoms))
    equal[np.arange(len(rigid)), rigid[:, 0]], equal[np.arange(len(rigid)), rigid[:, 1]] = 1, -1
    own = np.zeros((10, n_atoms))
    own[np.arange(10), anchors] = 1
    constraints = np.concatenate([own, equal])
    kkt = np.block([[hessian, constraints.T], [constraints, np.zeros((len(constraints),) * 2)]])
    right = np.concatenate([np.zeros((n_atoms, 10)), np.eye(10), np.zeros((len(rigid), 10))])
    brute = np.linalg.solve(kkt, right)[:n_atoms].T
    products = products_of(reduction, [], [forces])
    closed = solve_map(products.whole()[0] / (3 * len(forces)), reduction.sizes, reduction.beads, ridge) @ reduction.groups.toarray()
    np.testing.assert_allclose(closed, brute, rtol=0, atol=1e-10)


def test_a_local_map_agrees_with_a_brute_force_kkt_solve_on_its_support(chignolin):
    forces, _, reduction, supports, _, _ = chignolin
    products = products_of(reduction, supports, [forces], whole=False)
    rows = fit_one("optimal-local", 1.0, products, reduction).toarray()
    grouped = group_forces(reduction, forces)
    for bead, support in enumerate(supports):
        part = grouped[support]
        hessian = 2 * (part @ part.T / part.shape[1] + np.diag(reduction.sizes[support]))
        constraints = reduction.beads[:, support]
        kept = constraints.any(axis=1)
        right = np.concatenate([np.zeros(len(support)), np.eye(10)[bead][kept]])
        constraints = constraints[kept]
        kkt = np.block([[hessian, constraints.T], [constraints, np.zeros((kept.sum(),) * 2)]])
        np.testing.assert_allclose(rows[bead, support], np.linalg.solve(kkt, right)[: len(support)], rtol=0, atol=1e-10)
        assert np.count_nonzero(rows[bead]) <= len(support)


@pytest.mark.parametrize("kind", ["optimal", "optimal-local"])
def test_a_fitted_map_is_consistent_with_the_beads_and_the_constraints(chignolin, kind):
    forces, _, reduction, supports, rigid, anchors = chignolin
    weights = (fit_one(kind, 1.0, products_of(reduction, supports, [forces]), reduction) @ reduction.groups).toarray()
    np.testing.assert_allclose(weights[:, anchors], np.eye(10), atol=1e-10)
    np.testing.assert_allclose(weights[:, rigid[:, 0]], weights[:, rigid[:, 1]], atol=0)


def test_the_variance_on_held_out_frames_is_cut_at_least_threefold_against_the_slice(chignolin):
    fitted, held_out, reduction, supports, _, anchors = chignolin
    products = products_of(reduction, supports, [fitted])
    rows = fit_one("optimal-local", 1.0, products, reduction)
    mapped = np.einsum("ba,fax->fbx", (rows @ reduction.groups).toarray(), held_out.astype(np.float64))
    sliced = held_out[:, anchors].astype(np.float64)
    assert np.mean(mapped**2) < np.mean(sliced**2) / 3
    assert np.mean(mapped**2) == pytest.approx(mean_square(rows, products_of(reduction, supports, [held_out]), reduction), rel=1e-9)


def test_prepare_cuts_the_variance_threefold_and_says_on_which_frames(chignolin_file, tmp_path):
    dataset = prepare(PrepareConfig(inputs=(str(chignolin_file),)), tmp_path / "out")
    record = dataset.domain("5awlA00").force_map
    assert record.kind in ("optimal", "optimal-local")
    assert record.scores[record.kind] < record.scores["slice"] / 3
    assert (record.n_folds, record.n_frames, record.n_constraints) == (5, 220, 78)
    # Scores are of frames left out of the fit; with cross-fitting those are the very forces that are stored.
    stored = np.mean(np.square(dataset.frames("5awlA00").forces, dtype=np.float64))
    assert stored == pytest.approx(record.scores[record.kind], rel=1e-5)


def test_cross_fitted_forces_are_larger_than_those_of_a_map_fitted_on_the_same_frames(chignolin_file, tmp_path):
    def mean_square_of(cross_fit):
        options = {"inputs": [str(chignolin_file)], "force_map": {"cross_fit": cross_fit, "ridges": [0.0]}}
        dataset = prepare(PrepareConfig.parse(options, "test"), tmp_path / str(cross_fit))
        return np.mean(np.square(dataset.frames("5awlA00").forces, dtype=np.float64))

    assert mean_square_of(True) > 1.05 * mean_square_of(False)


def test_few_frames_make_the_full_map_overfit_so_that_it_is_not_chosen(chignolin):
    forces, _, reduction, supports, _, _ = chignolin
    few = products_of(reduction, supports, [forces[:15], forces[15:30]])
    config = ForceMapConfig(ridges=(0.001,), min_frames_per_weight=0.0)
    chosen = choose_map(few, reduction, 780.0, config)
    assert chosen.scores["optimal"] > chosen.scores["uniform"]
    assert chosen.kind != "optimal"


def test_a_map_that_scores_worse_than_uniform_is_refused_and_said_so(chignolin):
    forces, _, reduction, supports, _, _ = chignolin
    few = products_of(reduction, supports, [forces[:3], forces[3:6]])
    chosen = choose_map(few, reduction, 780.0, ForceMapConfig(kind="optimal-local", ridges=(1e-6,)))
    assert chosen.kind == "uniform"
    assert "is not below uniform's; fell back to uniform" in chosen.note
    single = choose_map(products_of(reduction, supports, [forces[:1]]), reduction, 780.0, ForceMapConfig())
    assert (single.kind, single.note) == ("uniform", "optimal refused: too few frames to fit; fell back to uniform")


def test_the_ridge_has_the_best_held_out_score(chignolin):
    forces, _, reduction, supports, _, _ = chignolin
    products = products_of(reduction, supports, [forces[:7], forces[40:47], forces[80:87]])
    ridges = (1e-4, 10.0, 1e6)
    scores = {
        ridge: choose_map(products, reduction, 780.0, ForceMapConfig(kind="optimal-local", ridges=(ridge,))).scores["optimal-local"]
        for ridge in ridges
    }
    chosen = choose_map(products, reduction, 780.0, ForceMapConfig(kind="optimal-local", ridges=ridges))
    assert chosen.ridge == min(scores, key=lambda ridge: scores[ridge]) == 10.0


def test_products_held_per_support_give_the_same_local_map(chignolin):
    forces, held_out, reduction, supports, _, _ = chignolin
    whole = choose_map(products_of(reduction, supports, [forces, held_out]), reduction, 780.0, ForceMapConfig(kind="optimal-local"))
    local = products_of(reduction, supports, [forces, held_out], whole=False)
    streamed = choose_map(local, reduction, 780.0, ForceMapConfig(kind="optimal-local"))
    assert streamed.scores == pytest.approx(whole.scores, rel=1e-9)
    for a, b in zip(whole.weights, streamed.weights, strict=True):
        np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-9)


def reference_atoms():
    text = (REFERENCE / "cln025.pdb").read_text()
    lines = [line for line in text.splitlines() if line.startswith("ATOM")]
    names, residue_names, numbers, codes = parse_pdb_atoms(text, "cln025.pdb")
    atomic_numbers = np.array([{"H": 1, "C": 6, "N": 7, "O": 8}[line[76:78].strip()] for line in lines])
    positions = np.array([[float(line[at : at + 8]) for at in (30, 38, 46)] for line in lines])[None]
    return make_atom_table(names, atomic_numbers, residue_names, numbers, np.zeros(175, "U1"), insertion_codes=codes), positions


def test_rigid_groups_and_the_uniform_map_equal_the_published_implementation():
    atoms, positions = reference_atoms()
    rigid = rigid_bonds(find_bonds(atoms, positions), atoms.atomic_numbers, "h-bonds", "cln025.pdb")
    anchors = atoms.find("CA", 6)
    anchors = anchors[anchors >= 0]
    beads = csr_array((np.ones(10), (np.arange(10), anchors)), shape=(10, 175))
    reduction = reduce_atoms(rigid_groups(rigid, 175), beads, "here")
    np.testing.assert_array_equal(uniform_map(reduction) @ reduction.groups.toarray(), np.loadtxt(REFERENCE / "cln_basic_force_mat.txt"))
    published = np.loadtxt(REFERENCE / "cln_opt_force_mat.txt")
    np.testing.assert_allclose(published[:, anchors], np.eye(10), atol=1e-12)
    np.testing.assert_array_equal(published[:, rigid[:, 0]], published[:, rigid[:, 1]])
    # No weight is shared across groups by chance: the published groups are ours, not finer and not coarser.
    assert len(np.unique(published.round(12), axis=1).T) == reduction.n_groups


def test_two_beads_on_one_rigid_group_are_refused():
    groups = rigid_groups(np.array([[0, 1]]), 3)
    beads = csr_array((np.ones(2), ([0, 1], [0, 1])), shape=(2, 3))
    with pytest.raises(UserError, match="here: two beads share a group"):
        reduce_atoms(groups, beads, "here")


def test_a_local_map_does_not_reach_over_a_chain_break():
    residues = np.array([0, 0, 1, 1, 2, 2, 3])
    groups = rigid_groups(np.zeros((0, 2), int), 7)
    supports = local_supports(residues, np.arange(4), np.array([True, False, True]), 1, groups)
    assert [s.tolist() for s in supports] == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6], [4, 5, 6]]
