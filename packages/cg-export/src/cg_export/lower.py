"""From an energy function to the exported function: local and ghost beads, forces, and the two ways it is stored."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cg_data.contracts import Array, BeadGraph, Params
from cg_data.errors import require
from cg_export.lammps.runtime import ARGUMENTS, N_COUNTS, shapes
from cg_export.manifest import ArraySpec
from cg_models.forces import energy_and_forces

GraphEnergy = Callable[[BeadGraph], Array]
"""`graph -> [n_beads]` kcal/mol, the parameters inside."""

UNITS = {"positions": "angstrom", "energies": "kcal/mol", "forces": "kcal/mol/angstrom"}


@dataclasses.dataclass(frozen=True)
class Budget:
    """Static sizes of one lowering."""

    beads: int
    edges: int
    bonds: int
    angles: int
    dihedrals: int

    @classmethod
    def of_beads(cls, beads: int, edges_per_bead: int) -> "Budget":
        """Return a budget for `beads` beads, ghosts included, whose chains bring about one tuple of each kind a bead."""
        return cls(beads, beads * edges_per_bead, beads, beads, beads)


def local_function(energy: GraphEnergy) -> Callable[..., tuple[Array, Array]]:
    """Return the function that LAMMPS calls: energies of local beads and their gradient with respect to all beads.

    Arguments in the order of `cg_export.lammps.runtime.ARGUMENTS`: counts [6] int32 (local beads, beads, edges, bonds, angles,
    dihedrals; entries of the arrays beyond their count are padding), positions [beads, 3] float64 angstrom, species, residue and
    segment [beads] int32, senders and receivers [edges] int32, bonds, angles and dihedrals [n, 2 | 3 | 4] int32.

    Local beads come first. Ghosts, periodic images included, are beads of their own, so displacements need no box. The energy is
    the sum over local beads of per-bead energies: a pair or a tuple that spans two ranks is counted in part on each. Returns
    (energies [beads] kcal/mol, zero except for local beads; forces [beads, 3] kcal/mol/angstrom, which LAMMPS's reverse
    communication adds up over ranks).
    """

    def evaluate(
        counts: Array,
        positions: Array,
        species: Array,
        residue: Array,
        segment: Array,
        senders: Array,
        receivers: Array,
        bonds: Array,
        angles: Array,
        dihedrals: Array,
    ) -> tuple[Array, Array]:
        def first(n: Array, array: Array) -> Array:
            return jnp.arange(array.shape[0], dtype=jnp.int32) < n

        is_local = first(counts[0], species)
        graph = BeadGraph(
            positions=positions,
            species=species,
            residue_index=residue,
            chain_index=segment,
            frame=jnp.zeros_like(species),
            bead_mask=first(counts[1], species),
            senders=senders,
            receivers=receivers,
            edge_mask=first(counts[2], senders),
            bonds=bonds,
            bond_mask=first(counts[3], bonds),
            angles=angles,
            angle_mask=first(counts[4], angles),
            dihedrals=dihedrals,
            dihedral_mask=first(counts[5], dihedrals),
        )

        def local_energy(params: Params, graph: BeadGraph) -> Array:
            return jnp.where(is_local, energy(graph), 0.0)

        energies, forces = energy_and_forces(local_energy)({}, graph)
        return energies.astype(jnp.float64), forces.astype(jnp.float64)

    return evaluate


def graph_arguments(graph: BeadGraph) -> dict[str, np.ndarray]:
    """Return the exported function's arguments for an unpadded flat `BeadGraph` in free space whose beads are all local.

    Raises `UserError` for a graph with padding, edges in rows or cell shifts, which the arguments cannot express.
    """
    masks = (graph.bead_mask, graph.edge_mask, graph.bond_mask, graph.angle_mask, graph.dihedral_mask)
    found = [
        what
        for what, there in (
            ("edges in rows", np.ndim(graph.senders) != 1),
            ("cell shifts", graph.shifts is not None),
            ("padding", not all(np.all(mask) for mask in masks)),
        )
        if there
    ]
    require(
        not found,
        f"artifact: expected an unpadded flat graph in free space, received one with {', '.join(found)}: make it with Artifact.graph",
    )
    tuples = (graph.bonds, graph.angles, graph.dihedrals)
    counts = [graph.n_beads, graph.n_beads, len(graph.senders), *map(len, tuples)]
    return {
        "counts": np.array(counts, np.int32),
        "positions": np.asarray(graph.positions, np.float64),
        "species": np.asarray(graph.species, np.int32),
        "residue": np.asarray(graph.residue_index, np.int32),
        "segment": np.asarray(graph.chain_index, np.int32),
        "senders": np.asarray(graph.senders, np.int32),
        "receivers": np.asarray(graph.receivers, np.int32),
        "bonds": np.asarray(graph.bonds, np.int32),
        "angles": np.asarray(graph.angles, np.int32),
        "dihedrals": np.asarray(graph.dihedrals, np.int32),
    }


def pad_arguments(arguments: Mapping[str, np.ndarray], budget: Budget) -> dict[str, np.ndarray]:
    """Return the arguments padded with zeros to a budget that holds them."""
    padded: dict[str, np.ndarray] = {}
    for name, (shape, dtype) in shapes(*dataclasses.astuple(budget)).items():
        if name in arguments:
            padded[name] = np.zeros(shape, dtype)
            padded[name][: len(arguments[name])] = arguments[name]
    return padded


def jitted_function(energy: GraphEnergy) -> Any:
    """Return `local_function(energy)` under `jax.jit`, to be exported many times with one trace for each budget."""
    # A network alone ignores the tuples; unused arguments must stay in the signature all the same.
    return jax.jit(local_function(energy), keep_unused=True)


def export_polymorphic(function: Any) -> export.Exported:
    """Return one export of a `jitted_function` for all sizes, for CPU and CUDA; needs x64 switched on."""
    names = [field.name for field in dataclasses.fields(Budget)]
    sizes: Any = export.symbolic_shape(", ".join(names), constraints=[f"{name} >= 1" for name in names])
    specs = shapes(*sizes)
    return export.export(function, platforms=["cpu", "cuda"])(*[jax.ShapeDtypeStruct(*specs[name]) for name in ARGUMENTS])


def export_static(function: Any, budget: Budget, platform: str) -> export.Exported:
    """Return the export for one budget and one platform: a module that a plain PJRT client compiles; needs x64 switched on."""
    specs = shapes(*dataclasses.astuple(budget))
    return export.export(function, platforms=[platform])(*[jax.ShapeDtypeStruct(*specs[name]) for name in ARGUMENTS])


def stablehlo_version(module: bytes) -> str:
    """Return the StableHLO version that a serialized module was written for, such as 1.9.5."""
    found = re.search(rb"StableHLO_v(\d+\.\d+\.\d+)", module)
    return found.group(1).decode() if found else "unknown"


def signature(names: tuple[str, ...]) -> list[ArraySpec]:
    """Return the specification of the exported function's arguments or results by name, sizes as names of budget fields."""
    width = {"positions": (3,), "forces": (3,), "bonds": (2,), "angles": (3,), "dihedrals": (4,)}
    length: dict[str, int | str] = {"counts": N_COUNTS, "senders": "edges", "receivers": "edges"}
    length |= {name: name for name in ("bonds", "angles", "dihedrals")}
    dtypes = {name: np.dtype(dtype).name for name, (_, dtype) in shapes(1, 1, 1, 1, 1).items()}
    return [
        ArraySpec(name=name, shape=(length.get(name, "beads"), *width.get(name, ())), dtype=dtypes[name], unit=UNITS.get(name, ""))
        for name in names
    ]
