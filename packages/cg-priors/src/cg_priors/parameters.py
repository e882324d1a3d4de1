"""What a prior is: terms, arrays, temperature, provenance; and its file, `prior.yaml` with `prior.npz` beside it for splines."""

import dataclasses
import logging
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cg_data.atomic import atomic_file
from cg_data.configuration import read_yaml
from cg_data.contracts import Array
from cg_data.errors import UserError, require
from cg_priors.forms import FORMS
from cg_priors.keys import POOLED

logger = logging.getLogger(__name__)

FORMAT_NAME = "cg-priors"
FORMAT_VERSION = 1
TERM_NAMES = ("bond", "angle", "dihedral", "repulsion", "excluded_volume")
BONDED = ("bond", "angle", "dihedral")
UNITS = {"length": "angstrom", "energy": "kcal/mol", "angle": "radian", "temperature": "kelvin"}
SAME_TEMPERATURE_KELVIN = 0.01
UNREADABLE = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for a file that is not an NPZ file, or is damaged."""


@dataclasses.dataclass(frozen=True)
class Term:
    """The fixed part of one term.

    form       name in `forms.FORMS`
    weight     factor of the term in the total energy
    rows       names of the rows of the arrays; the first is `*`, the pooled one
    settings   fixed numbers of the form (cutoff, range of a spline)
    statistics per row, [n_rows] each: `low`, `high` (sampled range), `count` (samples)
    errors     standard errors with the shapes of the arrays, of parameters for which they were estimated
    notes      how it was fitted: order, bandwidth, rows that fell back to the pooled one
    """

    form: str
    weight: float
    rows: tuple[str, ...] = (POOLED,)
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    statistics: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    errors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PriorParameters:
    """A prior at one temperature, and the same prior at other temperatures where it was fitted there.

    species_names       what the species indices of a graph mean
    temperature_kelvin  of the data that it was inverted from
    terms               name -> `Term`, a subset of `TERM_NAMES`
    arrays              name -> parameter -> [n_rows, ...] array: the trainable pytree, `params["prior"]`
    provenance          where it came from (plain values)
    others              blocks at other temperatures (each without `others`)
    """

    species_names: tuple[str, ...]
    temperature_kelvin: float
    terms: Mapping[str, Term]
    arrays: dict[str, dict[str, Array]]
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    others: tuple["PriorParameters", ...] = ()

    @property
    def weights(self) -> dict[str, float]:
        """Factor of each term."""
        return {name: term.weight for name, term in self.terms.items()}

    @property
    def temperatures_kelvin(self) -> tuple[float, ...]:
        """Every temperature with a block of its own."""
        return tuple(sorted([self.temperature_kelvin, *(other.temperature_kelvin for other in self.others)]))

    @property
    def cutoff_angstrom(self) -> float:
        """Range of the non-bonded terms: the edges of a graph must reach at least this far; 0 without such terms."""
        return max((float(term.settings["cutoff"]) for name, term in self.terms.items() if name not in BONDED), default=0.0)

    def replace_arrays(self, arrays: Mapping[str, Mapping[str, Array]]) -> "PriorParameters":
        """Return this prior with other values (after training); standard errors and other temperatures do not carry over."""
        terms = {name: dataclasses.replace(term, errors={}) for name, term in self.terms.items()}
        plain = {name: {key: np.asarray(value, np.float64) for key, value in group.items()} for name, group in arrays.items()}
        return dataclasses.replace(self, terms=terms, arrays=plain, others=())

    def at(self, temperature_kelvin: float) -> "PriorParameters":
        """Return the prior at a temperature: its block where the file has one, else the nearest block scaled by T'/T.

        Which of the two it was is logged and stands in `provenance["temperature"]`.
        """
        require(temperature_kelvin > 0, f"temperature: expected above 0 K, received {temperature_kelvin}: give it in kelvin")
        blocks = [dataclasses.replace(self, others=()), *self.others]
        nearest = min(blocks, key=lambda block: abs(block.temperature_kelvin - temperature_kelvin))
        if abs(nearest.temperature_kelvin - temperature_kelvin) < SAME_TEMPERATURE_KELVIN:
            how = f"block fitted at {nearest.temperature_kelvin:g} K"
            return dataclasses.replace(nearest, provenance={**nearest.provenance, "temperature": how})
        how = f"scaled to {temperature_kelvin:g} K from the block fitted at {nearest.temperature_kelvin:g} K"
        logger.info("prior %s", how)
        return _scaled(nearest, temperature_kelvin, how)

    def check(self, where: str = "prior") -> "PriorParameters":
        """Return self if the prior is physical; raise a one-line `UserError` naming term, key, value and accepted range."""
        from cg_priors.validate import check_prior

        check_prior(self, where)
        return self


def _scaled(prior: PriorParameters, temperature_kelvin: float, how: str) -> PriorParameters:
    ratio = temperature_kelvin / prior.temperature_kelvin
    terms, arrays = {}, {}
    for name, term in prior.terms.items():
        form = FORMS[term.form]
        arrays[name] = {key: value * ratio if key in form.energies else value for key, value in prior.arrays[name].items()}
        terms[name] = dataclasses.replace(
            term,
            settings={key: value * ratio if key in form.energy_settings else value for key, value in term.settings.items()},
            errors={key: value * ratio if key in form.energies else value for key, value in term.errors.items()},
        )
    return dataclasses.replace(
        prior,
        temperature_kelvin=float(temperature_kelvin),
        terms=terms,
        arrays=arrays,
        provenance={**prior.provenance, "temperature": how},
        others=(),
    )


def save_prior(path: Path | str, prior: PriorParameters) -> None:
    """Check a prior and write it as YAML; spline coefficients go to an `.npz` of the same name beside it. Atomic.

    Raises `UserError` where the name is not one of a YAML file, or the `.npz` is there and holds something else.
    """
    path = Path(path)
    check_free(path)
    blocks = [dataclasses.replace(prior, others=()), *prior.others]
    for block in blocks:
        block.check(str(path))
    stored: dict[str, np.ndarray] = {}
    document = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "units": UNITS,
        "species": list(prior.species_names),
        "blocks": [_block_to_plain(block, f"{index}", stored) for index, block in enumerate(blocks)],
    }
    if stored:
        document["spline_file"] = path.with_suffix(".npz").name
        with atomic_file(path.with_suffix(".npz")) as aside, open(aside, "wb") as file:
            np.savez(file, **stored)  # type: ignore[arg-type]
    with atomic_file(path) as aside:
        aside.write_text(_HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120))


def check_free(path: Path) -> None:
    """Raise `UserError` where a prior may not be written to `path`: nothing but an earlier prior is ever replaced."""
    require(path.suffix in (".yaml", ".yml"), f"{path}: expected a name that ends in .yaml, received {path.name!r}: rename the prior")
    require(not path.is_dir(), f"{path}: expected a file, found a folder: choose another name for the prior")
    splines = path.with_suffix(".npz")
    if splines.exists():
        try:
            known = all("/" in name for name in read_npz(splines))
        except UserError:
            known = False
        require(known, f"{splines}: is no spline file of a prior, and would be replaced by that of {path.name}: choose another name")


def load_prior(path: Path | str) -> PriorParameters:
    """Read and check a prior; `UserError` in one line where it cannot be used. Reads the original system's file as well."""
    path = Path(path)
    document = read_yaml(path)
    if isinstance(document, dict) and "format" not in document and "blocks" not in document and {"bond", "spline_file"} & set(document):
        from cg_priors.original import parse_original

        return parse_original(document, path).check(str(path))
    require(
        isinstance(document, dict) and document.get("format") == FORMAT_NAME,
        f"{path}: expected a file with 'format: {FORMAT_NAME}': write one with `cg-priors fit`",
    )
    require(
        document.get("version") == FORMAT_VERSION,
        f"{path}: expected format version {FORMAT_VERSION}, received {document.get('version')}: fit it again with this version",
    )
    require(document.get("units") == UNITS, f"{path}: units: expected {UNITS}, received {document.get('units')}: convert the file to them")
    stored = spline_arrays(document, path)
    try:
        species = tuple(str(name) for name in document["species"])
        blocks = [_block_from_plain(values, species, stored, f"{path}: block {i}") for i, values in enumerate(document["blocks"])]
    except KeyError as error:
        raise UserError(f"{path}: expected the key {error}, which is missing: restore it or fit again") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be understood ({' '.join(str(error).split())}): correct it or fit again") from None
    require(bool(blocks), f"{path}: expected at least one block, received none: fit again")
    for block in blocks:
        block.check(str(path))
    return dataclasses.replace(blocks[0], others=tuple(blocks[1:]))


