"""A prior for LAMMPS, without any plugin: coefficients and tables, and the molecule's data file.

LAMMPS's conventions, where they differ from ours: harmonic K is half our force constant; angles are written in degrees; tables
hold forces per degree; and pairs can be excluded by bonds alone. So each pair two to five residues apart becomes a bond of a
table type that carries the excluded volume, and `special_bonds lj 0 1 1` keeps all bonded pairs, and only those, out of the
repulsion; without that term it is a bond that costs nothing. Weights are multiplied in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cg_data.atomic import atomic_folder
from cg_data.contracts import BeadFrames, BeadGraph
from cg_data.errors import require
from cg_data.mapping import RESIDUE_MASSES_AMU
from cg_priors.energy import TERM_KINDS
from cg_priors.force_frames import all_pairs_graph
from cg_priors.forms import FORMS
from cg_priors.keys import KEY_COLUMNS, row_lookup
from cg_priors.parameters import BONDED, PriorParameters

TABLE_POINTS = 6000
SPLINE_TABLE_POINTS = 24_000
"""Of the angles and dihedrals that are splines: LAMMPS interpolates the force by a smooth curve, and a spline's force has kinks."""
BOND_TABLE_POINTS = 30_000
LONGEST_BOND_ANGSTROM = 8.0
"""End of a bond's table; LAMMPS stops where a bond gets longer."""
LONGEST_PAIR_ANGSTROM = 30.0
"""End of the table of a pair two to five residues apart, 5 x 3.8 angstrom at most while bonds hold."""
SHORTEST_PAIR_ANGSTROM = 0.05
TYPICAL_MASS_AMU = 110.0
BOX_MARGIN_ANGSTROM = 100.0


@dataclass(frozen=True)
class Section:
    """Tuples of one term: `name` of the term, bead indices [n, width], row of each [n], first LAMMPS type number."""

    name: str
    tuples: np.ndarray
    rows: np.ndarray
    first_type: int


def export_lammps(output: Path | str, prior: PriorParameters, molecule: BeadFrames) -> list[Path]:
    """Write `prior.settings`, its tables, `prior.data` (first frame of `molecule`) and `in.prior` into a new folder.

    Returns the files. Energies agree with `energy.prior_energy_terms` to better than 1e-6 relative, forces to better
    than 1e-6 of the largest.
    """
    output = Path(output)
    prior.check("export")
    graph = all_pairs_graph(molecule, np.asarray(molecule.positions[0], np.float64))
    sections = _sections(prior, graph)
    with atomic_folder(output) as folder:
        (folder / "prior.settings").write_text("\n".join(_settings(prior, sections, folder)) + "\n")
        (folder / "prior.data").write_text("\n".join(_data(prior, graph, sections)) + "\n")
        (folder / "in.prior").write_text(_INPUT)
        names = sorted(path.name for path in folder.iterdir())
    return [output / name for name in names]


def _sections(prior: PriorParameters, graph: BeadGraph) -> dict[str, Section]:
    sections = {}
    for name in ("bond", "angle", "dihedral", "excluded_volume"):
        if name not in prior.terms and not (name == "excluded_volume" and "repulsion" in prior.terms):
            continue
        tuples, mask = TERM_KINDS[name].tuples(graph)
        tuples = tuples[mask]
        if name not in BONDED:
            tuples = tuples[tuples[:, 0] < tuples[:, 1]]
        rows = np.zeros(len(tuples), int)
        if name in prior.terms:
            lookup = row_lookup(name, prior.terms[name].rows, prior.species_names)
            rows = lookup[tuple(graph.species[tuples[:, column]] for column in KEY_COLUMNS[name])]
        first = 1 + len(prior.terms["bond"].rows) if name == "excluded_volume" and "bond" in prior.terms else 1
        sections[name] = Section(name, tuples, rows, first)
    return sections


