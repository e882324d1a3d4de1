"""Is it the same model? Artifact against bundle, and LAMMPS against artifact, over the same frames."""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from cg_data.contracts import BeadGraph
from cg_data.store import Dataset
from cg_export.artifact import TOLERANCES, Artifact, Errors, Part, Precision, compare, export_artifact, with_precision
from cg_export.lammps.build import ensure_plugin
from cg_export.lammps.data_file import bonded_kinds, box_bounds, data_file, wrap
from cg_export.lammps.input import LammpsConfig, input_file
from cg_export.lammps.run import read_dump, run_lammps
from cg_export.lammps.system import System, frame_system
from cg_export.manifest import read_manifest
from cg_models.bundle import Bundle
from cg_models.graph import Budget, pack, plan_budget, sizes


@dataclasses.dataclass(frozen=True)
class ParityRow:
    """The worst case of one comparison over the frames of one system."""

    name: str
    comparison: str
    n_beads: int
    n_frames: int
    errors: Errors
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the worst error is within the tolerance."""
        return self.errors.worst() <= self.tolerance


def parity(
    bundle: Bundle,
    systems: dict[str, tuple[System, np.ndarray]],
    artifact: Path | str | None = None,
    precision: Precision | None = None,
    ranks: Sequence[int] = (1,),
    plugin: Path | str | None = None,
) -> list[ParityRow]:
    """Compare bundle, artifact and LAMMPS on frames; return one row for each system and comparison.

    systems: name -> (system, positions [n_frames, n_beads, 3] angstrom). artifact: its folder; exported aside in `precision`, float32 where
    None, where it is None. ranks: numbers of MPI ranks LAMMPS runs on; none for an empty sequence. Errors are relative to the largest
    expected energy or force of each frame, the worst over frames.
    """
    rows: list[ParityRow] = []
    with tempfile.TemporaryDirectory() as scratch, jax.enable_x64(True):
        if artifact is None:
            artifact = Path(scratch) / "model"
            export_artifact(bundle, artifact, precision or "float32", ladder=())
        loaded = Artifact(artifact)
        loaded.manifest.check_precision(precision)
        bundle = with_precision(bundle, loaded.manifest.precision)
        tolerance = TOLERANCES[loaded.manifest.precision]
        graphs = {name: [_graph(loaded, system, x) for x in frames] for name, (system, frames) in systems.items()}
        # One size for everything: each of the three evaluations compiles once.
        budget = plan_budget([sizes(graph) for group in graphs.values() for graph in group], 1)
        loaded.reserve(budget.n_beads, budget.n_edges)
        for name, (system, frames) in systems.items():
            from_artifact = [loaded.energy_and_forces(graph) for graph in graphs[name]]
            from_bundle = [_bundle_energy_and_forces(bundle, graph, budget, loaded.manifest.part) for graph in graphs[name]]
            worst = _worst([compare(*actual, *expected) for actual, expected in zip(from_artifact, from_bundle, strict=True)])
            rows.append(ParityRow(name, "artifact / bundle", system.n_beads, len(frames), worst, tolerance))
            for n in ranks:
                reserve = (budget.n_beads, budget.n_edges)
                from_lammps = lammps_forces(artifact, system, frames, n, plugin, reserve=reserve, cache=Path(scratch) / "cache")
                worst = _worst([compare(*actual, *expected) for actual, expected in zip(from_lammps, from_artifact, strict=True)])
                rows.append(ParityRow(name, f"LAMMPS ({n} rank{'s' * (n > 1)}) / artifact", system.n_beads, len(frames), worst, tolerance))
    return rows


def _graph(artifact: Artifact, system: System, positions: np.ndarray) -> BeadGraph:
    species = artifact.manifest.species_index(system.names)
    return artifact.graph(positions, species, system.residue_index, system.chain_index)


def _bundle_energy_and_forces(bundle: Bundle, graph: BeadGraph, budget: Budget, part: Part) -> tuple[np.ndarray, np.ndarray]:
    energies, forces = bundle.energy_and_forces(pack([graph], budget), part=part)
    n_beads = graph.n_beads
    return np.asarray(energies)[:n_beads], np.asarray(forces)[:n_beads]


def dataset_systems(dataset: Dataset, domains: Sequence[str], n_frames: int) -> dict[str, tuple[System, np.ndarray]]:
    """Return name -> (system, evenly spaced frames [n_frames, n_beads, 3] angstrom) of some or (empty) all domains of a data set."""
    chosen = {}
    for domain in domains or dataset.domains:
        frames = dataset.frames(domain)
        indices = np.unique(np.linspace(0, frames.n_frames - 1, n_frames).astype(int))
        order = np.lexsort((frames.residue_index, frames.chain_index))
        chosen[domain] = (frame_system(dataset, domain, 0), np.asarray(frames.positions[indices][:, order], np.float64))
    return chosen


def format_rows(rows: Sequence[ParityRow]) -> str:
    """Return a table of the rows and a last line with the worst case."""
    lines = [f"{'system':<16} {'comparison':<28} {'beads':>6} {'frames':>6} {'energy':>9} {'force':>9}  (relative; worst frame and bead)"]
    for row in rows:
        verdict = "" if row.passed else f"  above {row.tolerance:.0e}"
        errors = f"{row.errors.energy:>9.1e} {row.errors.force:>9.1e}"
        lines.append(f"{row.name:<16} {row.comparison:<28} {row.n_beads:>6} {row.n_frames:>6} {errors}{verdict}")
    worst = max(rows, key=lambda row: row.errors.worst() / row.tolerance)
    lines.append(f"worst: {worst.name}, {worst.comparison}: {worst.errors.worst():.1e}, accepted {worst.tolerance:.0e}")
    return "\n".join(lines)


def lammps_forces(
    artifact: Path | str,
    system: System,
    frames: np.ndarray,
    ranks: int = 1,
    plugin: Path | str | None = None,
    box_angstrom: float | None = None,
    reserve: tuple[int, int] | None = None,
    cache: Path | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (energies [n_beads], forces [n_beads, 3]) of each frame as LAMMPS computes them with the artifact.

    frames: [n_frames, n_beads, 3] angstrom. box_angstrom: edge of a periodic cube around the system's own positions; frames may lie
    anywhere and are wrapped into it. Free space where None. reserve: beads and edges to compile for at least, and cache: folder of
    compiled programs, so that LAMMPS processes for several systems share one.
    """
    manifest = read_manifest(artifact)
    frames = np.asarray(frames, np.float64)
    config = LammpsConfig(box_angstrom=box_angstrom, temperature_kelvin=300.0)
    plugin = ensure_plugin() if plugin is None else Path(plugin).resolve()
    if box_angstrom is None:
        low, high = box_bounds(frames.reshape(-1, 3), None)
    else:
        low, high = box_bounds(system.positions, box_angstrom)
        frames = wrap(frames, low, high)[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "model").symlink_to(Path(artifact).resolve(), target_is_directory=True)
        (folder / "system.data").write_text(data_file(system, manifest.species_names, manifest.masses_amu, box_angstrom))
        setup = input_file(config, manifest, plugin, bonded_kinds(system)).split("\nvelocity ")[0]
        if reserve is not None:
            setup = setup.replace("cg python", f"cg python reserve {reserve[0]} {reserve[1]}")
        (folder / "in.parity").write_text(setup.replace("s s s", "f f f") + PARITY_COMMANDS)
        (folder / "frames.lammpstrj").write_text(_trajectory(frames, low, high, "ff" if box_angstrom is None else "pp"))
        kept = os.environ.get("JAX_COMPILATION_CACHE_DIR", cache)
        environment = {} if kept is None else {"JAX_COMPILATION_CACHE_DIR": str(kept)}
        run_lammps(folder, "in.parity", ranks, extra_environment=environment)
        snapshots = read_dump(folder / "forces.dump", ["c_energy", "fx", "fy", "fz"])
    return [(values[:, 0], values[:, 1:]) for _, values in snapshots]


PARITY_COMMANDS = """
compute         energy all pe/atom
dump            forces all custom 1 forces.dump id c_energy fx fy fz
dump_modify     forces sort id format float %.17g
rerun           frames.lammpstrj dump x y z box yes
"""


def _trajectory(frames: np.ndarray, low: np.ndarray, high: np.ndarray, boundary: str) -> str:
    bounds = [f"{low[k]:.17g} {high[k]:.17g}" for k in range(3)]
    header = f"ITEM: BOX BOUNDS {boundary} {boundary} {boundary}"
    lines: list[str] = []
    for step, positions in enumerate(frames):
        lines += ["ITEM: TIMESTEP", str(step), "ITEM: NUMBER OF ATOMS", str(len(positions)), header, *bounds, "ITEM: ATOMS id x y z"]
        lines += [f"{i} {x[0]:.17g} {x[1]:.17g} {x[2]:.17g}" for i, x in enumerate(positions, start=1)]
    return "\n".join([*lines, ""])


def _worst(errors: Sequence[Errors]) -> Errors:
    # NumPy's max, unlike Python's, lets a NaN through.
    return Errors(float(np.max([error.energy for error in errors])), float(np.max([error.force for error in errors])))
