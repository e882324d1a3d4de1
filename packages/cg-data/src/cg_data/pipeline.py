"""`prepare`: from all-atom files to a dataset folder, in any number of processes, from wherever it stopped."""

import contextlib
import functools
import glob
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import Progress
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cg_data.atomic import atomic_file, hold, room_at
from cg_data.atoms import AtomSource
from cg_data.coarse_grain import coarse_grain
from cg_data.command_line import progress_bar
from cg_data.config import MappingConfig, PrepareConfig
from cg_data.configuration import Configuration
from cg_data.errors import UserError, require
from cg_data.mapping import bead_residues, species_names_of
from cg_data.mdcath import MdcathFile, open_mdcath
from cg_data.select import wanted_domains
from cg_data.split import SplitConfig, is_held_out, read_superfamilies
from cg_data.store import Dataset, DomainData, check_domain_id, open_dataset, read_record, write_domain, write_index
from cg_data.trajectory_formats import DescribedFile, open_described
from cg_data.verify import superfamily_leaks
from cg_data.workers import spread

logger = logging.getLogger("cg_data")

Options = TypeVar("Options", bound=Configuration)

MDCATH_NAME = re.compile(r"mdcath_(?:noh_)?dataset_(.+)\.h5")
NOT_OPTIONS = {"inputs", "workers", "share", "memory_megabytes"}
"""Parts of the configuration that do not change what is written about a domain."""
MAPPING_COPIES = {"beads": "mapping-beads.yaml", "species": "mapping-species.yaml"}
"""Options of the mapping that may name a file, and the copy of it in the dataset folder."""


def prepare(config: PrepareConfig, output: Path | str) -> Dataset:
    """Prepare every domain of the inputs into the dataset folder `output`, and open it.

    Domains already there are kept, so that a run that was stopped continues and a finished data set grows. A file that cannot be
    used is logged, named with its reason in the index (`Dataset.info.refused`), and does not keep the others from being prepared.

    Raises `UserError` where there is no input, none of it can be used, or `output` was prepared with other options.
    """
    output = Path(output)
    files = find_inputs(config)
    with room_at(output, "the same command continues"):
        created = not output.exists()
        _claim(output, config)
        _warn_of_unknown_held_out_domains(config.split, files, output)
        start, count = config.share
        require(0 <= start < count, f"share {start},{count}: expected index,count with 0 <= index < count")
        errors = _prepare_files(files[start::count], config, output)
        if count == 1 and not any((output / "domains").glob("[!.]*/domain.json")):
            if created:
                shutil.rmtree(output)
            raise _nothing_prepared(errors)
        for error in errors:
            logger.error("%s", error)
        return merge(output)


def _warn_of_unknown_held_out_domains(config: SplitConfig, files: Sequence[Path], output: Path) -> None:
    """A misspelt name holds out nothing. One that is only in the table of superfamilies holds out its relatives."""
    unknown = set(config.held_out_domains) - read_superfamilies(config.superfamilies).keys()
    unknown = {name for name in unknown if not (output / "domains" / name / "domain.json").is_file()}
    # Files that are not named by their domain are opened for it.
    for name in sorted(unknown - _domains_in(files).keys() if unknown else ()):
        logger.warning("split.held_out_domains: %s is in none of the inputs: nothing is held out by that name", name)


def _nothing_prepared(errors: list[str]) -> UserError:
    if len(errors) == 1:
        return UserError(errors[0])
    for error in errors:
        logger.error("%s", error)
    return UserError(f"none of the {len(errors)} inputs can be used; each has its reason above" if errors else "select: no domain is left")


def merge(output: Path | str) -> Dataset:
    """Write the index of a dataset folder from the domains that are in it, and open it."""
    output = Path(output)
    require((output / "config.yaml").is_file(), f"{output}: no config.yaml; expected the output folder of cg-data prepare")
    config = PrepareConfig.load(output / "config.yaml")
    # Held while the folders are read and the index is written: of several writers, the last one sees all domains.
    with room_at(output), hold(output, "index"):
        leaks = superfamily_leaks([read_record(file) for file in sorted((output / "domains").glob("[!.]*/domain.json"))])
        require(not leaks, f"{output}: {'; '.join(leaks)}: prepare again, with the table of superfamilies as it is now")
        refused = {file.stem: file.read_text().strip() for file in sorted((output / "refused").glob("*.txt"))}
        write_index(output, species_names_of(mapping_of(output, config)), config.mapping.beads, options_of(config), refused)
    return open_dataset(output)


def mapping_of(output: Path, config: PrepareConfig) -> MappingConfig:
    """Return the mapping a dataset folder was prepared with: of its files the folder's own copies, which do not change."""
    copies = {key: output / name for key, name in MAPPING_COPIES.items()}
    return config.mapping.model_copy(update={key: str(path) for key, path in copies.items() if path.is_file()})


