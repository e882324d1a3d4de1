"""Which frames are for training, for validation, and for the two kinds of test."""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence

import pydantic

from cg_data.configuration import Configuration
from cg_data.errors import UserError

SPLITS = ("train", "validation", "held_out_trajectories", "held_out_domains")
"""Names of the splits. Frames inside a gap between two splits belong to none."""

Segments = dict[str, tuple[int, int]]
"""Split name to a half-open range of frames."""


class SplitConfig(Configuration):
    """How frames are divided.

    A held-out domain gives all its frames to `held_out_domains`. Of any other domain, the trajectories of the last replica
    (where there are several replicas) or the last part of each trajectory are held out; a block at the end of what is left is
    for validation, and a gap keeps blocks of one trajectory apart in time. Everything depends on a domain and the seed alone,
    never on which other domains there are, so that a data set can grow and be prepared in shares.
    """

    held_out_domains: tuple[str, ...] = ()
    """Domains held out by name."""
    held_out_domain_fraction: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Further share of domains held out, drawn by a hash of the seed and the domain (or its superfamily)."""
    hold_out_last_replica: bool = True
    """Hold out the last replica at each temperature of a domain that has several; false: by time alone."""
    held_out_trajectory_fraction: float = pydantic.Field(default=0.2, ge=0, lt=1)
    """Share of frames held out at the end of each trajectory of a domain with one replica."""
    validation_fraction: float = pydantic.Field(default=0.1, ge=0, lt=1)
    """Share of a trajectory's training frames that are for validation: a block at their end."""
    gap_fraction: float = pydantic.Field(default=0.02, ge=0, lt=0.5)
    """Frames left out between two blocks of one trajectory, as a share of the trajectory; at least one frame."""
    superfamilies: str | None = None
    """CSV or whitespace table with a domain and its classification (such as 1.10.8.10) per line: relatives are held out together."""
    seed: int = 0


def is_held_out(domain: str, config: SplitConfig, superfamilies: Mapping[str, str]) -> bool:
    """Return whether a domain, by name, by its superfamily or by the draw, is held out."""
    group = superfamilies.get(domain, domain)
    held_out_groups = {superfamilies.get(name, name) for name in config.held_out_domains}
    if group in held_out_groups:
        return True
    draw = int.from_bytes(hashlib.sha256(f"{config.seed}:{group}".encode()).digest()[:8], "big") / 2**64
    return draw < config.held_out_domain_fraction


def assign_segments(
    replicas: Sequence[int], temperatures: Sequence[float], lengths: Sequence[int], held_out: bool, config: SplitConfig
) -> list[Segments]:
    """Return, per trajectory, the frames (counted from its first) of each split.

    replicas, temperatures, lengths: one value per trajectory of one domain.
    """
    if held_out:
        return [{"held_out_domains": (0, length)} if length else {} for length in lengths]
    last = {}
    for temperature in set(temperatures):
        of_temperature = [r for r, t, n in zip(replicas, temperatures, lengths, strict=True) if t == temperature and n]
        if config.hold_out_last_replica and len(set(of_temperature)) > 1:
            last[temperature] = max(of_temperature)
    segments: list[Segments] = []
    for replica, temperature, length in zip(replicas, temperatures, lengths, strict=True):
        if temperature in last and replica == last[temperature]:
            segments.append({"held_out_trajectories": (0, length)} if length else {})
        else:
            test_fraction = 0.0 if temperature in last else config.held_out_trajectory_fraction
            segments.append(_blocks(length, test_fraction, config))
    return segments


def _blocks(length: int, test_fraction: float, config: SplitConfig) -> Segments:
    gap = max(1, round(config.gap_fraction * length))
    test_start = length - round(test_fraction * length)
    training_end = test_start if test_start == length else max(test_start - gap, 0)
    validation_start = training_end - round(config.validation_fraction * training_end)
    train_end = validation_start if validation_start == training_end else max(validation_start - gap, 0)
    blocks = {
        "train": (0, train_end),
        "validation": (validation_start, training_end),
        "held_out_trajectories": (test_start, length),
    }
    return {name: block for name, block in blocks.items() if block[1] > block[0]}


def read_superfamilies(path: str | None) -> dict[str, str]:
    """Return domain -> superfamily from a table of two columns (comma or white space); empty for None.

    CATH's own `cath-domain-list` (domain, class, architecture, topology, homologous superfamily, ...) is understood too.
    """
    if path is None:
        return {}
    try:
        return _read_table(path, os.stat(path).st_mtime_ns)
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: cannot read the table of superfamilies; expected lines of 'domain classification'") from None


@functools.lru_cache(maxsize=1)
def _read_table(path: str, changed_ns: int) -> dict[str, str]:
    """Return the table as it was at a time of change: it is asked for once per domain."""
    with open(path) as file:
        rows = [line.replace(",", " ").split() for line in file if line.strip() and not line.startswith("#")]
    table = {}
    for row in rows:
        if len(row) < 2:
            raise UserError(f"{path}: expected 'domain classification' on each line, received {' '.join(row)!r}")
        table[row[0]] = row[1] if "." in row[1] or len(row) < 5 else ".".join(row[1:5])
    return table


def check_segments(segments: Sequence[Segments], lengths: Sequence[int], where: str) -> None:
    """Raise `UserError` naming `where` if a frame lies in two splits, outside its trajectory, or a domain is half held out."""
    names = {name for blocks in segments for name in blocks}
    unknown = names - set(SPLITS)
    if unknown:
        raise UserError(f"{where}: unknown split {min(unknown)!r}; expected one of {', '.join(SPLITS)}")
    if "held_out_domains" in names and len(names) > 1:
        raise UserError(f"{where}: a held-out domain has frames in {', '.join(sorted(names - {'held_out_domains'}))}: split again")
    for trajectory, (blocks, length) in enumerate(zip(segments, lengths, strict=True)):
        end, previous = 0, ""
        for name, (start, stop) in sorted(blocks.items(), key=lambda item: item[1]):
            if start < end:
                raise UserError(f"{where}: splits {previous!r} and {name!r} share frames of trajectory {trajectory}: split again")
            if stop > length or stop < start:
                raise UserError(f"{where}: split {name!r} has frames {start}-{stop} of a trajectory of {length}: split again")
            end, previous = stop, name