def _settings(prior: PriorParameters, sections: dict[str, Section], folder: Path) -> list[str]:
    lines = [
        f"# prior at {prior.temperature_kelvin:g} K; include after read_data; weights are multiplied in",
        # LAMMPS loses energies of beads where OpenMP sub-styles of a hybrid bond style run on several threads; these styles cost little.
        'if "$(is_active(package,omp))" then "suffix off"',
        f"bond_style hybrid {' '.join(_bond_styles(prior, sections))}",
        'if "$(is_active(package,omp))" then "suffix omp"',
        "special_bonds lj 0.0 1.0 1.0",
        f"comm_modify cutoff {LONGEST_PAIR_ANGSTROM + 2:g}",
    ]
    for name, section in sections.items():
        if name not in prior.terms:
            lines.append(f"bond_coeff {section.first_type} zero # pairs that do not repel")
            continue
        term = prior.terms[name]
        kind = "bond" if name == "excluded_volume" else name
        if kind != "bond":
            lines.append(f"{kind}_style " + ("fourier" if term.form == "periodic" else f"table spline {_points(term.form)}"))
        for index, row in enumerate(term.rows):
            number = section.first_type + index
            if term.form == "harmonic":
                k, length = (float(prior.arrays[name][key][index]) for key in ("force_constant", "length"))
                lines.append(f"bond_coeff {number} harmonic {0.5 * term.weight * k:.16g} {length:.16g} # {row}")
            elif term.form == "periodic":
                lines.append(f"dihedral_coeff {number} {_fourier_coefficients(prior, index)} # {row}")
            else:
                style = "table " if kind == "bond" else ""
                file = f"{name}.table"
                _append_table(folder / file, f"ROW{index}", *_tabulate(prior, name, index))
                lines.append(f"{kind}_coeff {number} {style}{file} ROW{index} # {row}")
    return lines + _pair_lines(prior, folder)


def _bond_styles(prior: PriorParameters, sections: dict[str, Section]) -> list[str]:
    """Return the sub-styles in use; LAMMPS refuses others."""
    forms = [prior.terms[name].form for name in ("bond", "excluded_volume") if name in prior.terms]
    styles = ["harmonic"] if "harmonic" in forms else []
    styles += [f"table spline {BOND_TABLE_POINTS}"] if set(forms) - {"harmonic"} else []
    return styles + (["zero"] if set(sections) - set(prior.terms) else [])


def _fourier_coefficients(prior: PriorParameters, index: int) -> str:
    term = prior.terms["dihedral"]
    k, phase = (np.asarray(prior.arrays["dihedral"][key])[index] for key in ("force_constants", "phases"))
    parts = [f"{term.weight * k[n]:.16g} {n + 1} {np.degrees(phase[n]):.16g}" for n in range(len(k))]
    return f"{len(k)} {' '.join(parts)}"


def _pair_lines(prior: PriorParameters, folder: Path) -> list[str]:
    if "repulsion" not in prior.terms:
        return ["pair_style zero 10.0", "pair_coeff * *"]
    term = prior.terms["repulsion"]
    lines = [f"pair_style table spline {TABLE_POINTS}"]
    lookup = row_lookup("repulsion", term.rows, prior.species_names)
    cutoff = term.settings["cutoff"]
    for index, row in enumerate(term.rows):
        x, energy, force = _tabulate(prior, "repulsion", index)
        _append_table(folder / "repulsion.table", f"ROW{index}", x, energy, force, f" R {x[0]:.16g} {x[-1]:.16g}")
        if index == 0:
            lines.append(f"pair_coeff * * repulsion.table ROW0 {cutoff:.16g} # {row}")
        for i, j in zip(*np.nonzero(lookup == index), strict=True):
            if index and i <= j:
                lines.append(f"pair_coeff {i + 1} {j + 1} repulsion.table ROW{index} {cutoff:.16g} # {row}")
    return lines


