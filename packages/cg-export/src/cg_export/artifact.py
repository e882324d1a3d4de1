"""Write an artifact from a bundle, load it, and evaluate it in Python."""

import dataclasses
import importlib.metadata
import logging
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax import export

from cg_data.atomic import atomic_folder, sha256
from cg_data.contracts import Array, BeadGraph
from cg_data.errors import UserError, require
from cg_data.mapped import first_not_finite
from cg_data.mapping import RESIDUE_MASSES_AMU
from cg_data.topology import frame_graph
from cg_export.lammps.runtime import ARGUMENTS, MODEL_FILE, RESULTS
from cg_export.lower import (
    Budget,
    GraphEnergy,
    export_polymorphic,
    export_static,
    graph_arguments,
    jitted_function,
    pad_arguments,
    signature,
    stablehlo_version,
)
from cg_export.manifest import FORMAT_VERSION, Manifest, ModuleSpec, Reference, read_manifest, write_manifest
from cg_models.bundle import Bundle
from cg_priors.parameters import BONDED

logger = logging.getLogger(__name__)

Part = Literal["full", "backbone", "prior"]
Precision = Literal["float32", "float64"]

TOLERANCES: dict[Precision, float] = {"float32": 1e-6, "float64": 1e-12}
"""Largest accepted error of forces and energies against the bundle, relative to the largest of a frame."""

DEFAULT_LADDER = (Budget.of_beads(64, 24), Budget.of_beads(256, 32), Budget.of_beads(1024, 40))
"""Budgets of the static modules: beads with ghosts, and edges for folded proteins with a cutoff of 10 A."""


@dataclasses.dataclass(frozen=True)
class Errors:
    """Differences between two evaluations of the same frames."""

    energy: float
    """Largest difference of a per-bead energy, relative to the largest energy."""
    force: float
    """Largest difference of a force component, relative to the largest component."""

    def worst(self) -> float:
        """Return the larger of the two."""
        return float(np.max([self.energy, self.force]))


def compare(energies: Array, forces: Array, expected_energies: Array, expected_forces: Array) -> Errors:
    """Return the errors of energies [n_beads] and forces [n_beads, 3] against expected ones, relative to the largest expected magnitude."""

    def relative(actual: Array, expected: Array) -> float:
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        scale = float(np.max(np.abs(expected)))
        return float(np.max(np.abs(actual - expected))) / max(scale, 1e-12)

    return Errors(relative(energies, expected_energies), relative(forces, expected_forces))


def export_artifact(
    bundle: Bundle,
    output: Path | str,
    precision: Precision = "float32",
    part: Part = "full",
    ladder: Sequence[Budget] = DEFAULT_LADDER,
    platforms: Sequence[str] = ("cpu", "cuda"),
    overwrite: bool = False,
) -> Manifest:
    """Write the artifact folder of a bundle, verify it against the bundle, and return its manifest.

    precision is the network's; positions, displacements and the prior are float64 in either. part chooses the whole energy, the
    network alone (with native LAMMPS priors) or the prior alone. ladder: budgets of the static StableHLO modules, each for every
    platform. The folder appears complete and self-tested, or not at all.

    Raises `UserError` where the folder exists (unless `overwrite`), the mass of a species is not known, the bundle has no such part,
    or the self-test fails.
    """
    masses = _masses(bundle.species_names)
    with jax.enable_x64(True), atomic_folder(output, overwrite=overwrite) as aside:
        bundle = with_precision(bundle, precision)
        function = jitted_function(graph_energy(bundle, part))
        logger.info("lowering the %s energy in %s", part, precision)
        exported = export_polymorphic(function)
        (aside / MODEL_FILE).write_bytes(exported.serialize())
        modules = [module for budget in ladder for module in _write_modules(aside, function, budget, platforms)]
        files = {path.name: sha256(path) for path in sorted(aside.iterdir())}
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            part=part,
            precision=precision,
            cutoff_angstrom=bundle.cutoff_angstrom,
            receptive_field_angstrom=bundle.receptive_field_angstrom,
            needs_topology=part != "backbone" and bundle.prior is not None and any(name in BONDED for name in bundle.prior.terms),
            species_names=list(bundle.species_names),
            masses_amu=masses,
            temperature_kelvin=None if bundle.prior is None else float(bundle.prior.temperature_kelvin),
            arguments=signature(ARGUMENTS),
            results=signature(RESULTS),
            modules=modules,
            stablehlo_version=stablehlo_version(exported.mlir_module_serialized),
            versions={name: importlib.metadata.version(name) for name in ("cg-export", "cg-models", "jax", "jaxlib")},
            files=files,
            reference=_reference(bundle, part),
        )
        write_manifest(aside, manifest)
        errors = self_test(aside)
    logger.info("wrote %s; self-test against the bundle: energies %.1e, forces %.1e (relative)", output, errors.energy, errors.force)
    return manifest


