"""`mean-force`: a dataset whose forces are mean forces, made frame by frame, from wherever it stopped.

    output/
      config.yaml              the resolved options
      dataset.json, domains/   the dataset
      source/                  while unfinished, where the inputs are all-atom files: the dataset the frames are chosen from
      labels/<domain>/<id>/    while unfinished: one file per finished frame of the dataset and options of that id

The frames are draws from the ensemble of the simulation, and the atoms start from theirs: averages from them are right on average
over frames even for motions slower than a run, whose spread no error computed from the run can show.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cg_data.all_atom import AllAtomModel, build_model, hold, import_openmm, model_forces
from cg_data.atomic import atomic_file, room_at
from cg_data.atoms import AtomSource, AtomTable, chain_links, unwrap
from cg_data.command_line import progress_bar
from cg_data.config import MeanForceConfig, PrepareConfig, SamplingConfig
from cg_data.constraints import find_bonds, rigid_bonds, rigid_groups
from cg_data.contracts import BeadFrames
from cg_data.errors import UserError, require
from cg_data.force_map import Reduction, local_supports, reduce_atoms
from cg_data.mapping import map_beads, species_names_of
from cg_data.mdcath import open_mdcath
from cg_data.mean_force import N_FOLDS, MeanForce, sample_mean_force
from cg_data.pipeline import find_inputs, load_saved, mapping_of, prepare
from cg_data.records import DomainRecord, ForceMapRecord
from cg_data.split import SPLITS, Segments
from cg_data.store import Dataset, DomainData, open_dataset, read_record, write_domain, write_index
from cg_data.trajectory_formats import open_described
from cg_data.workers import spread

logger = logging.getLogger("cg_data")

SAME_POSITION_ANGSTROM = 1e-2
NOT_OPTIONS = {"inputs", "workers"}
"""Parts of the configuration that do not change what is written about a domain."""


@dataclass(frozen=True)
class HeldDomain:
    """A domain's all-atom system with its beads held; arrays are in the system's order of atoms, `order` [n_atoms] leads there."""

    system_xml: str
    order: np.ndarray
    held: np.ndarray
    reduction: Reduction
    supports: list[np.ndarray]
    n_constraints: int


@dataclass(frozen=True)
class FrameTask:
    """One frame to label: positions [n_atoms, 3] angstrom in the source's order, and where the label goes."""

    domain: HeldDomain
    positions: np.ndarray
    temperature_kelvin: float
    seed: int
    sampling: SamplingConfig
    platform: str
    where: str
    path: Path


def make_mean_forces(config: MeanForceConfig, output: Path | str) -> Dataset:
    """Write the dataset folder `output` with mean forces for some frames of every domain, and open it.

    A run that was stopped continues with the frames that are missing, each with the result it would have had. A domain that cannot
    be simulated is logged and named with its reason in the index, as in `prepare`.

    Raises `UserError` where OpenMM is missing, an input cannot be used, no domain can, or `output` was made with other options.
    """
    output = Path(output)
    import_openmm()
    datasets, others = _sort_inputs(config)
    created = not output.exists()
    with room_at(output, "the same command continues"):
        _claim(output, config)
        try:
            source = datasets[0] if datasets else prepare(_prepare_options(config, others), output / "source")
            options = PrepareConfig.load(source.path / "config.yaml")
            mapping_name = options.mapping.beads
            options = options.model_copy(update={"mapping": mapping_of(source.path, options)})
            files = find_inputs(options.model_copy(update={"inputs": tuple(others)}) if others else options)
            refused: dict[str, str] = {}
            for domain in source.domains:
                try:
                    _label_domain(source, domain, files, options, config, output)
                except UserError as error:
                    refused[domain] = " ".join(str(error).split())
                    logger.error("%s", error)
            if not any((output / "domains").glob("[!.]*/domain.json")):
                raise _nothing_made(source, refused, config)
        except UserError:
            if created and not any(output.glob("labels/**/*.npz")):
                shutil.rmtree(output)
            raise
        recorded = {key: value for key, value in config.to_dict().items() if key not in NOT_OPTIONS}
        write_index(output, species_names_of(options.mapping), mapping_name, recorded, refused)
        if not refused:
            for part in ("source", "labels"):
                shutil.rmtree(output / part, ignore_errors=True)
    return open_dataset(output)


