"""The artifact folder: what `manifest.json` says, and how it is written and read.

An artifact is a folder with `manifest.json`, `manifest.sha256` (the checksum of the manifest), `model.jaxexport` (one
shape-polymorphic `jax.export` file) and one static-shape StableHLO module for each budget of the ladder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from cg_data.atomic import sha256
from cg_data.errors import UserError, require

FORMAT_VERSION = 1
"""Version of the artifact format that this package writes, and the newest that it and its plugin read."""

MANIFEST_FILE = "manifest.json"
CHECKSUM_FILE = "manifest.sha256"


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ArraySpec(_Part):
    """One argument or result of the exported function; symbolic sizes are names of a budget's fields."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    unit: str = ""


class ModuleSpec(_Part):
    """One static-shape StableHLO module, the platforms that it was lowered for, and its budget."""

    file: str
    platforms: list[str]
    beads: int
    edges: int
    bonds: int
    angles: int
    dihedrals: int


class Reference(_Part):
    """A frame in free space with the bundle's own energies (kcal/mol, per bead) and forces (kcal/mol/angstrom)."""

    species: list[int]
    residue_index: list[int]
    chain_index: list[int]
    positions: list[list[float]]
    energies: list[float]
    forces: list[list[float]]


class Manifest(_Part):
    """Everything a program must know to run the artifact; see `FORMAT_VERSION`."""

    format_version: int
    units: Literal["real"] = "real"
    part: Literal["full", "backbone", "prior"]
    precision: Literal["float32", "float64"]
    cutoff_angstrom: float
    receptive_field_angstrom: float
    needs_topology: bool
    species_names: list[str]
    masses_amu: list[float]
    temperature_kelvin: float | None
    arguments: list[ArraySpec]
    results: list[ArraySpec]
    modules: list[ModuleSpec]
    stablehlo_version: str
    versions: dict[str, str]
    files: dict[str, str]
    reference: Reference

    def species_index(self, names: Sequence[str]) -> np.ndarray:
        """Return [n] int32 indices of residue names; raise `UserError` naming the first that the artifact lacks."""
        for name in names:
            require(name in self.species_names, f"species {name!r} is not in the artifact; it knows {' '.join(self.species_names)}")
        return np.array([self.species_names.index(name) for name in names], np.int32)

    def check_precision(self, wanted: str | None) -> None:
        """Raise `UserError` where a precision is asked for that is not the artifact's."""
        require(
            wanted in (None, self.precision),
            f"precision {wanted}: expected that of the artifact, {self.precision}: leave it out, or export the artifact again",
        )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest and its checksum into an artifact folder that is being made."""
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
    (folder / CHECKSUM_FILE).write_text(f"{sha256(path)}  {MANIFEST_FILE}\n")


def read_manifest(folder: Path | str) -> Manifest:
    """Return the manifest of an artifact folder after verifying version and checksums.

    Raises `UserError` where the folder is not an artifact, is newer than this package, or has a changed or missing file.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: expected an artifact folder with {MANIFEST_FILE}, found none: write one with cg-export stablehlo"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}): export the artifact again") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path}: expected the manifest of an artifact, found no format_version: export the artifact again")
    require(
        version <= FORMAT_VERSION,
        f"{path}: artifact format {version} is newer than {FORMAT_VERSION}, the newest known here: update cg-export",
    )
    _verify(path, (Path(folder) / CHECKSUM_FILE).read_text()[:64] if (Path(folder) / CHECKSUM_FILE).is_file() else "no checksum file")
    try:
        manifest = Manifest.model_validate(values)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise UserError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}: export the artifact again") from None
    for name, expected in manifest.files.items():
        require((Path(folder) / name).is_file(), f"{Path(folder) / name}: missing; the manifest lists it: export the artifact again")
        _verify(Path(folder) / name, expected)
    return manifest


def _verify(path: Path, expected: str) -> None:
    actual = sha256(path)
    require(
        actual == expected,
        f"{path}: checksum mismatch, expected sha256 {expected[:12]}..., received {actual[:12]}...: "
        "the artifact was changed or damaged; export it again",
    )