def read_npz(path: Path, remedy: str = "fit the prior again") -> dict[str, np.ndarray]:
    """Return the arrays of an NPZ file; `UserError` ending in `remedy` where it cannot be read."""
    try:
        # Opened here: NumPy leaves a file that is cut short open.
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            require(isinstance(file, np.lib.npyio.NpzFile), f"{path}: expected an NPZ file of named arrays, received one array: {remedy}")
            return {key: _member(file, key, path, remedy) for key in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, though the prior's spline_file names it: keep the two together") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable NPZ file ({error.__class__.__name__}): {remedy}") from None


def _member(file: Mapping[str, np.ndarray], key: str, path: Path, remedy: str) -> np.ndarray:
    try:
        return file[key]
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: array {key!r}: expected numbers or text, received one NumPy cannot read ({reason}): {remedy}") from None


def spline_arrays(document: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the spline file that the document of a prior at `path` names, none where it names none."""
    if "spline_file" not in document:
        return {}
    name = document["spline_file"]
    require(isinstance(name, str), f"{path}: spline_file: expected the name of an NPZ file, received {name!r}: correct it")
    return read_npz(path.parent / name)


def _block_to_plain(block: PriorParameters, label: str, stored: dict[str, np.ndarray]) -> dict[str, Any]:
    terms = {}
    for name, term in block.terms.items():
        arrays = block.arrays[name]
        if term.form == "spline":
            stored.update({f"{label}/{name}/{key}": np.asarray(value) for key, value in arrays.items()})
            stored.update({f"{label}/{name}/{key}_error": np.asarray(value) for key, value in term.errors.items()})
        terms[name] = {
            "form": term.form,
            "weight": float(term.weight),
            **({"settings": _plain(term.settings)} if term.settings else {}),
            **({"notes": _plain(term.notes)} if term.notes else {}),
            "rows": {row: _row_to_plain(term, arrays, index) for index, row in enumerate(term.rows)},
        }
    return {"temperature_kelvin": float(block.temperature_kelvin), "provenance": _plain(block.provenance), "terms": terms}


def _row_to_plain(term: Term, arrays: Mapping[str, Array], index: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if term.form != "spline":
        values.update({key: _plain(np.asarray(value)[index]) for key, value in arrays.items()})
    if term.statistics:
        values["statistics"] = {key: _plain(np.asarray(value)[index]) for key, value in term.statistics.items()}
    if term.errors and term.form != "spline":
        values["standard_error"] = {key: _plain(np.asarray(value)[index]) for key, value in term.errors.items()}
    return values


def _block_from_plain(values: Any, species: tuple[str, ...], stored: Mapping[str, np.ndarray], where: str) -> PriorParameters:
    label = where.rsplit(" ", 1)[1]
    require("temperature_kelvin" in values, f"{where}: temperature_kelvin: expected a temperature above 0 K, received none: add it")
    provenance = _mapping(values, "provenance", where)
    terms: dict[str, Term] = {}
    arrays: dict[str, dict[str, Array]] = {}
    for name, group in values["terms"].items():
        require(name in TERM_NAMES, f"{where}: unknown term {name!r}; expected some of {', '.join(TERM_NAMES)}: correct its name")
        form = group["form"]
        require(form in FORMS, f"{where}: {name}: unknown form {form!r}; expected one of {', '.join(FORMS)}: correct its name")
        rows = {str(row): values for row, values in group["rows"].items()}
        require(POOLED in rows, f"{where}: {name}: rows: expected the pooled row '*', received {', '.join(rows) or 'none'}: restore it")
        keys = FORMS[form].parameters
        if form == "spline":
            arrays[name] = {key: np.asarray(stored[f"{label}/{name}/{key}"], np.float64) for key in keys}
            errors = {key: stored[f"{label}/{name}/{key}_error"] for key in keys if f"{label}/{name}/{key}_error" in stored}
        else:
            arrays[name] = {key: _stack([row[key] for row in rows.values()]) for key in keys}
            errors = _stack_group(rows.values(), "standard_error")
        terms[name] = Term(
            form=form,
            weight=float(group["weight"]),
            rows=tuple(rows),
            settings=_mapping(group, "settings", f"{where}: {name}"),
            statistics=_stack_group(rows.values(), "statistics"),
            errors=errors,
            notes=_mapping(group, "notes", f"{where}: {name}"),
        )
    return PriorParameters(species, float(values["temperature_kelvin"]), terms, arrays, provenance)


def _mapping(group: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = group.get(key, {})
    require(isinstance(value, dict), f"{where}: {key}: expected a mapping, received {value}: correct it or leave it out")
    return value


def _stack_group(rows: Any, group: str) -> dict[str, np.ndarray]:
    rows = list(rows)
    if not all(group in row for row in rows):
        return {}
    return {key: _stack([row[group][key] for row in rows]) for key in rows[0][group]}


def _stack(values: Sequence[Any]) -> np.ndarray:
    return np.asarray(values, np.float64)


def _plain(value: Any) -> Any:
    """Return Python numbers, lists and dicts for anything made of NumPy values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line, mappings over several."""


_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=not _has_mapping(values))
)


def _has_mapping(values: list[Any]) -> bool:
    return any(isinstance(value, dict) for value in values)


_HEADER = """\
# Prior of a coarse-grained protein: E = sum over terms of weight x sum over tuples of form(coordinate).
# Lengths in angstrom, energies in kcal/mol, angles in radian, temperatures in kelvin.
# Forms of a coordinate x, n from 1 (kT: settings thermal_energy):
#   harmonic     1/2 force_constant (x - length)^2
#   cis_trans    -kT ln(exp(-u/kT) + exp(-v/kT)), u = 1/2 force_constant (x - length)^2 and
#                v = 1/2 cis_force_constant (x - cis_length)^2 + cis_energy
#   fourier      sum_n cosine_n cos(n x) + sine_n sin(n x)
#   quartic      quadratic d^2 + cubic d^3 + quartic d^4, d = x - angle
#   restricted   1/2 force_constant (cos x - cos angle)^2 / sin^2 x
#   periodic     sum_n force_constants_n (1 + cos(n x - phases_n))
#   gaussians    -kT ln sum_n exp(log_weights_n + (cos(x - centres_n) - 1) / widths_n^2)
#   spline       cubic B-spline with even knots from settings low to high, beyond them the parabola of the end; coefficients in spline_file
#   soft_sphere  epsilon (sigma/x)^4, switched off between settings switch and cutoff
# Row '*' is pooled over all residues; a residue without a row of its own uses it. statistics: sampled range
# and number of samples; standard_error: block bootstrap over trajectories.
"""
