"""One domain, from all-atom frames to bead frames, in two passes over blocks of frames.

The first pass checks frames, makes bead positions and gathers the products of forces; the second maps the forces. Only bead data
and a few blocks of atoms are in memory at once, and the forces between the passes where they are small.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array

from cg_data.atoms import AtomSource, AtomTable, SourceTrajectory, by_atom, half_height, unwrap
from cg_data.checks import REASONS, check_units, extent, implausible, unreadable
from cg_data.config import PrepareConfig, QualityConfig
from cg_data.constraints import BondLengths, BondStatistics, along_chain
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_data.force_map import (
    ChosenMap,
    ForceProducts,
    Reduction,
    choose_map,
    group_forces,
    local_supports,
    map_rows,
    of_frames,
)
from cg_data.records import ForceMapRecord
from cg_data.select import choose_frames, wanted
from cg_data.store import DomainData
from cg_data.structure import Reader, Structure, consecutive, learn_structure

logger = logging.getLogger("cg_data")

UNIT_FRAMES = 16
"""Frames at the start of each trajectory whose magnitudes are compared with those of a protein in the right units."""
MAX_WARNINGS = 5
"""Rejected frames named one by one in the log, per domain."""


@dataclass
class Frames:
    """Accepted frames of a domain, gathered block by block; kept_forces: of each block, the group forces."""

    positions: list[np.ndarray] = field(default_factory=list)
    forces: list[np.ndarray] = field(default_factory=list)
    source_frame: list[np.ndarray] = field(default_factory=list)
    trajectory: list[np.ndarray] = field(default_factory=list)
    fold: list[np.ndarray] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)
    n_read: int = 0
    kept_forces: list[np.ndarray] | None = None


def coarse_grain(source: AtomSource, config: PrepareConfig, advance: Callable[[int], None] = lambda n_frames: None) -> DomainData:
    """Return a domain's beads.

    advance: called with the number of frames read, for a progress bar. Raises `UserError` for input that cannot be used.
    """
    trajectories = [t for t in source.trajectories if wanted(t.temperature_kelvin, t.replica, config.select)]
    require(bool(trajectories), f"{source.where}: no trajectory at the temperatures and replicas asked for: change select")
    _require_numbered(trajectories)
    with_forces = config.force_map.kind != "none"
    for trajectory in trajectories:
        require(
            trajectory.has_forces or not with_forces,
            f"{trajectory.where}: no forces; expected a data set 'forces' beside coords: get the file with forces, or ask for "
            "force_map.kind=none to prepare positions alone",
        )
    chosen = [choose_frames(source, trajectory, config.select) for trajectory in trajectories]
    reader = Reader(source, with_forces)
    structure = learn_structure(reader, trajectories, config)
    units = _map_units(trajectories, config)
    products = _new_products(structure, source.atoms, chosen, units, config) if with_forces else []
    statistics = BondStatistics(structure.bonds)
    frames = _first_pass(reader, trajectories, chosen, structure, products, units, statistics, config, advance)
    _check_rejected(source, frames, config.quality)
    maps: dict[int, ChosenMap] = {}
    if with_forces and structure.reduction is not None:
        slice_score = _slice_scores(frames, units, len(products))
        # Where there is a map for each temperature, all frames of one may have been rejected.
        used = [unit for unit, p in enumerate(products) if p.n_frames.any()]
        maps = {unit: choose_map(products[unit], structure.reduction, slice_score[unit], config.force_map) for unit in used}
        _second_pass(source, trajectories, frames, structure.reduction, maps, units)
    notes = [*source.notes, *(note for note in (statistics.disagreements(structure.rigid),) if note)]
    return _assemble(source, trajectories, structure, frames, list(maps.values()), [products[unit] for unit in maps], notes, config)


def _require_numbered(trajectories: list[SourceTrajectory]) -> None:
    """Raise `UserError` where two trajectories have one temperature and replica: splits and mean forces know them by these."""
    named: dict[tuple[float, int], SourceTrajectory] = {}
    for trajectory in trajectories:
        other = named.setdefault((trajectory.temperature_kelvin, trajectory.replica), trajectory)
        require(
            other is trajectory,
            f"{trajectory.where}: expected one trajectory at {trajectory.temperature_kelvin:g} K, replica {trajectory.replica}, received "
            f"another, {other.where}: number them by replica, or take one out",
        )


def _map_units(trajectories: list[SourceTrajectory], config: PrepareConfig) -> list[int]:
    """Return, per trajectory, which force map it takes: one for all, or one per temperature."""
    if config.force_map.per == "domain":
        return [0] * len(trajectories)
    temperatures = sorted({t.temperature_kelvin for t in trajectories})
    return [temperatures.index(t.temperature_kelvin) for t in trajectories]


def _new_products(
    structure: Structure, atoms: AtomTable, chosen: list[np.ndarray], units: list[int], config: PrepareConfig
) -> list[ForceProducts]:
    reduction, options = structure.reduction, config.force_map
    if reduction is None:
        return []
    supports: list[np.ndarray] = []
    if options.kind != "slice":
        supports = local_supports(atoms.residues, structure.beads.residues, structure.linked, options.neighbour_residues, reduction.groups)
    result = []
    for unit in range(max(units) + 1):
        n_frames = sum(len(frames) for frames, u in zip(chosen, units, strict=True) if u == unit)
        enough = reduction.n_groups * options.min_frames_per_weight <= n_frames
        whole = options.kind == "optimal" and enough and reduction.n_groups <= options.max_weights
        result.append(ForceProducts(options.n_folds, reduction.n_groups, supports, whole))
    return result


def _blocks(trajectory: SourceTrajectory, frames: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (start, stop, places in `frames`) of the blocks of a trajectory that hold frames to read."""
    for start in range(0, trajectory.n_frames, trajectory.block_frames):
        stop = start + trajectory.block_frames
        places = np.arange(*np.searchsorted(frames, [start, stop]))
        if len(places):
            yield int(frames[places[0]]), int(frames[places[-1]]) + 1, places


