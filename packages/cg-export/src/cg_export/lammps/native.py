"""The prior as LAMMPS's own bond, angle, dihedral and pair styles, beside the network alone in pair style `cg`.

`cg_priors.export_lammps` writes coefficients, tables and typed tuples; here they are fitted to a system of any chains and to
`pair_style hybrid/overlay`. LAMMPS cannot tell pairs of beads by their sequence separation, so every pair two to five residues
apart is a bond of a table type with the excluded volume, and `special_bonds lj 0 1 1` keeps all such pairs, and no other, out of
the repulsion's table; `coul 1 1 1` keeps them in the neighbour list, where the network needs them.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.errors import require
from cg_export.lammps.system import System
from cg_models.bundle import Bundle
from cg_priors.export_lammps import export_lammps
from cg_priors.parameters import PriorParameters

SETTINGS_FILE = "prior.settings"
FOLDER = "prior"
TITLES = ("Bonds", "Angles", "Dihedrals")


@dataclasses.dataclass(frozen=True)
class NativePrior:
    """A prior for one system: typed tuples for the data file, and what the input needs besides `prior/prior.settings`.

    tuples: title of a data section -> lines; types: kind -> number of types; pair_style: sub-style of the repulsion with its
    arguments, None where the prior has none; ghosts_angstrom: how far its bonds reach.
    """

    tuples: dict[str, list[str]]
    types: dict[str, int]
    pair_style: str | None
    ghosts_angstrom: float


def trained_prior(bundle: Bundle) -> PriorParameters:
    """Return the prior of a bundle as it was trained; raise `UserError` where the bundle is not prior and network together."""
    require(
        bundle.prior is not None and "backbone" in bundle.params,
        f"priors native: expected a model of mode hybrid, received mode {bundle.config.mode}: use priors=embedded",
    )
    assert bundle.prior is not None
    return bundle.prior.replace_arrays(bundle.params["prior"])


def write_native_prior(folder: Path, prior: PriorParameters, system: System) -> NativePrior:
    """Write `prior/` with settings and tables into a run's folder; return what data file and input need."""
    n_beads = system.n_beads
    frames = BeadFrames(
        positions=system.positions[None].astype(np.float32),
        forces=None,
        species=np.array([prior.species_names.index(name) for name in system.names], np.int32),
        residue_index=system.residue_index.astype(np.int32),
        chain_index=np.unique(system.chain_index, return_inverse=True)[1].astype(np.int32),
        temperature=np.full(1, prior.temperature_kelvin, np.float32),
        trajectory=np.zeros(1, np.int32),
    )
    (folder / FOLDER).mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        written = export_lammps(Path(scratch) / "prior", prior, frames)
        texts = {path.name: path.read_text() for path in written}
    for name, text in texts.items():
        if name.endswith(".table"):
            (folder / FOLDER / name).write_text(text)
    lines, pair_style, ghosts = _settings(texts[SETTINGS_FILE])
    (folder / FOLDER / SETTINGS_FILE).write_text("\n".join([*lines, ""]))
    data = texts["prior.data"]
    require(f"{n_beads} atoms" in data, f"priors native: expected {n_beads} beads in the prior's data file")
    return NativePrior({title: _section(data, title) for title in TITLES}, _types(data), pair_style, ghosts)


def _settings(text: str) -> tuple[list[str], str | None, float]:
    """Return the settings with pair coefficients for a hybrid style and tables by their new path, the pair style, and the reach."""
    kept: list[str] = []
    pair_style, ghosts = None, 0.0
    for line in text.splitlines():
        words = [f"{FOLDER}/{word}" if word.endswith(".table") else word for word in line.split()]
        if words[:1] == ["pair_style"]:
            pair_style = None if words[1] == "zero" else " ".join(words[1:])
        elif words[:2] == ["comm_modify", "cutoff"]:
            ghosts = float(words[2])
        elif words[:1] == ["special_bonds"]:
            kept.append(f"{' '.join(words)} coul 1 1 1")
        elif words[:1] == ["pair_coeff"]:
            if pair_style is not None:
                kept.append(" ".join([*words[:3], pair_style.split()[0], *words[3:]]))
        else:
            kept.append(" ".join(words))
    return kept, pair_style, ghosts


def _section(data: str, title: str) -> list[str]:
    parts = data.split(f"\n{title}\n\n")
    return parts[1].split("\n\n")[0].strip().splitlines() if len(parts) > 1 else []


def _types(data: str) -> dict[str, int]:
    """Return kind -> number of types, from lines such as `9 bond types`."""
    rows = [line.split() for line in data.splitlines() if line.endswith(" types")]
    return {row[1]: int(row[0]) for row in rows}
