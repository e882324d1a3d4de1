"""Residues, their names, species and masses; beads and the atoms they are made of."""

from dataclasses import dataclass

import numpy as np
import pydantic
from scipy.sparse import csr_array

from cg_data.atoms import CAPS, AtomTable
from cg_data.config import MappingConfig
from cg_data.configuration import Configuration, read_yaml
from cg_data.errors import UserError, require

RESIDUE_MASSES_AMU: dict[str, float] = {
    "ALA": 71.0788,
    "ARG": 156.1875,
    "ASN": 114.1038,
    "ASP": 115.0886,
    "CYS": 103.1388,
    "GLN": 128.1307,
    "GLU": 129.1155,
    "GLY": 57.0519,
    "HIS": 137.1411,
    "ILE": 113.1594,
    "LEU": 113.1594,
    "LYS": 128.1741,
    "MET": 131.1926,
    "PHE": 147.1766,
    "PRO": 97.1167,
    "SER": 87.0782,
    "THR": 101.1051,
    "TRP": 186.2132,
    "TYR": 163.1760,
    "VAL": 99.1326,
}
"""Average mass in amu of each residue inside a chain (the amino acid less one water); IUPAC atomic weights."""

RESIDUE_SPECIES: tuple[str, ...] = tuple(RESIDUE_MASSES_AMU)
"""The 20 amino-acid residues in alphabetical order: the default species."""

RESIDUE_VARIANTS: dict[str, str] = {
    # Protonation states, as CHARMM, AMBER, GROMACS and OPLS name them.
    "HSD": "HIS",
    "HSE": "HIS",
    "HSP": "HIS",
    "HID": "HIS",
    "HIE": "HIS",
    "HIP": "HIS",
    "HISA": "HIS",
    "HISB": "HIS",
    "HISD": "HIS",
    "HISE": "HIS",
    "HISH": "HIS",
    "ASH": "ASP",
    "ASPH": "ASP",
    "ASPP": "ASP",
    "GLH": "GLU",
    "GLUH": "GLU",
    "GLUP": "GLU",
    "LYN": "LYS",
    "LSN": "LYS",
    "LYSH": "LYS",
    "ARN": "ARG",
    "TYM": "TYR",
    # Cysteine: disulfide-bonded, deprotonated, oxidised.
    "CYX": "CYS",
    "CYM": "CYS",
    "CYS2": "CYS",
    "CYSH": "CYS",
    "CSO": "CYS",
    "CSD": "CYS",
    "OCS": "CYS",
    "CME": "CYS",
    # Modified residues of the PDB, each to its parent.
    "MSE": "MET",
    "FME": "MET",
    "SEP": "SER",
    "TPO": "THR",
    "PTR": "TYR",
    "HYP": "PRO",
    "MLY": "LYS",
    "M3L": "LYS",
    "KCX": "LYS",
    "PCA": "GLU",
    "CGU": "GLU",
}
"""Protonation variants and modified residues, each with the residue whose species it takes."""


def standard_residue(name: str) -> str:
    """Return the standard name of a residue or one of its variants, in capitals; that of an unknown one as it is."""
    capitals = name.strip().upper()
    return RESIDUE_VARIANTS.get(capitals, capitals)


def residue_species(name: str, remedy: str = "rename it in the data") -> str:
    """Return the standard three-letter name of a residue or one of its variants.

    Raises `UserError`, with the remedy, naming the residue where it is not known.
    """
    standard = standard_residue(name)
    if standard not in RESIDUE_MASSES_AMU:
        raise UserError(
            f"residue {name!r} is not an amino acid this package knows: expected one of {', '.join(RESIDUE_SPECIES)} "
            f"or a variant such as HSD, CYX, MSE: {remedy}"
        )
    return standard


CHARGE_CLASSES: dict[str, str] = {
    **dict.fromkeys(("ALA", "CYS", "GLY", "ILE", "LEU", "MET", "PHE", "PRO", "TRP", "VAL"), "hydrophobic"),
    **dict.fromkeys(("ASN", "GLN", "HIS", "SER", "THR", "TYR"), "polar"),
    **dict.fromkeys(("ARG", "LYS"), "positive"),
    **dict.fromkeys(("ASP", "GLU"), "negative"),
}
"""Residues by side chain at pH 7."""


BACKBONE_BEADS = {"N": {"N": 1.0}, "CA": {"CA": 1.0}, "C": {"C": 1.0}}
CA_BEADS = {"CA": {"CA": 1.0}}


class BeadDefinition(Configuration):
    """One bead of a residue: a weighted mean of atoms."""

    atoms: dict[str, float]
    """Atom name to weight; weights are scaled to sum to 1."""
    residues: tuple[str, ...] | None = None
    """Standard residue names that have this bead; None means all."""

    @pydantic.field_validator("atoms")
    @classmethod
    def _positive(cls, atoms: dict[str, float]) -> dict[str, float]:
        if not atoms or min(atoms.values()) <= 0:
            raise ValueError("expected atom names with weights above 0")
        return atoms


class LinearMap(Configuration):
    """A user's own map: bead name to definition, in the order in which a residue's beads follow one another."""

    beads: dict[str, BeadDefinition]


@dataclass(frozen=True)
class BeadMap:
    """Beads of one domain.

    weights [n_beads, n_atoms] sparse: positions of beads are `weights @ positions`; rows sum to 1. species [n_beads] int32 into
    the species names; residues [n_beads] int, the residue a bead stands for; bead_names, residue_names [n_beads].
    """

    weights: csr_array
    species: np.ndarray
    residues: np.ndarray
    bead_names: tuple[str, ...]
    residue_names: tuple[str, ...]