def _first_pass(
    reader: Reader,
    trajectories: list[SourceTrajectory],
    chosen: list[np.ndarray],
    structure: Structure,
    products: list[ForceProducts],
    units: list[int],
    statistics: BondStatistics,
    config: PrepareConfig,
    advance: Callable[[int], None],
) -> Frames:
    n_groups = 0 if structure.reduction is None else structure.reduction.n_groups
    fits = sum(map(len, chosen)) * n_groups * 24 <= config.memory_megabytes * 1e6
    result = Frames(kept_forces=[] if fits and products and config.force_map.kind != "slice" else None)
    atoms, bond_lengths = reader.source.atoms, BondLengths(structure.bonds, reader.source.atoms.n_atoms)
    for number, (trajectory, frames) in enumerate(zip(trajectories, chosen, strict=True)):
        units_checked = False
        for start, stop, places in _blocks(trajectory, frames):
            positions, forces = reader.read(trajectory, start, stop)
            if len(places) != stop - start:
                rows = frames[places] - start
                positions, forces = positions[rows], None if forces is None else forces[rows]
            largest = None if forces is None else extent(forces)
            reasons = unreadable(extent(positions), largest, config.quality)
            good = np.flatnonzero(reasons < 0)
            positions, forces = _take(positions, good), None if forces is None else _take(forces, good)
            positions, squares, steps = _whole(positions, atoms, structure, bond_lengths, trajectory, frames[places[good]])
            if len(good) and not units_checked:
                pairs = consecutive(structure.anchors, structure.neighbours)
                check_units(positions[:UNIT_FRAMES], None if forces is None else forces[:UNIT_FRAMES], pairs, trajectory.where)
                units_checked = True
            longest = np.sqrt(squares.max(axis=1))
            largest = None if largest is None else largest[good]
            reasons[good] = implausible(steps[:, structure.neighbours], longest, largest, config.quality)
            accepted = np.flatnonzero(reasons[good] < 0)
            statistics.add(bond_lengths.of_bonds(squares[accepted[: statistics.n_wanted]]))
            _count(result, trajectory, frames[places], reasons)
            places = places[good[accepted]]
            fold = places * config.force_map.n_folds // len(frames)
            _gather(result, structure, _take(positions, accepted), number, frames[places], fold)
            if forces is not None:
                _gather_forces(result, structure, products[units[number]], _take(forces, accepted), fold)
            advance(stop - start)
    return result