def _nothing_made(source: Dataset, refused: dict[str, str], config: MeanForceConfig) -> UserError:
    if not refused:
        asked = ", ".join(config.splits) or "none"
        return UserError(f"{source.path}: no frame in the splits asked for ({asked}); expected some of {', '.join(SPLITS)}: change splits")
    return UserError(next(iter(refused.values())) if len(refused) == 1 else "no domain can be used; each has its reason above")


def _sort_inputs(config: MeanForceConfig) -> tuple[list[Dataset], list[str]]:
    """Return the dataset among the inputs, if there is one, and the others: all-atom files, folders of them, patterns."""
    folders = [text for text in config.inputs if (Path(text) / "dataset.json").is_file()]
    require(len(folders) <= 1, f"{', '.join(folders)}: expected one dataset at most; make mean forces of each by itself")
    others = [text for text in config.inputs if text not in folders]
    require(bool(config.inputs), "no input: give a dataset made by cg-data prepare, or all-atom files")
    if folders:
        made_by_prepare = (Path(folders[0]) / "config.yaml").is_file()
        require(made_by_prepare, f"{folders[0]}: no config.yaml; expected a dataset made by cg-data prepare: give its all-atom files")
        require(
            not config.model_fields_set & {"prepare"},
            f"{folders[0]}: options of prepare are those of the dataset; give them with all-atom files only",
        )
    return [open_dataset(folder) for folder in folders], others


def _prepare_options(config: MeanForceConfig, inputs: list[str]) -> PrepareConfig:
    return config.prepare.model_copy(update={"inputs": tuple(inputs), "workers": config.workers})


def _claim(output: Path, config: MeanForceConfig) -> None:
    """Make the folder, or make sure that it was begun with the same options."""
    saved = output / "config.yaml"
    if not saved.is_file():
        empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
        require(empty, f"{output}: already exists and was not made by cg-data mean-force: choose another or remove it")
        config.save(saved)
        return
    before, now = load_saved(MeanForceConfig, output, "mean-force").to_dict(), config.to_dict()
    changed = [key for key in now if key not in NOT_OPTIONS and before[key] != now[key]]
    require(not changed, f"{output}: was begun with other options ({', '.join(changed)}): choose another folder, or the same options")


def _label_domain(
    source: Dataset, domain: str, files: Sequence[Path], options: PrepareConfig, config: MeanForceConfig, output: Path
) -> None:
    record = source.domain(domain)
    chosen = choose_label_frames(record, config.splits, config.frames)
    if len(chosen) == 0:
        return
    fingerprint = _fingerprint(record, config)
    finished = output / "domains" / domain / "domain.json"
    if finished.is_file() and read_record(finished).fingerprint == fingerprint:
        return
    frames = source.frames(domain).select(chosen)
    with _open_source(record, files) as atoms:
        held, positions, difference = _hold_domain(atoms, record, frames, source.source_frame(domain)[chosen], options, config)
    tasks = [
        FrameTask(
            domain=held,
            positions=positions[i],
            temperature_kelvin=float(frames.temperature[i]),
            seed=_seed(config.seed, domain, int(frame)),
            sampling=config.sampling,
            platform=config.all_atom.platform,
            where=f"{domain}: frame {frame}",
            path=output / "labels" / domain / fingerprint[:16] / f"{frame:08d}.npz",
        )
        for i, frame in enumerate(chosen)
    ]
    _run(tasks, config.workers, domain)
    labels = [_read_label(task.path) for task in tasks]
    data = _labelled(record, frames, source.source_frame(domain)[chosen], chosen, labels, held, difference, config)
    write_domain(output, domain, replace(data, source=record.source, fingerprint=fingerprint), options.split)
    logger.info("%s: %s", domain, data.notes[-1])