def bead_definitions(config: MappingConfig) -> dict[str, BeadDefinition]:
    """Return the beads of a residue, by name; `UserError` where the options name none."""
    if config.beads in ("ca", "backbone"):
        named = CA_BEADS if config.beads == "ca" else BACKBONE_BEADS
        return {name: BeadDefinition(atoms=atoms) for name, atoms in named.items()}
    if not config.beads.endswith((".yaml", ".yml")):
        raise UserError(f"mapping.beads={config.beads!r}: expected ca, backbone or the path of a YAML file with a linear map")
    beads = LinearMap.load(config.beads).beads
    require(bool(beads), f"{config.beads}: no beads; expected a group 'beads' with bead names and their atoms")
    return beads


def species_table(config: MappingConfig) -> dict[str, str]:
    """Return the species of every bead, by residue name (one bead per residue) or `residue-bead` (several)."""
    beads = bead_definitions(config)
    keys = [
        (residue, bead)
        for residue in RESIDUE_SPECIES
        for bead, definition in beads.items()
        if definition.residues is None or residue in definition.residues
    ]
    several = len(beads) > 1
    suffix = {bead: f"-{bead}" if several else "" for bead in beads}
    if config.species in ("residue", "charge"):
        classes = CHARGE_CLASSES if config.species == "charge" else {name: name for name in RESIDUE_SPECIES}
        return {residue + suffix[bead]: classes[residue] + suffix[bead] for residue, bead in keys}
    if not config.species.endswith((".yaml", ".yml")):
        raise UserError(f"mapping.species={config.species!r}: expected residue, charge or the path of a YAML table")
    table = read_yaml(config.species)
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise UserError(f"{config.species}: expected a table such as 'ALA: small', received {type(table).__name__} or other values")
    result = {}
    for residue, bead in keys:
        found = [table[key] for key in (f"{residue}-{bead}", residue, f"*-{bead}", "*") if key in table]
        require(bool(found), f"{config.species}: no species for bead {bead} of {residue}; add the key {residue + suffix[bead]!r} or '*'")
        result[residue + suffix[bead]] = found[0]
    return result


def species_names_of(config: MappingConfig) -> tuple[str, ...]:
    """Return the name of each species index under some options, sorted."""
    return tuple(sorted(set(species_table(config).values())))


def map_beads(atoms: AtomTable, config: MappingConfig, where: str) -> BeadMap:
    """Return the beads of a domain.

    Raises `UserError` naming the residue where an atom of a bead is missing or the residue's name is not known.
    """
    definitions, table, names = bead_definitions(config), species_table(config), species_names_of(config)
    atom_of = {atom: _find_atoms(atoms, atom) for definition in definitions.values() for atom in definition.atoms}
    rows: list[dict[int, float]] = []
    residues, bead_names, residue_names, species = [], [], [], []
    for residue in bead_residues(atoms, where):
        here = f"{where}: residue {atoms.residue_names[residue]} {atoms.residue_numbers[residue]}"
        name = canonical_name(str(atoms.residue_names[residue]), config, here)
        for bead, definition in definitions.items():
            if definition.residues is not None and name not in definition.residues:
                continue
            missing = [atom for atom in definition.atoms if atom_of[atom][residue] < 0]
            require(not missing, f"{here}: no atom {', '.join(missing)} for its bead {bead}: change the map's atoms or residues")
            total = sum(definition.atoms.values())
            rows.append({int(atom_of[atom][residue]): weight / total for atom, weight in definition.atoms.items()})
            residues.append(residue)
            bead_names.append(bead)
            residue_names.append(name)
            species.append(names.index(table[name if len(definitions) == 1 else f"{name}-{bead}"]))
    require(bool(rows), f"{where}: no bead in any residue: change the map's residues")
    row_numbers = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    columns = [atom for row in rows for atom in row]
    return BeadMap(
        weights=csr_array(([w for row in rows for w in row.values()], (row_numbers, columns)), shape=(len(rows), atoms.n_atoms)),
        species=np.array(species, np.int32),
        residues=np.array(residues),
        bead_names=tuple(bead_names),
        residue_names=tuple(residue_names),
    )


def _find_atoms(atoms: AtomTable, name: str) -> np.ndarray:
    """Return [n_residues] the atom of a name in each residue, -1 where there is none; `CA` and `C`, `N` by element too."""
    elements = {"CA": 6, "C": 6, "N": 7}
    if name in elements:
        return atoms.find(name, elements[name])
    found = np.full(atoms.n_residues, -1)
    of_name = np.flatnonzero(atoms.names == name)
    found[atoms.residues[of_name]] = of_name
    return found


def bead_residues(atoms: AtomTable, where: str) -> np.ndarray:
    """Return the residues that become beads: all but caps. `UserError` for any other residue without a CA atom."""
    has_anchor = atoms.find("CA", 6) >= 0
    for residue in np.flatnonzero(~has_anchor):
        name = str(atoms.residue_names[residue])
        if name not in CAPS:
            raise UserError(
                f"{where}: residue {name} {atoms.residue_numbers[residue]} has no carbon named CA; expected one in every residue but a "
                "cap: remove it from the selection of atoms"
            )
    residues = np.flatnonzero(has_anchor & ~np.isin(atoms.residue_names, list(CAPS)))
    require(len(residues) > 0, f"{where}: no residue with a CA atom; expected a protein")
    return residues


def canonical_name(name: str, config: MappingConfig, where: str) -> str:
    """Return a residue's standard name, by the options' own variants first; `UserError` naming `where` for an unknown one."""
    try:
        return residue_species(config.residue_variants.get(name, name), "map it with residue_variants")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