def options_of(config: PrepareConfig) -> dict[str, Any]:
    """Return the options that decide what is written about a domain, as plain values."""
    return {key: value for key, value in config.to_dict().items() if key not in NOT_OPTIONS}


def find_inputs(config: PrepareConfig) -> list[Path]:
    """Return the sorted files that the inputs name, without those whose name shows that the domain is not asked for."""
    files: set[Path] = set()
    for text in config.inputs:
        path = Path(text)
        if path.is_dir():
            found = sorted(path.glob("mdcath_dataset_*.h5"))
            require(bool(found), f"{path}: no mdcath_dataset_*.h5 in this folder: give the files themselves")
        elif path.exists() or not glob.has_magic(text):
            require(path.exists(), f"{path}: no such file: give the path of an mdCATH file, a folder or a pattern")
            found = [path]
        else:
            found = [Path(name) for name in glob.glob(text)]
            require(bool(found), f"{text}: matches no file")
        files.update(found)
    require(bool(files), "no input: give mdCATH files, a folder of them, or a pattern")
    wanted = wanted_domains(config.select)
    if wanted is not None:
        names = {file: MDCATH_NAME.fullmatch(file.name) for file in files}
        files = {file for file, match in names.items() if match is None or match[1] in wanted}
        require(bool(files), "select: none of the inputs is a domain asked for: change select.domains, residues or index")
    ordered = sorted(files, key=lambda file: (file.name, str(file)))
    for name in sorted(set(config.select.domains or ()) - _domains_in(ordered).keys()):
        logger.warning("select.domains: %s is in none of the inputs", name)
    return ordered


def _domains_in(files: Sequence[Path]) -> dict[str, Path]:
    """Return the file of each domain; `UserError` where two files have the same one, of which one would replace the other.

    A domain is known from the name of an mdCATH file; of other files, those that cannot be read have none.
    """
    result: dict[str, Path] = {}
    for file in files:
        match = MDCATH_NAME.fullmatch(file.name)
        domains = (match[1],) if match else ()
        if not match:
            with contextlib.suppress(UserError), _open(file) as opened:
                domains = opened.domains
        for domain in domains:
            other = result.setdefault(domain, file)
            same = other == file or other.samefile(file)
            require(same, f"domain {domain} is in two inputs, {other} and {file}: give one of them")
    return result


def _claim(output: Path, config: PrepareConfig) -> None:
    """Make the folder, or make sure that it was prepared with the same options."""
    saved = output / "config.yaml"
    if saved.is_file():
        difference = _first_difference(options_of(load_saved(PrepareConfig, output, "prepare")), options_of(config))
        if difference:
            raise UserError(f"{output}: was prepared with other options ({difference}): choose another folder, or the same options")
        for key, file in _mapping_files(config).items():
            copy = output / MAPPING_COPIES[key]
            if copy.is_file() and copy.read_bytes() != file.read_bytes():
                raise UserError(
                    f"{output}: was prepared with another {file.name} (mapping.{key}), of which {copy.name} there is a copy: choose "
                    "another folder, or the same file"
                )
        return
    # Another share may be making the folder at this moment: its first visible files are these copies and config.yaml.
    visible = {path.name for path in output.glob("[!.]*")} if output.is_dir() else set()
    if output.is_file() or (visible - set(MAPPING_COPIES.values()) and "config.yaml" not in visible):
        raise UserError(f"{output}: already exists and is no dataset folder: choose another or remove it")
    for key, file in _mapping_files(config).items():
        with atomic_file(output / MAPPING_COPIES[key]) as aside:
            shutil.copyfile(file, aside)
    # Where a share of an array is prepared, its number is not an option of the data set.
    config.model_copy(update={"share": (0, 1)}).save(saved)


def load_saved(kind: type[Options], output: Path, command: str) -> Options:
    """Return the options saved in the output folder of a command; `UserError` where the folder is another command's."""
    try:
        return kind.load(output / "config.yaml")
    except UserError:
        raise UserError(f"{output}: already exists and was not made by cg-data {command}: choose another or remove it") from None


def _mapping_files(config: PrepareConfig) -> dict[str, Path]:
    """Return the files that options of the mapping name; `UserError` where one of them cannot be used."""
    species_names_of(config.mapping)
    named = {key: Path(getattr(config.mapping, key)) for key in MAPPING_COPIES}
    return {key: path for key, path in named.items() if path.suffix in (".yaml", ".yml")}