def choose_label_frames(record: DomainRecord, splits: Sequence[str], most: int) -> np.ndarray:
    """Return the sorted indices of at most `most` frames, evenly spaced over the frames of `splits`."""
    candidates = np.sort(np.concatenate([np.zeros(0, np.int64), *(record.split_frames(name) for name in splits)]))
    if len(candidates) <= most:
        return candidates
    return candidates[np.unique(np.linspace(0, len(candidates) - 1, most).round().astype(int))]


def restrict_segments(record: DomainRecord, chosen: np.ndarray) -> list[Segments]:
    """Return, per trajectory, the splits of a domain counted in its chosen frames [n], sorted: each frame keeps its split."""
    result = []
    for trajectory in record.trajectories:
        ends = [trajectory.first_frame, trajectory.first_frame + trajectory.n_frames]
        own = chosen[slice(*np.searchsorted(chosen, ends))] - trajectory.first_frame
        blocks = {name: np.searchsorted(own, block) for name, block in trajectory.segments.items()}
        result.append({name: (int(start), int(stop)) for name, (start, stop) in blocks.items() if stop > start})
    return result


def _open_source(record: DomainRecord, files: Sequence[Path]) -> contextlib.AbstractContextManager[AtomSource]:
    matching = [file for file in files if file.name == record.source]
    require(bool(matching), f"{record.domain}: its file {record.source} is not among the inputs: give it beside the dataset")

    @contextlib.contextmanager
    def opened():  # type: ignore[no-untyped-def]
        # Descriptions in several folders may have one name.
        for file in matching:
            with open_described(file) if file.suffix in (".yaml", ".yml") else open_mdcath(file) as container:
                if record.domain in container.domains:
                    yield container.source(record.domain)
                    return
        raise UserError(f"{matching[0]}: has no domain {record.domain}: the dataset is of another file")

    return opened()


def _hold_domain(
    source: AtomSource,
    record: DomainRecord,
    frames: BeadFrames,
    source_frame: np.ndarray,
    options: PrepareConfig,
    config: MeanForceConfig,
) -> tuple[HeldDomain, np.ndarray, float | None]:
    """Return the held system, the atoms' positions [n_frames, n_atoms, 3], and how much forces differ from the source's (a share)."""
    atoms = source.atoms
    beads = map_beads(atoms, options.mapping, source.where)
    single = bool((np.diff(beads.weights.indptr) == 1).all())
    require(single, f"{source.where}: mean forces need beads of one atom each, such as ca or backbone; received a mean of several")
    positions, forces = _read_atoms(source, record, frames, source_frame)
    apart = np.abs(positions[:, beads.weights.indices] - frames.positions).max()
    require(
        apart <= SAME_POSITION_ANGSTROM,
        f"{source.where}: its atoms are {apart:.3g} angstrom away from the dataset's beads: the dataset is of another file",
    )
    bonds = find_bonds(atoms, positions)
    rigid = rigid_bonds(bonds, atoms.atomic_numbers, options.force_map.constraints, source.where)
    model = build_model(atoms, bonds, options.force_map.constraints, config.all_atom, source.where)
    difference = None if forces is None else _check_forces(model, positions, forces, source.where, config)
    place = np.argsort(model.order)
    held = place[beads.weights.indices]
    hold(model.system, held)
    groups = csr_array(rigid_groups(rigid, atoms.n_atoms)[:, model.order])
    reduction = reduce_atoms(groups, csr_array(beads.weights[:, model.order]), source.where)
    linked = chain_links(atoms, positions)
    supports = local_supports(atoms.residues[model.order], beads.residues, linked, options.force_map.neighbour_residues, groups)
    xml = import_openmm().XmlSerializer.serialize(model.system)
    return HeldDomain(xml, model.order, held, reduction, supports, len(rigid)), positions, difference


