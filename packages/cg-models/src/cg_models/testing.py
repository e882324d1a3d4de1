# ruff: noqa: D102 - the name of a test is its claim
"""Claims that every backbone must hold, as a class of tests that its own test class inherits.

    class TestAllegro(BackboneClaims):
        backbone = AllegroConfig(layers=2, num_features=4)
        golden = (0.123, -0.456)

Run by pytest with `jax_enable_x64` on; needs nothing but this package.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.configuration import Configuration
from cg_data.contracts import Array, BeadGraph
from cg_data.topology import frame_graph
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.graph import in_rows, pack, plan_budget
from cg_models.hybrid import Model, build_model, scale_backbone
from cg_models.statistics import ModelStatistics

SPECIES = ("ALA", "GLY", "LYS", "TRP")
CUTOFF = 9.0
EXACT = 1e-10
"""Relative tolerance of identities in float64."""
SINGLE = 2e-5
"""Relative tolerance of identities in float32."""
PRECISIONS = {"float64": EXACT, "float32": SINGLE}
DERIVATIVE = 1e-6
"""Relative tolerance of a central difference in float64."""
GRID = 2.0**-12
"""Positions that are multiples of this, angstrom, are the same chain in float32 when it is moved by a hundred angstrom."""
BUDGET_BEADS, BUDGET_EDGES = 14, 14 * 13


def random_chain(n_beads: int, seed: int = 0, bond: float = 3.8, closest: float = 3.5) -> np.ndarray:
    """Return a compact self-avoiding chain, [n_beads, 3] float64 angstrom."""
    rng = np.random.default_rng(seed)
    points = [np.zeros(3)]
    while len(points) < n_beads:
        step = rng.normal(size=3) - 0.15 * (points[-1] - np.mean(points, 0))
        candidate = points[-1] + bond * step / np.linalg.norm(step)
        if min(np.linalg.norm(candidate - point) for point in points) > closest:
            points.append(candidate)
    return np.asarray(points)


def random_rotation(seed: int = 0) -> np.ndarray:
    """Return a proper rotation, [3, 3] float64, uniform over SO(3)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def chain_graph(positions: Array, seed: int = 0, cutoff: float = CUTOFF, padded: bool = True) -> BeadGraph:
    """Return the flat graph of a chain of random species, padded to the one size that most claims share."""
    n_beads = len(positions)
    species = np.random.default_rng(seed).integers(0, len(SPECIES), n_beads).astype(np.int32)
    index = np.arange(n_beads, dtype=np.int32)
    graph = frame_graph(positions, species, index, np.zeros(n_beads, np.int32), cutoff)
    if not padded:
        return graph
    budget = dataclasses.replace(plan_budget([graph], 1), n_beads=BUDGET_BEADS, n_edges=BUDGET_EDGES)
    tuples = {"n_bonds": BUDGET_BEADS, "n_angles": BUDGET_BEADS, "n_dihedrals": BUDGET_BEADS}
    return pack([graph], dataclasses.replace(budget, **tuples))


@functools.cache
def _built(options: str) -> tuple[Model, Any, Callable[..., tuple[Array, Array]]]:
    config = ModelConfig.parse(json.loads(options), "test")
    statistics = ModelStatistics(avg_num_neighbors=6.0, species_offsets=(0.1, -0.2, 0.3, 0.0))
    model = build_model(config, SPECIES, None, statistics)
    if config.precision == "float64":
        params = model.init(jax.random.key(7))
    else:
        exact = config.model_copy(update={"precision": "float64"})
        params = jax.tree.map(lambda leaf: leaf.astype(config.precision), _built(_key(exact))[1])
    return model, params, jax.jit(energy_and_forces(model.energy))


def _key(config: ModelConfig) -> str:
    return json.dumps(config.to_dict(), sort_keys=True)


