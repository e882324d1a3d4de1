"""Which row of a term's arrays a tuple of beads uses: pooled, or by residue types, with a pooled fallback.

Row names: `*` is the pooled row and always the first; `GLY` keys an angle by its centre; `ALA-GLY` keys a bond, the central
pair of a dihedral (both in the direction of the chain) or an unordered pair of a repulsion; `*-PRO` any residue before proline.
"""

from collections.abc import Sequence

import numpy as np

from cg_data.errors import require

POOLED = "*"
KEY_COLUMNS: dict[str, tuple[int, ...]] = {
    "bond": (0, 1),
    "angle": (1,),
    "dihedral": (1, 2),
    "repulsion": (0, 1),
    "excluded_volume": (0, 1),
}
"""The beads of a tuple whose species select the row."""
UNORDERED = ("repulsion", "excluded_volume")
"""Terms whose pairs have no direction."""


def row_lookup(term: str, rows: Sequence[str], species_names: Sequence[str]) -> np.ndarray:
    """Return the row of every combination of species, [n_species] or [n_species, n_species] int32.

    Named combinations go before wildcards (`*-PRO`), those before the pooled row 0. Raises `UserError` for a row whose name
    does not fit.
    """
    width = len(KEY_COLUMNS[term])
    lookup = np.zeros((len(species_names),) * width, np.int32)
    specific = np.zeros(lookup.shape, np.int32)
    for row, name in enumerate(rows):
        parts = [POOLED] * width if name == POOLED else name.split("-")
        require(
            len(parts) == width and all(part == POOLED or part in species_names for part in parts),
            f"{term}: row {name!r}: expected {width} of {', '.join(species_names)} or * joined by '-': correct the row's name",
        )
        for ordered in {tuple(parts), tuple(parts[::-1]) if term in UNORDERED else tuple(parts)}:
            chosen = np.ix_(*[range(len(species_names)) if part == POOLED else [species_names.index(part)] for part in ordered])
            rank = sum(part != POOLED for part in ordered)
            better = specific[chosen] <= rank
            lookup[chosen] = np.where(better, row, lookup[chosen])
            specific[chosen] = np.where(better, rank, specific[chosen])
    return lookup


def key_name(term: str, names: Sequence[str]) -> str:
    """Return the name of the row for the residue names of a tuple's key beads; pairs without direction alphabetically."""
    return "-".join(sorted(names) if term in UNORDERED else names)
