"""Residue names, their species and masses."""

from cg_data.errors import UserError

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