def _first_difference(before: Any, now: Any, key: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            difference = _first_difference(before.get(name), now.get(name), f"{key}.{name}" if key else name)
            if difference:
                return difference
        return ""
    return "" if before == now else f"{key}: {before!r} then, {now!r} now"


def _prepare_files(files: Sequence[Path], config: PrepareConfig, output: Path) -> list[str]:
    reasons: dict[int, list[str]] = {}
    with progress_bar() as bar:
        overall = bar.add_task("domains", total=len(files))
        inner = bar if min(config.workers, len(files)) < 2 else None  # A bar stays in its process.
        prepare_one = functools.partial(prepare_file, config=config, output=output, bar=inner)
        for number, of_file in spread(prepare_one, files, config.workers, str(output)):
            reasons[number] = of_file
            bar.advance(overall)
    return [reason for number in sorted(reasons) for reason in reasons[number]]


def prepare_file(file: Path, config: PrepareConfig, output: Path, bar: Progress | None = None) -> list[str]:
    """Prepare the domains of one file that are not prepared yet; return the reasons for those that cannot be."""
    reasons: list[str] = []
    try:
        # One BLAS thread: matrices are small, threads would wait for each other, and results do not depend on the machine's cores.
        with threadpool_limits(1), _open(file) as opened:
            for domain in opened.domains:
                try:
                    if not _is_wanted(domain, opened, config):
                        continue
                    fingerprint = _fingerprint(file.name, opened.digest, domain, config)
                    source = functools.partial(opened.source, domain)
                    _prepare_domain(domain, source, file, fingerprint, config, output, bar)
                except UserError as error:
                    reasons.append(str(error))
    except UserError as error:
        reasons.append(str(error))
    refusal = output / "refused" / f"{_refused_name(file)}.txt"
    if reasons:
        with atomic_file(refusal) as aside:
            aside.write_text("; ".join(" ".join(reason.split()) for reason in reasons) + "\n")
    else:
        refusal.unlink(missing_ok=True)
    return reasons


def _refused_name(file: Path) -> str:
    """Return the name an input is refused under: its own, and where that does not hold its domain, what tells its folder from others."""
    if MDCATH_NAME.fullmatch(file.name):
        return file.name
    return f"{file.name}@{hashlib.sha256(str(file.absolute().parent).encode()).hexdigest()[:8]}"


def _is_wanted(domain: str, opened: MdcathFile | DescribedFile, config: PrepareConfig) -> bool:
    select = config.select
    if select.domains is not None and domain not in select.domains:
        return False
    if select.residues is None:
        return True
    n_residues = opened.n_residues(domain)
    if n_residues is None:
        source = opened.source(domain)
        n_residues = len(bead_residues(source.atoms, source.where))
    return select.residues[0] <= n_residues <= select.residues[1]


def _prepare_domain(
    domain: str,
    source_of: Callable[[], AtomSource],
    file: Path,
    fingerprint: str,
    config: PrepareConfig,
    output: Path,
    bar: Progress | None,
) -> None:
    check_domain_id(domain)
    with hold(output / "domains", domain):
        record = output / "domains" / domain / "domain.json"
        if record.is_file() and read_record(record).fingerprint == fingerprint:
            return
        source = source_of()
        data = _with_progress(source, config, bar)
        write_domain(output, domain, data_with(data, file.name, fingerprint), config.split)
    kind, scores = (data.force_map.kind, data.force_map.scores) if data.force_map else ("none", {})
    gain = f", mean square force {scores[kind]:.4g} (slice {scores['slice']:.4g})" if kind in scores else ""
    logger.info("%s: %d beads, %d frames, map %s%s", domain, data.frames.n_beads, data.frames.n_frames, kind, gain)


def data_with(data: DomainData, source: str, fingerprint: str) -> DomainData:
    """Return the data with where they came from."""
    return DomainData(**{**vars(data), "source": source, "fingerprint": fingerprint})


def _with_progress(source: AtomSource, config: PrepareConfig, bar: Progress | None) -> DomainData:
    if bar is None:
        return coarse_grain(source, config)
    task = bar.add_task(source.domain, total=sum(t.n_frames for t in source.trajectories))
    try:
        return coarse_grain(source, config, lambda n_frames: bar.advance(task, n_frames))
    finally:
        bar.remove_task(task)


def _open(file: Path) -> contextlib.AbstractContextManager[MdcathFile | DescribedFile]:
    return open_described(file) if file.suffix in (".yaml", ".yml") else open_mdcath(file)


def _fingerprint(file: str, digest: str, domain: str, config: PrepareConfig) -> str:
    superfamilies = read_superfamilies(config.split.superfamilies)
    identity = {
        "file": file,
        "contents": digest,
        "domain": domain,
        "options": options_of(config),
        # The table of superfamilies may change while its name does not.
        "superfamily": superfamilies.get(domain),
        "held_out": is_held_out(domain, config.split, superfamilies),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