class BackboneClaims:
    """Inherit, set `backbone` (options of a small model) and `golden` (first energies), and pytest checks the contract.

    chiral: options of a model that tells mirror images apart, or None where the backbone cannot.
    """

    backbone: ClassVar[Configuration]
    golden: ClassVar[tuple[float, ...]]
    chiral: ClassVar[Configuration | None] = None

    def built(
        self, precision: str = "float64", backbone: Configuration | None = None
    ) -> tuple[Model, Any, Callable[..., tuple[Array, Array]]]:
        """Return the model, its parameters and its compiled energies and forces; those of float32 are the same network, rounded."""
        options = {"mode": "backbone", "cutoff_angstrom": CUTOFF, "precision": precision, "backbone": (backbone or self.backbone).to_dict()}
        return _built(_key(ModelConfig.parse(options, "test")))

    def evaluate(
        self, graph: BeadGraph, precision: str = "float64", backbone: Configuration | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return energies and forces of a graph, whose positions are taken in that precision, as NumPy arrays."""
        _, params, compiled = self.built(precision, backbone)
        energies, forces = compiled(params, _in(graph, precision))
        return np.asarray(energies), np.asarray(forces)

    def test_forces_equal_negative_energy_gradient(self) -> None:
        # Differences are those of float64 energies: float32 ones are too coarse for any step.
        positions = random_chain(12)
        graph = chain_graph(positions)
        step, directions = 1e-4, np.random.default_rng(1).normal(size=(12, 12, 3))
        for precision, tolerance in (("float64", DERIVATIVE), ("float32", SINGLE)):
            forces = self.evaluate(graph, precision)[1][:12]
            for direction in directions:
                sides = [np.pad(positions + sign * step * direction, ((0, 2), (0, 0))) for sign in (1, -1)]
                up, down = (self.evaluate(dataclasses.replace(graph, positions=side))[0].sum() for side in sides)
                size = max(1.0, np.abs(forces * direction).sum()) if precision == "float32" else 1.0
                np.testing.assert_allclose((down - up) / (2 * step), (forces * direction).sum(), rtol=tolerance, atol=tolerance * size)

    def test_rotation_turns_forces_and_leaves_energies(self) -> None:
        positions, rotation = random_chain(12), random_rotation()
        for precision, tolerance in PRECISIONS.items():
            energies, forces = self.evaluate(chain_graph(positions), precision)
            turned, turned_forces = self.evaluate(chain_graph(positions @ rotation.T), precision)
            assert_close(turned, energies, tolerance)
            assert_close(turned_forces, forces @ rotation.T, tolerance)

    def test_reflection_leaves_energies_of_a_model_with_parity(self) -> None:
        positions = random_chain(12)
        for precision, tolerance in PRECISIONS.items():
            energies, forces = self.evaluate(chain_graph(positions), precision)
            mirrored, mirrored_forces = self.evaluate(chain_graph(positions * [1, 1, -1]), precision)
            assert_close(mirrored, energies, tolerance)
            assert_close(mirrored_forces, forces * [1, 1, -1], tolerance)

    def test_without_parity_a_chain_differs_from_its_mirror_image(self) -> None:
        # In float64 alone: the difference of these small networks can be less than float32's rounding.
        if self.chiral is None:
            return
        positions = random_chain(12)
        energies, _ = self.evaluate(chain_graph(positions), backbone=self.chiral)
        mirrored, _ = self.evaluate(chain_graph(positions * [1, 1, -1]), backbone=self.chiral)
        turned, _ = self.evaluate(chain_graph(positions @ random_rotation().T), backbone=self.chiral)
        assert np.abs(mirrored - energies).max() > 1e-8 * np.abs(energies).max()
        assert_close(turned, energies, EXACT)

    def test_translation_changes_nothing(self) -> None:
        positions = _on_grid(random_chain(12))
        for precision, tolerance in PRECISIONS.items():
            moved = self.evaluate(chain_graph(positions + np.array([3.0, -20.0, 7.5])), precision)
            assert_close(moved, self.evaluate(chain_graph(positions), precision), tolerance)

    def test_permuted_beads_and_edges_permute_the_result(self) -> None:
        rng = np.random.default_rng(3)
        graph = chain_graph(random_chain(12))
        order, edges = rng.permutation(BUDGET_BEADS), rng.permutation(BUDGET_EDGES)
        place = np.argsort(order).astype(np.int32)
        beads = ("positions", "species", "residue_index", "chain_index", "frame", "bead_mask")
        permuted = dataclasses.replace(
            graph,
            **{name: getattr(graph, name)[order] for name in beads},
            senders=place[graph.senders][edges],
            receivers=place[graph.receivers][edges],
            edge_mask=graph.edge_mask[edges],
        )
        for precision, tolerance in PRECISIONS.items():
            energies, forces = self.evaluate(graph, precision)
            permuted_energies, permuted_forces = self.evaluate(permuted, precision)
            assert_close(permuted_energies, energies[order], tolerance)
            assert_close(permuted_forces, forces[order], tolerance)

    def test_padding_of_beads_and_edges_changes_nothing(self) -> None:
        positions = random_chain(12)
        energies, forces = self.evaluate(chain_graph(positions, padded=False))
        for precision, tolerance in (("float64", 1e-12), ("float32", SINGLE)):
            padded, padded_forces = self.evaluate(chain_graph(positions), precision)
            assert_close(padded[:12], energies, tolerance)
            assert_close(padded_forces[:12], forces, tolerance)
            assert not padded[12:].any()
            assert not padded_forces[12:].any()

    def test_coincident_padding_and_garbage_edges_change_nothing(self) -> None:
        rng = np.random.default_rng(5)
        for precision, tolerance in (("float64", 1e-12), ("float32", 2e-6)):
            graph = chain_graph(random_chain(12))
            positions = graph.positions.copy()
            positions[12:] = positions[0]
            used = graph.edge_mask
            ends = (np.where(used, edges, rng.integers(0, 12, len(used))).astype(np.int32) for edges in (graph.senders, graph.receivers))
            spoilt = dataclasses.replace(graph, positions=positions, **dict(zip(("senders", "receivers"), ends, strict=True)))
            assert_close(self.evaluate(spoilt, precision), self.evaluate(graph, precision), tolerance)

    def test_the_gradient_of_a_force_loss_is_finite_with_padding_and_coincident_beads(self) -> None:
        for precision in PRECISIONS:
            model, params, _ = self.built(precision)
            energy = energy_and_forces(model.energy)
            gradient = jax.jit(jax.grad(lambda p, graph, energy=energy: (energy(p, graph)[1] ** 2).sum()))
            for positions in (random_chain(12), *_nearly_coincident()):
                leaves = jax.tree.leaves(gradient(params, _in(chain_graph(positions), precision)))
                assert all(np.isfinite(leaf).all() for leaf in leaves)
                assert any(np.abs(leaf).max() > 0 for leaf in leaves)

    def test_coincident_beads_give_finite_energies_and_forces(self) -> None:
        for precision in PRECISIONS:
            (energies, forces), *others = (self.evaluate(chain_graph(positions), precision) for positions in _nearly_coincident())
            assert np.isfinite(energies).all()
            assert np.isfinite(forces).all()
            assert_close(others, [(energies, forces)] * len(others), SINGLE)

    def test_beads_without_neighbours_have_their_species_energy_and_no_force(self) -> None:
        graph = chain_graph(100.0 * random_chain(12))
        for precision, tolerance in PRECISIONS.items():
            energies, forces = self.evaluate(graph, precision)
            of_species = dict(zip(graph.species[:12].tolist(), energies[:12], strict=True))
            assert_close(energies[:12], np.array([of_species[kind] for kind in graph.species[:12]]), tolerance)
            assert np.isfinite(energies).all()
            assert not forces.any()
            alone, force = self.evaluate(chain_graph(np.zeros((1, 3))), precision)
            assert_close(alone[:1], energies[:1], tolerance)
            assert not force.any()

    def test_separated_fragments_add(self) -> None:
        first, second = _on_grid(random_chain(6, 1)), _on_grid(random_chain(6, 2))
        together = chain_graph(np.concatenate([first, second + 100.0]))
        for precision, tolerance in PRECISIONS.items():
            energies, forces = self.evaluate(together, precision)
            for n, part in enumerate((first, second)):
                graph = chain_graph(part)
                graph = dataclasses.replace(graph, species=np.roll(together.species, -6 * n))
                part_energies, part_forces = self.evaluate(graph, precision)
                assert_close(energies[6 * n : 6 * n + 6], part_energies[:6], tolerance)
                assert_close(forces[6 * n : 6 * n + 6], part_forces[:6], tolerance)

    def test_energy_force_and_its_derivative_vanish_at_the_cutoff(self) -> None:
        # Bead 2 crosses the cutoff of bead 0 and stays within that of bead 1. Towards the cutoff its part of a C2 energy falls
        # at least as distance^3, of the force as distance^2, of the force's derivative as distance.
        def at(gap: float, precision: str = "float64") -> tuple[float, float]:
            positions = np.array([[0.0, 0, 0], [4.0, 1.0, 0.5], [CUTOFF - gap, 0.0, 0.0]])
            graph = chain_graph(positions)
            senders, receivers = graph.senders, graph.receivers
            cut = graph.edge_mask & ~(((senders == 0) & (receivers == 2)) | ((senders == 2) & (receivers == 0)))
            near, far = (self.evaluate(dataclasses.replace(graph, edge_mask=mask), precision) for mask in (graph.edge_mask, cut))
            return float((near[0] - far[0]).sum()), float((near[1] - far[1])[2, 0])

        near = {gap: at(gap) for gap in (0.02, 0.002)}
        step = {gap: (at(gap * 1.01)[1] - at(gap * 0.99)[1]) / (0.02 * gap) for gap in near}
        assert abs(near[0.002][0]) < abs(near[0.02][0]) / 500 + 1e-13
        assert abs(near[0.002][1]) < abs(near[0.02][1]) / 50 + 1e-13
        assert abs(step[0.002]) < abs(step[0.02]) / 5 + 1e-11
        assert abs(near[0.02][1]) > 1e-12
        assert at(-1e-9) == (0.0, 0.0)
        # What vanishes is less than the rounding of float32, in which nothing may be left but that.
        for gap in near:
            np.testing.assert_allclose(at(gap, "float32"), near[gap], rtol=0, atol=SINGLE)

    def test_beads_outside_the_receptive_field_do_not_matter(self) -> None:
        model, _, _ = self.built()
        spacing = 0.8 * CUTOFF
        reach = round(model.receptive_field_angstrom / CUTOFF)
        line = np.stack([spacing * np.arange(reach + 2), 0.5 * np.arange(reach + 2) % 2, np.zeros(reach + 2)], -1)

        def change(bead: int, precision: str) -> float:
            moved = line.copy()
            moved[bead] += [0.1, 0.3, -0.2]
            return float(np.abs(self.evaluate(chain_graph(moved), precision)[0][0] - self.evaluate(chain_graph(line), precision)[0][0]))

        assert change(reach, "float64") > 0
        assert change(reach + 1, "float64") == change(reach + 1, "float32") == 0

    def test_new_data_of_the_same_shape_is_not_retraced(self) -> None:
        for precision in PRECISIONS:
            self.evaluate(chain_graph(random_chain(12)), precision)
            compiled = self.built(precision)[2]
            known = compiled._cache_size()  # type: ignore[attr-defined]
            for seed in range(3):
                self.evaluate(chain_graph(random_chain(10 + seed, seed), seed), precision)
            assert compiled._cache_size() == known  # type: ignore[attr-defined]

    def test_edges_in_rows_give_the_energies_and_forces_of_flat_ones(self) -> None:
        graph = chain_graph(random_chain(24), cutoff=2 * CUTOFF, padded=False)  # edges beyond the cutoff add nothing
        rows = in_rows(graph, 2 * 24 + 3)
        assert (np.unique(rows.receivers[:, 0], return_counts=True)[1] > 1).sum() > 1, "a bead should need two rows"
        for precision, tolerance in PRECISIONS.items():
            assert_close(self.evaluate(rows, precision), self.evaluate(graph, precision), tolerance)

    def test_a_float32_network_computes_nothing_in_float64(self) -> None:
        model, params, _ = self.built("float32")
        graph = jax.tree.map(jnp.asarray, chain_graph(random_chain(12).astype(np.float32)))
        assert "f64" not in str(jax.make_jaxpr(energy_and_forces(model.energy))(params, graph))
        exact = dataclasses.replace(graph, positions=graph.positions.astype(jnp.float64))
        lines = str(jax.make_jaxpr(energy_and_forces(model.energy))(params, exact)).splitlines()
        products = [line for line in lines if "= dot_general" in line]
        assert products
        assert not any(":f64" in line for line in products)

    def test_a_fresh_network_scaled_on_one_chain_has_forces_of_that_size_on_others(self) -> None:
        # As `match_force_scale` does it, with the function that is compiled already.
        wanted = 4.2
        for precision in PRECISIONS:
            _, params, compiled = self.built(precision)
            first = _force_rms(self.evaluate(chain_graph(random_chain(12)), precision)[1])
            scaled = scale_backbone(params, wanted / first)
            for seed in range(1, 6):
                graph = _in(chain_graph(random_chain(12, seed), seed), precision)
                assert wanted / 3 < _force_rms(np.asarray(compiled(scaled, graph)[1])) < wanted * 3

    def test_energies_of_a_fixed_seed_are_the_recorded_ones(self) -> None:
        for precision, tolerance in (("float64", 1e-7), ("float32", SINGLE)):
            energies, _ = self.evaluate(chain_graph(random_chain(12)), precision)
            size = np.abs(self.golden).max()
            np.testing.assert_allclose(energies[: len(self.golden)], self.golden, rtol=0, atol=tolerance * size)


def _in(graph: BeadGraph, precision: str) -> BeadGraph:
    return dataclasses.replace(graph, positions=graph.positions.astype(precision))


def _nearly_coincident() -> list[np.ndarray]:
    """Return chains of 12 whose bead 3 lies at the origin and bead 2 there, or as near as the square of a float32 distance can tell."""
    chains = []
    for gap in (0.0, 1e-20, 1e-15, 1e-9):
        positions = random_chain(12)
        positions = positions - positions[2]
        positions[3] = [gap, 0.0, 0.0]
        chains.append(positions)
    return chains


def _on_grid(positions: np.ndarray) -> np.ndarray:
    return np.round(positions / GRID) * GRID


def _force_rms(forces: np.ndarray) -> float:
    return float(np.sqrt((forces[:12] ** 2).mean()))


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Compare pytrees of arrays; the tolerance is relative to the largest expected value of each."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(np.abs(b).max()), 1e-30))