def _tabulate(prior: PriorParameters, name: str, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the table of a row: coordinate (angstrom or degrees), energy and minus its derivative, weights included."""
    term = prior.terms[name]
    if name == "angle":
        x = np.linspace(0, np.pi, _points(term.form) + 1)
    elif name == "dihedral":
        x = np.linspace(-np.pi, np.pi, _points(term.form), endpoint=False)
    elif name == "repulsion":
        x = np.linspace(SHORTEST_PAIR_ANGSTROM, term.settings["cutoff"], TABLE_POINTS)
    else:
        x = np.linspace(0, LONGEST_BOND_ANGSTROM if name == "bond" else LONGEST_PAIR_ANGSTROM, BOND_TABLE_POINTS + 1)
    p = {key: np.asarray(value, np.float64)[index : index + 1] for key, value in prior.arrays[name].items()}

    def energy(at: np.ndarray) -> np.ndarray:
        return term.weight * FORMS[term.form].formula(at, p, term.settings)

    # Sixth-order differences: the formulas are smooth and defined beyond the ends of the table.
    h = 1e-4
    force = -sum(c * (energy(x + n * h) - energy(x - n * h)) for n, c in ((1, 45.0), (2, -9.0), (3, 1.0))) / (60 * h)
    if name in ("angle", "dihedral"):
        return np.degrees(x), energy(x), force / np.degrees(1)
    return x, energy(x), force


def _points(form: str) -> int:
    return SPLINE_TABLE_POINTS if form == "spline" else TABLE_POINTS


def _append_table(path: Path, keyword: str, x: np.ndarray, energy: np.ndarray, force: np.ndarray, more: str = "") -> None:
    rows = "\n".join(f"{n} {a:.16g} {e:.16g} {f:.16g}" for n, (a, e, f) in enumerate(zip(x, energy, force, strict=True), 1))
    with path.open("a") as file:
        file.write(f"{keyword}\nN {len(x)}{more}\n\n{rows}\n\n")


def _data(prior: PriorParameters, graph: BeadGraph, sections: dict[str, Section]) -> list[str]:
    bonded = {
        "Bonds": [sections[name] for name in ("bond", "excluded_volume") if name in sections],
        "Angles": [sections["angle"]] if "angle" in sections else [],
        "Dihedrals": [sections["dihedral"]] if "dihedral" in sections else [],
    }
    require("bond" in sections, "export: expected a prior with a bond term, received none: fit one")
    lines = ["CG beads of one molecule, units real", "", f"{graph.n_beads} atoms"]
    for title, parts in bonded.items():
        lines.append(f"{sum(len(part.tuples) for part in parts)} {title.lower()}")
    lines.append(f"{len(prior.species_names)} atom types")
    for title, parts in bonded.items():
        n_types = max(
            (part.first_type - 1 + (len(prior.terms[part.name].rows) if part.name in prior.terms else 1) for part in parts), default=0
        )
        lines.append(f"{n_types} {title.lower()[:-1]} types")
    low, high = graph.positions.min(0) - BOX_MARGIN_ANGSTROM, graph.positions.max(0) + BOX_MARGIN_ANGSTROM
    lines += ["", *(f"{a:.6f} {b:.6f} {axis}lo {axis}hi" for a, b, axis in zip(low, high, "xyz", strict=True)), "", "Masses", ""]
    lines += [f"{n} {RESIDUE_MASSES_AMU.get(name, TYPICAL_MASS_AMU):.4f} # {name}" for n, name in enumerate(prior.species_names, 1)]
    lines += ["", "Atoms # molecular", ""]
    for bead in range(graph.n_beads):
        x, y, z = graph.positions[bead]
        lines.append(f"{bead + 1} {graph.chain_index[bead] + 1} {graph.species[bead] + 1} {x:.16g} {y:.16g} {z:.16g}")
    for title, parts in bonded.items():
        lines += _tuple_lines(title, parts)
    return lines


def _tuple_lines(title: str, parts: Sequence[Section]) -> list[str]:
    if not any(len(part.tuples) for part in parts):
        return []
    lines, number = ["", title, ""], 0
    for part in parts:
        for beads, row in zip(part.tuples, part.rows, strict=True):
            number += 1
            lines.append(f"{number} {part.first_type + row} {' '.join(str(bead + 1) for bead in beads)}")
    return lines


_INPUT = """\
# Energy of the molecule under the prior. For dynamics replace the last line by, for example:
#   timestep 4.0
#   fix 1 all nve
#   fix 2 all langevin 300.0 300.0 1000.0 12345
#   run 100000
units real
atom_style molecular
boundary f f f
read_data prior.data
include prior.settings
thermo_style custom step pe ebond eangle edihed epair
thermo_modify format float %.15g
dump forces all custom 1 forces.dump id fx fy fz
dump_modify forces sort id format float %.15g
run 0
"""
