"""Forces from energies: the only place where they are derived, for training, evaluation, dynamics and export alike."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cg_data.contracts import Array, BeadGraph, EnergyFn, Params
from cg_models.precision import FULL

EnergyAndForces = Callable[[Params, BeadGraph], tuple[Array, Array]]
EnergyForcesAndVirial = Callable[[Params, BeadGraph], tuple[Array, Array, Array]]


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


def energy_forces_and_virial(energy_fn: EnergyFn, n_frames: int) -> EnergyForcesAndVirial:
    """Return `(params, graph) -> (energies [n_beads], forces [n_beads, 3], virials [n_frames, 6] kcal/mol)`.

    A virial is the derivative of a frame's energy by a symmetric strain that takes positions and cell shifts r to r (1 + strain),
    in the order xx yy zz yz xz xy; divided by the volume of the frame's cell it is the stress, in ASE's sign. The off-diagonal
    strain parameters stand twice in the matrix, hence their factor of a half.
    """

    def evaluate(params: Params, graph: BeadGraph) -> tuple[Array, Array, Array]:
        def total(positions: Array, voigt: Array) -> tuple[Array, Array]:
            xx, yy, zz, yz, xz, xy = (voigt * jnp.array([1, 1, 1, 0.5, 0.5, 0.5], voigt.dtype)).T
            strain = jnp.stack([jnp.stack([xx, xy, xz], -1), jnp.stack([xy, yy, yz], -1), jnp.stack([xz, yz, zz], -1)], -2)
            of_bead = strain[graph.frame]
            changed = {"positions": positions + jnp.einsum("bi,bij->bj", positions, of_bead, precision=FULL)}
            if graph.shifts is not None:
                shifts = graph.shifts.astype(positions.dtype)
                changed["shifts"] = shifts + jnp.einsum("...i,...ij->...j", shifts, of_bead[graph.receivers], precision=FULL)
            energies = energy_fn(params, dataclasses.replace(graph, **changed))
            return energies.sum(), energies

        zero = jnp.zeros((n_frames, 6), graph.positions.dtype)
        (gradient, virials), energies = jax.grad(total, argnums=(0, 1), has_aux=True)(graph.positions, zero)
        return energies, -gradient, virials

    return evaluate
