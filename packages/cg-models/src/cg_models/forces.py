"""Forces from energies: the only place where they are derived, for training, evaluation, dynamics and export alike."""

import dataclasses
from collections.abc import Callable

import jax

from cg_data.contracts import Array, BeadGraph, EnergyFn, Params

EnergyAndForces = Callable[[Params, BeadGraph], tuple[Array, Array]]


def energy_and_forces(energy_fn: EnergyFn) -> EnergyAndForces:
    """Return `(params, graph) -> (energies [n_beads] kcal/mol, forces [n_beads, 3] kcal/mol/angstrom)`.

    Forces are minus the gradient of the sum of per-bead energies with respect to positions, in their dtype; zero for padding,
    because its energies are.
    """

    def evaluate(params: Params, graph: BeadGraph) -> tuple[Array, Array]:
        def total(positions: Array) -> tuple[Array, Array]:
            energies = energy_fn(params, dataclasses.replace(graph, positions=positions))
            return energies.sum(), energies

        gradient, energies = jax.grad(total, has_aux=True)(graph.positions)
        return energies, -gradient

    return evaluate