def _whole(
    positions: np.ndarray,
    atoms: AtomTable,
    structure: Structure,
    bond_lengths: BondLengths,
    trajectory: SourceTrajectory,
    frames: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions of whole molecules, squared bond lengths, and steps [n_frames, n_residues - 1] from anchor to anchor.

    frames [n_frames]: which of the trajectory's they are.
    """
    squares, steps = bond_lengths.squares(positions), along_chain(positions, structure.anchors)
    if trajectory.box is None:
        return positions, squares, steps
    cut = np.ones(len(positions), bool)
    if structure.joined:
        limit = half_height(trajectory.box)
        cut = (squares.max(axis=1) >= limit**2) | (steps.max(axis=1, initial=0.0) >= limit)
    if cut.any():
        positions = positions.copy()
        positions[cut] = unwrap(positions[cut], atoms, structure.anchors, trajectory.box_of(frames[cut]))
        squares[cut], steps[cut] = bond_lengths.squares(positions[cut]), along_chain(positions[cut], structure.anchors)
    return positions, squares, steps


def _take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return array if len(rows) == len(array) else array[rows]


def _gather(result: Frames, structure: Structure, positions: np.ndarray, number: int, frames: np.ndarray, fold: np.ndarray) -> None:
    result.positions.append(apply_map(structure.beads.weights, positions))
    result.source_frame.append(frames.astype(np.int32))
    result.trajectory.append(np.full(len(frames), number, np.int32))
    result.fold.append(fold)


def _gather_forces(result: Frames, structure: Structure, products: ForceProducts, forces: np.ndarray, fold: np.ndarray) -> None:
    if structure.reduction is None:
        return
    result.forces.append(apply_map(structure.reduction.slice, forces))
    if not products.supports:
        products.n_frames += np.bincount(fold, minlength=products.n_folds)
        return
    grouped = group_forces(structure.reduction, forces)
    if result.kept_forces is not None:
        result.kept_forces.append(grouped)
    for k in np.unique(fold):
        products.add(int(k), of_frames(grouped, fold == k))


def apply_map(weights: csr_array, values: np.ndarray) -> np.ndarray:
    """Return [n_frames, n_beads, 3] float32: a linear map [n_beads, n_atoms] of values [n_frames, n_atoms, 3]."""
    if (np.diff(weights.indptr) == 1).all() and (weights.data == 1).all():
        return np.asarray(values.take(weights.indices, axis=1), np.float32)
    return map_rows(weights, by_atom(values))


def _count(result: Frames, trajectory: SourceTrajectory, frames: np.ndarray, reasons: np.ndarray) -> None:
    result.n_read += len(frames)
    for frame, reason in zip(frames[reasons >= 0], reasons[reasons >= 0], strict=True):
        name = REASONS[reason]
        if sum(result.rejected.values()) < MAX_WARNINGS:
            logger.warning("%s: frame %d rejected: %s", trajectory.where, frame, name.replace("_", " "))
        result.rejected[name] = result.rejected.get(name, 0) + 1


def _check_rejected(source: AtomSource, frames: Frames, config: QualityConfig) -> None:
    n_rejected = sum(frames.rejected.values())
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(frames.rejected.items()))
    if n_rejected == frames.n_read:
        reason = f"all {frames.n_read} frames are rejected ({counts})" if frames.n_read else "no frame is left by the filters of select"
        raise UserError(f"{source.where}: {reason}; nothing to prepare: get the file again or change the limits")
    if n_rejected > config.max_rejected_fraction * frames.n_read:
        raise UserError(
            f"{source.where}: {n_rejected} of {frames.n_read} frames are rejected ({counts}); accepted at most a share of "
            f"{config.max_rejected_fraction:g}: get the file again or raise quality.max_rejected_fraction"
        )
    if n_rejected > MAX_WARNINGS:
        logger.warning("%s: %d of %d frames rejected: %s", source.where, n_rejected, frames.n_read, counts)


def _slice_scores(frames: Frames, units: list[int], n_units: int) -> list[float]:
    """Return, per map, the mean square force per component of the bead atoms alone."""
    total, count = np.zeros(n_units), np.zeros(n_units)
    for forces, trajectory in zip(frames.forces, frames.trajectory, strict=True):
        if len(trajectory):
            total[units[trajectory[0]]] += np.square(forces, dtype=np.float64).sum()
            count[units[trajectory[0]]] += forces.size
    return [float(t / c) if c else 0.0 for t, c in zip(total, count, strict=True)]


def _second_pass(
    source: AtomSource,
    trajectories: list[SourceTrajectory],
    frames: Frames,
    reduction: Reduction,
    maps: dict[int, ChosenMap],
    units: list[int],
) -> None:
    for block, (numbers, source_frame, fold) in enumerate(zip(frames.trajectory, frames.source_frame, frames.fold, strict=True)):
        if len(numbers) == 0 or maps[units[numbers[0]]].kind == "slice":
            continue
        if frames.kept_forces is not None:
            grouped = frames.kept_forces[block]
        else:
            start, stop = int(source_frame[0]), int(source_frame[-1]) + 1
            forces = source.read_forces(trajectories[numbers[0]], start, stop)
            grouped = group_forces(reduction, _take(forces, source_frame - start))
        weights = maps[units[numbers[0]]].weights
        for k in np.unique(fold):
            frames.forces[block][fold == k] = map_rows(weights[k], of_frames(grouped, fold == k))


def _assemble(
    source: AtomSource,
    trajectories: list[SourceTrajectory],
    structure: Structure,
    frames: Frames,
    maps: list[ChosenMap],
    products: list[ForceProducts],
    notes: list[str],
    config: PrepareConfig,
) -> DomainData:
    beads, trajectory = structure.beads, np.concatenate(frames.trajectory)
    temperatures = np.array([t.temperature_kelvin for t in trajectories], np.float32)
    segment = np.concatenate([[0], np.cumsum(~structure.linked)])[beads.residues]
    _, chain_index = np.unique(segment, return_inverse=True)
    return DomainData(
        frames=BeadFrames(
            positions=np.concatenate(frames.positions),
            forces=np.concatenate(frames.forces) if maps else None,
            species=beads.species,
            residue_index=_numbered_along(segment),
            chain_index=chain_index.astype(np.int32),
            temperature=temperatures[trajectory],
            trajectory=trajectory,
        ),
        residue_names=beads.residue_names,
        residue_numbers=source.atoms.residue_numbers[beads.residues].tolist(),
        bead_names=beads.bead_names,
        replicas=[t.replica for t in trajectories],
        trajectory_temperatures=[t.temperature_kelvin for t in trajectories],
        source_lengths=[t.n_frames for t in trajectories],
        source_frame=np.concatenate(frames.source_frame),
        rejected=frames.rejected,
        notes=notes,
        force_map=_record(maps, products, structure, config),
    )


def _numbered_along(segment: np.ndarray) -> np.ndarray:
    """Return [n_beads] int32 rising by one along each segment, and by more over a break."""
    return (np.arange(len(segment)) + np.unique(segment, return_inverse=True)[1]).astype(np.int32)


def _record(maps: list[ChosenMap], products: list[ForceProducts], structure: Structure, config: PrepareConfig) -> ForceMapRecord:
    options = config.force_map
    if not maps:
        return ForceMapRecord(kind="none", requested=options.kind)
    counts = [int(p.n_frames.sum()) for p in products]
    fitted = any(m.kind.startswith("optimal") for m in maps)
    ridges = {m.ridge for m in maps}
    return ForceMapRecord(
        kind="+".join(sorted({m.kind for m in maps})),
        requested=options.kind,
        ridge=ridges.pop() if len(ridges) == 1 else None,
        n_folds=options.n_folds if fitted else 0,
        n_frames=sum(counts),
        n_weights=max(m.n_weights for m in maps),
        n_constraints=len(structure.rigid),
        scores=_mean_scores(maps, counts),
        note="; ".join(dict.fromkeys(m.note for m in maps if m.note)),
    )


def _mean_scores(maps: list[ChosenMap], counts: list[int]) -> dict[str, float]:
    """Return each kind's score averaged over the maps that have it, by frames."""
    scores = {}
    for name in sorted({name for m in maps for name in m.scores}):
        having = [(m.scores[name], count) for m, count in zip(maps, counts, strict=True) if name in m.scores]
        scores[name] = sum(score * count for score, count in having) / sum(count for _, count in having)
    return scores
