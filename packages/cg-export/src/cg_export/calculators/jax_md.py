"""jax-md: `energy = jax_md_energy(artifact, system)`, a pure function of positions for `jax_md.simulate`. Needs x64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cg_data.contracts import Array
from cg_data.errors import UserError, require
from cg_export.artifact import Artifact
from cg_export.calculators.molecule import Molecule
from cg_export.lammps.runtime import ARGUMENTS
from cg_export.lammps.system import System
from cg_export.lower import graph_arguments


def jax_md_energy(artifact: Artifact | Path | str, system: System) -> Callable[..., Array]:
    """Return `energy(positions [n_beads, 3] angstrom, neighbor=None, **ignored) -> ()` kcal/mol in free space.

    It can be compiled, and differentiated once, by the forces that the artifact returns. neighbor: a `jax_md.partition.NeighborList`
    whose cutoff is at least the artifact's, of format Sparse or Dense; without one every pair of beads is an edge, which
    suits single small proteins. Units of time, as always in jax-md, follow from those of energy, length and mass.

    Raises `UserError` where x64 is off (positions cross into the artifact in float64) or a neighbour list holds each pair once.
    """
    require(jnp.zeros(()).dtype == jnp.float64, "jax_md_energy: expected 64-bit JAX: jax.config.update('jax_enable_x64', True)")
    molecule = Molecule(artifact, system)
    graph = molecule.artifact.graph(system.positions, molecule.species, system.residue_index, system.chain_index)
    constant = graph_arguments(graph)
    call = molecule.artifact.exported.call
    first, second = np.nonzero(~np.eye(system.n_beads, dtype=bool))

    def evaluate(positions: Array, senders: Array, receivers: Array) -> tuple[Array, Array]:
        counts = jnp.asarray(constant["counts"]).at[2].set(senders.shape[0])
        arguments = constant | {"counts": counts, "positions": positions.astype(jnp.float64), "senders": senders, "receivers": receivers}
        return call(*(arguments[name] for name in ARGUMENTS))

    @jax.custom_vjp
    def total(positions: Array, senders: Array, receivers: Array) -> Array:
        return evaluate(positions, senders, receivers)[0].sum().astype(positions.dtype)

    def forward(positions: Array, senders: Array, receivers: Array) -> tuple[Array, Array]:
        energies, forces = evaluate(positions, senders, receivers)
        return energies.sum().astype(positions.dtype), forces.astype(positions.dtype)

    def backward(forces: Array, slope: Array) -> tuple[Array, None, None]:
        return -slope * forces, None, None

    total.defvjp(forward, backward)

    def energy(positions: Array, neighbor: Any = None, **_: Any) -> Array:
        senders, receivers = _edges(neighbor, system.n_beads) if neighbor is not None else (first.astype(np.int32), second.astype(np.int32))
        return total(positions, senders, receivers)

    return energy


def _edges(neighbor: Any, n_beads: int) -> tuple[Array, Array]:
    """Return senders and receivers of a jax-md neighbour list; its padding, bead n_beads, becomes edges from a bead to itself."""
    kind = neighbor.format.name
    if kind == "Sparse":
        receivers, senders = neighbor.idx
    elif kind == "Dense":
        senders = neighbor.idx.reshape(-1)
        receivers = jnp.repeat(jnp.arange(n_beads, dtype=jnp.int32), neighbor.idx.shape[1])
    else:
        raise UserError(f"jax_md_energy: expected a neighbour list of format Sparse or Dense, received {kind}: both directions are needed")
    padding = (senders >= n_beads) | (receivers >= n_beads)
    return jnp.where(padding, 0, senders).astype(jnp.int32), jnp.where(padding, 0, receivers).astype(jnp.int32)