class Artifact:
    """An artifact loaded from disk, evaluated by jax in this process."""

    def __init__(self, folder: Path | str) -> None:
        """Load and verify an artifact folder; raises `UserError` as `read_manifest` does, and where this jax cannot read its function."""
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        try:
            self.exported = export.deserialize(bytearray((self.folder / MODEL_FILE).read_bytes()))
        except (ValueError, TypeError, NotImplementedError, struct.error) as error:  # the checksum is right, so jax is another one
            versions = f"written by jax {self.manifest.versions.get('jax', 'unknown')}, received {jax.__version__}"
            raise UserError(
                f"{self.folder / MODEL_FILE}: cannot be read by jax ({error.__class__.__name__}; {versions}): export the artifact again"
            ) from None
        self._function: Callable[..., tuple[Array, Array]] = jax.jit(self.exported.call, keep_unused=True)
        self._budget = Budget(1, 1, 1, 1, 1)

    def graph(self, positions: Array, species: Array, residue_index: Array, chain_index: Array) -> BeadGraph:
        """Return the graph of one frame in free space: positions [n, 3] angstrom; the others [n] int32.

        Raises `UserError` where they do not fit each other or the artifact's species, and where positions are not finite.
        """
        positions = np.asarray(positions, np.float64)
        require(
            positions.ndim == 2 and positions.shape[1] == 3, f"artifact: expected positions [n_beads, 3], received {list(positions.shape)}"
        )
        bad = first_not_finite(positions)
        require(bad is None, f"artifact: positions must be finite; those of bead {bad} are not: correct or leave it out")
        for name, values in (("species", species), ("residue_index", residue_index), ("chain_index", chain_index)):
            n = len(values)
            require(n == len(positions), f"artifact: expected {len(positions)} values of {name}, one per position, received {n}")
        n_species = len(self.manifest.species_names)
        low, high = np.min(species, initial=0), np.max(species, initial=0)
        require(low >= 0 and high < n_species, f"artifact: expected species in [0, {n_species}), received {low} to {high}")
        return frame_graph(positions, species, residue_index, chain_index, self.manifest.cutoff_angstrom)

    def reserve(self, beads: int, edges: int) -> None:
        """Compile for at least these numbers from now on, so that systems of several sizes share one program."""
        self._budget = Budget(*map(max, dataclasses.astuple(self._budget), (beads, edges, beads, beads, beads)))

    def energy_and_forces(self, graph: BeadGraph) -> tuple[np.ndarray, np.ndarray]:
        """Return per-bead energies [n_beads] kcal/mol and forces [n_beads, 3] kcal/mol/angstrom of an unpadded flat graph in free space.

        Raises `UserError` for another graph. Arrays are padded to a budget that only grows, so frames of one system compile once or twice.
        """
        arguments = graph_arguments(graph)
        need = [graph.n_beads, *(int(n) for n in arguments["counts"][2:])]
        held = dataclasses.astuple(self._budget)
        grown = [have if have >= n else n if kind == 0 else n + n // 8 for kind, (n, have) in enumerate(zip(need, held, strict=True))]
        self._budget = Budget(*grown)
        padded = pad_arguments(arguments, self._budget)
        with jax.enable_x64(True):
            energies, forces = self._function(*(padded[name] for name in ARGUMENTS))
            return np.array(energies)[: graph.n_beads], np.array(forces)[: graph.n_beads]


def self_test(folder: Path | str) -> Errors:
    """Compare a written artifact with the reference frame in its manifest; raise `UserError` where they disagree."""
    artifact = Artifact(folder)
    reference = artifact.manifest.reference
    graph = artifact.graph(
        np.array(reference.positions), np.array(reference.species), np.array(reference.residue_index), np.array(reference.chain_index)
    )
    energies, forces = artifact.energy_and_forces(graph)
    errors = compare(energies, forces, np.array(reference.energies), np.array(reference.forces))
    tolerance = TOLERANCES[artifact.manifest.precision]
    if not errors.worst() <= tolerance:
        found = f"energies differ by {errors.energy:.1e}, forces by {errors.force:.1e}"
        raise UserError(f"{folder}: self-test failed: {found}, expected at most {tolerance:.0e}")
    return errors


def reference_frame(n_species: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return positions [n, 3], species, residue_index and chain_index [n] of two helical segments that hold every species.

    CA helices: radius 2.3 A, rise 1.5 A and 100 degrees a residue, 9 A apart, with a fixed uneven displacement.
    """
    n_beads = max(n_species, 12)
    split = n_beads // 2
    index = np.arange(n_beads)
    along = np.where(index < split, index, index - split)
    angle = np.deg2rad(100.0) * along
    positions = np.stack([2.3 * np.cos(angle), 2.3 * np.sin(angle), 1.5 * along], axis=1)
    positions[split:, 0] += 9.0
    positions += 0.1 * np.sin(np.arange(3 * n_beads) * 1.7).reshape(n_beads, 3)
    return positions, (index % n_species).astype(np.int32), along.astype(np.int32), (index >= split).astype(np.int32)


def _reference(bundle: Bundle, part: Part) -> Reference:
    positions, species, residue_index, chain_index = reference_frame(len(bundle.species_names))
    graph = frame_graph(positions, species, residue_index, chain_index, bundle.cutoff_angstrom)
    energies, forces = bundle.energy_and_forces(graph, part=part)
    return Reference(
        species=species.tolist(),
        residue_index=residue_index.tolist(),
        chain_index=chain_index.tolist(),
        positions=positions.tolist(),
        energies=np.asarray(energies, np.float64).tolist(),
        forces=np.asarray(forces, np.float64).tolist(),
    )


def with_precision(bundle: Bundle, precision: Precision) -> Bundle:
    """Return the bundle with its network's parameters and arithmetic in `precision`; the prior's arrays stay as they are."""
    params = dict(bundle.params)
    if "backbone" in params:
        params["backbone"] = jax.tree.map(lambda leaf: np.asarray(leaf).astype(precision), params["backbone"])
    return dataclasses.replace(bundle, config=bundle.config.model_copy(update={"precision": precision}), params=params)


def _masses(species_names: Sequence[str]) -> list[float]:
    for name in species_names:
        require(
            name in RESIDUE_MASSES_AMU, f"artifact: no mass is known for species {name!r}; expected the 20 residues: export such a model"
        )
    return [RESIDUE_MASSES_AMU[name] for name in species_names]


def graph_energy(bundle: Bundle, part: Part) -> GraphEnergy:
    """Return `graph -> [n_beads]` kcal/mol of one part of a bundle, the parameters inside."""
    energy = bundle.energy_fn(part)
    params = jax.tree.map(np.asarray, bundle.params)
    return lambda graph: energy(params, graph)


def _write_modules(folder: Path, function: Any, budget: Budget, platforms: Sequence[str]) -> list[ModuleSpec]:
    """Write the modules of one budget: one file for all platforms whose lowerings are the same bytes."""
    by_content: dict[bytes, list[str]] = {}
    for platform in platforms:
        by_content.setdefault(export_static(function, budget, platform).mlir_module_serialized, []).append(platform)
    specs = []
    for module, shared in by_content.items():
        name = f"{'_'.join(shared)}_{budget.beads}_{budget.edges}.stablehlo"
        (folder / name).write_bytes(module)
        specs.append(ModuleSpec(file=name, platforms=shared, **dataclasses.asdict(budget)))
    return specs
