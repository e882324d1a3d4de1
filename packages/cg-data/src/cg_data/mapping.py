"""Residues, their names, species and masses; beads and the atoms they are made of."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from cg_data.atoms import CAPS, AtomTable
from cg_data.config import MappingConfig
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


def residue_species(name: str) -> str:
    """Return the canonical three-letter name of a residue or one of its variants.

    Raises `UserError` naming the residue where it is not known.
    """
    canonical = name.strip().upper()
    canonical = RESIDUE_VARIANTS.get(canonical, canonical)
    if canonical not in RESIDUE_MASSES_AMU:
        raise UserError(
            f"residue {name!r} is not an amino acid this package knows: expected one of {', '.join(RESIDUE_SPECIES)} "
            "or a variant such as HSD, CYX, MSE; map it with residue_variants"
        )
    return canonical


CHARGE_CLASSES: dict[str, str] = {
    **dict.fromkeys(("ALA", "CYS", "GLY", "ILE", "LEU", "MET", "PHE", "PRO", "TRP", "VAL"), "hydrophobic"),
    **dict.fromkeys(("ASN", "GLN", "HIS", "SER", "THR", "TYR"), "polar"),
    **dict.fromkeys(("ARG", "LYS"), "positive"),
    **dict.fromkeys(("ASP", "GLU"), "negative"),
}
"""Residues by side chain at pH 7."""


@dataclass(frozen=True)
class BeadMap:
    """Beads of one domain.

    weights [n_beads, n_atoms] sparse: positions of beads are `weights @ positions`; rows sum to 1. species [n_beads] int32 into
    species_names; residues [n_beads] int, the residue a bead stands for; bead_names, residue_names [n_beads].
    """

    weights: csr_array
    species: np.ndarray
    species_names: tuple[str, ...]
    residues: np.ndarray
    bead_names: tuple[str, ...]
    residue_names: tuple[str, ...]

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return len(self.species)

    def atoms_of_slice(self) -> np.ndarray | None:
        """Return [n_beads] the one atom each bead sits on, or None where a bead is a mean of several."""
        if (np.diff(self.weights.indptr) != 1).any():
            return None
        return self.weights.indices


def map_beads(atoms: AtomTable, config: MappingConfig, where: str) -> BeadMap:
    """Return the beads of a domain: one per CA atom.

    Raises `UserError` for a residue without the bead's atom or with an unknown name.
    """
    if config.beads != "ca":
        raise UserError(f"mapping.beads={config.beads!r}: expected 'ca'")
    anchors = atoms.find("CA", 6)
    residues = bead_residues(atoms, where)
    names = tuple(canonical_name(str(atoms.residue_names[r]), config, f"{where}: residue {atoms.residue_numbers[r]}") for r in residues)
    table = {name: name for name in RESIDUE_SPECIES} if config.species == "residue" else CHARGE_CLASSES
    if config.species not in ("residue", "charge"):
        raise UserError(f"mapping.species={config.species!r}: expected 'residue' or 'charge'")
    species_names = tuple(sorted(set(table.values())))
    n_beads = len(residues)
    return BeadMap(
        weights=csr_array((np.ones(n_beads), (np.arange(n_beads), anchors[residues])), shape=(n_beads, atoms.n_atoms)),
        species=np.array([species_names.index(table[name]) for name in names], np.int32),
        species_names=species_names,
        residues=residues,
        bead_names=("CA",) * n_beads,
        residue_names=names,
    )


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
        return residue_species(config.residue_variants.get(name, name))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def species_names_of(config: MappingConfig) -> tuple[str, ...]:
    """Return the name of each species index under some options."""
    return RESIDUE_SPECIES if config.species == "residue" else tuple(sorted(set(CHARGE_CLASSES.values())))