def _read_atoms(
    source: AtomSource, record: DomainRecord, frames: BeadFrames, source_frame: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return positions, of whole molecules, and forces [n_frames, n_atoms, 3] of the frames; None where a source has no forces."""
    by_name = {(t.temperature_kelvin, t.replica): t for t in source.trajectories}
    positions, forces = [], []
    for number, frame in zip(np.asarray(frames.trajectory), source_frame, strict=True):
        of_record = record.trajectories[number]
        trajectory = by_name.get((of_record.temperature_kelvin, of_record.replica))
        if trajectory is None or frame >= trajectory.n_frames:
            raise UserError(
                f"{source.where}: no frame {frame} at {of_record.temperature_kelvin:g} K, replica {of_record.replica}: the dataset is of "
                "another file"
            )
        where, force = source.read(trajectory, int(frame), int(frame) + 1)
        positions.append(unwrap(where, source.atoms, _anchors(source.atoms), trajectory.box_of(np.array([frame])))[0])
        if force is not None:
            forces.append(force[0])
    return np.stack(positions), np.stack(forces) if len(forces) == len(positions) else None


def _anchors(atoms: AtomTable) -> np.ndarray:
    """Return [n_residues] one atom per residue: its CA, or its first atom."""
    anchors, first = atoms.find("CA", 6), np.searchsorted(atoms.residues, np.arange(atoms.n_residues))
    return np.where(anchors >= 0, anchors, first)


def _check_forces(model: AllAtomModel, positions: np.ndarray, forces: np.ndarray, where: str, config: MeanForceConfig) -> float:
    """Return the rms difference of the model's forces from the source's as a share of their rms; refuse a model that is another."""
    ours = model_forces(model, positions, config.all_atom.platform)
    share = float(np.sqrt(np.mean((ours - forces) ** 2) / np.mean(np.square(forces, dtype=np.float64))))
    most = config.all_atom.max_force_difference
    if most is not None and not share <= most:
        raise UserError(
            f"{where}: forces by {', '.join(config.all_atom.force_field)} differ from the source's by {share:.0%} of their rms, accepted "
            f"{most:.0%}: give the source's model as all_atom.force_field, or accept another one with "
            "all_atom.max_force_difference=null"
        )
    return share


def _run(tasks: Sequence[FrameTask], workers: int, domain: str) -> None:
    """Label the frames that are not labelled yet."""
    missing = [task for task in tasks if not task.path.is_file()]
    with progress_bar() as bar:
        overall = bar.add_task(f"{domain} frames", total=len(tasks), completed=len(tasks) - len(missing))
        for _, line in spread(label_frame, missing, workers, domain):
            logger.info("%s", line)
            bar.advance(overall)


def label_frame(task: FrameTask) -> str:
    """Make one frame's label and write it; return a line for the log."""
    domain = task.domain
    # One BLAS thread: results do not depend on the machine's cores.
    with threadpool_limits(1):
        label = sample_mean_force(
            import_openmm().XmlSerializer.deserialize(domain.system_xml),
            task.positions[domain.order],
            domain.held,
            domain.reduction,
            domain.supports,
            task.temperature_kelvin,
            task.seed,
            task.sampling,
            task.platform,
            task.where,
        )
    with atomic_file(task.path) as aside, open(aside, "wb") as file:
        np.savez(file, **vars(label))
    return (
        f"{task.where} ({task.temperature_kelvin:.0f} K): error {label.relative_error:.3f} of the force rms after "
        f"{label.picoseconds:.0f} ps, {label.seconds:.0f} s of processor time"
    )


def _read_label(path: Path) -> MeanForce:
    with np.load(path, allow_pickle=False) as file:
        return MeanForce(**{name: file[name] if file[name].ndim else file[name].item() for name in file.files})


def _labelled(
    record: DomainRecord,
    frames: BeadFrames,
    source_frame: np.ndarray,
    chosen: np.ndarray,
    labels: Sequence[MeanForce],
    held: HeldDomain,
    difference: float | None,
    config: MeanForceConfig,
) -> DomainData:
    force, error = (np.stack([getattr(label, name) for label in labels]) for name in ("force", "error"))
    precision = 1.0 / (config.weight_floor_kcal_mol_angstrom**2 + np.square(error).mean(axis=(1, 2)))
    scores = {"mean-force": float(np.square(force).mean()), "squared-error": float(np.square(error).mean())}
    if frames.forces is not None:
        scores["ordinary"] = float(np.square(frames.forces).mean())
        scores["noise"] = float(np.square(frames.forces - force).mean()) - scores["squared-error"]
    return DomainData(
        frames=replace(
            frames,
            positions=np.asarray(frames.positions),
            forces=force.astype(np.float32),
            weight=(precision / precision.mean()).astype(np.float32),
            force_error=error.astype(np.float32),
        ),
        residue_names=record.residue_names,
        residue_numbers=record.residue_numbers,
        bead_names=record.bead_names,
        replicas=[t.replica for t in record.trajectories],
        trajectory_temperatures=[t.temperature_kelvin for t in record.trajectories],
        source_lengths=[t.n_source_frames for t in record.trajectories],
        source_frame=source_frame,
        segments=restrict_segments(record, chosen),
        notes=(*record.notes, _summary(labels, scores, difference, config)),
        force_map=ForceMapRecord(
            kind="mean-force",
            requested="optimal-local",
            n_folds=N_FOLDS,
            n_frames=len(labels),
            n_weights=max(map(len, held.supports)),
            n_constraints=held.n_constraints,
            scores=scores,
            note=f"OpenMM {import_openmm().__version__}, {', '.join(config.all_atom.force_field)}",
        ),
    )


def _summary(labels: Sequence[MeanForce], scores: dict[str, float], difference: float | None, config: MeanForceConfig) -> str:
    relative = [label.relative_error for label in labels]
    short = sum(not label.blocks or label.relative_error > config.sampling.relative_error for label in labels)
    apart = np.sqrt(np.mean([np.mean((label.force - label.uniform_force) ** 2) for label in labels]))
    expected = np.sqrt(np.mean([np.maximum(label.uniform_error**2 - label.error**2, 0.0).mean() for label in labels]))
    text = (
        f"{len(labels)} mean forces, {sum(label.picoseconds for label in labels):.0f} ps and "
        f"{sum(label.seconds for label in labels):.0f} s of processor time: rms {scores['mean-force'] ** 0.5:.2f} kcal/mol/A, error "
        f"{min(relative):.3f} to {max(relative):.3f} of a frame's rms; {short} frames ended at sampling.max_ps; "
        f"rms difference from the uniform map's {apart:.2f}, expected {expected:.2f}"
    )
    if "noise" in scores:
        text += f"; noise of ordinary labels at these frames {scores['noise']:.1f} of their mean square {scores['ordinary']:.1f}"
    return text + (f"; forces differ from the source's by {difference:.1%} of their rms" if difference is not None else "")


def _seed(seed: int, domain: str, frame: int) -> int:
    """Return a seed of OpenMM, of 1 to 2^31 - 1, that is a frame's own."""
    digest = hashlib.sha256(f"{seed}:{domain}:{frame}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 - 1) + 1


def _fingerprint(record: DomainRecord, config: MeanForceConfig) -> str:
    options = {key: value for key, value in config.to_dict().items() if key not in NOT_OPTIONS}
    return hashlib.sha256(json.dumps({"source": record.fingerprint, "options": options}, sort_keys=True).encode()).hexdigest()
