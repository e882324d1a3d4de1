"""A trained model in a folder: versioned, checksummed, without pickle; reading it never runs code from it."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
import yaml

from cg_data.atomic import atomic_folder, sha256
from cg_data.configuration import read_yaml
from cg_data.contracts import Array, BeadGraph, EnergyFn
from cg_data.errors import UserError, require
from cg_data.mapped import first_not_finite
from cg_data.topology import frame_graph
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.graph import ROW_WIDTH, Budget, count_rows, in_rows, pack
from cg_models.hybrid import Model, Part, build_model
from cg_models.neighbour_lists import Displacement, NeighbourEnergy, neighbour_energy
from cg_models.statistics import ModelStatistics
from cg_priors.parameters import PriorParameters, load_prior, save_prior

FORMAT_NAME = "cg-models"
FORMAT_VERSION = 1
UNITS = {"length": "angstrom", "energy": "kcal/mol", "mass": "amu", "temperature": "kelvin"}
PACKAGES = ("cg-data", "cg-priors", "cg-models", "jax", "dm-haiku", "e3nn-jax")


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """A model with its parameters and its history.

    params: `{"backbone": ..., "prior": ...}`; prior: what the prior part was built from; dataset_info and metrics: plain values.
    """

    config: ModelConfig
    species_names: tuple[str, ...]
    params: Mapping[str, Any]
    prior: PriorParameters | None = None
    statistics: ModelStatistics = dataclasses.field(default_factory=ModelStatistics)
    dataset_info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def model(self) -> Model:
        """The model that the parameters belong to."""
        return build_model(self.config, self.species_names, self.prior, self.statistics)

    @property
    def cutoff_angstrom(self) -> float:
        """Edges must hold every pair closer than this."""
        return self.model.cutoff_angstrom

    @property
    def receptive_field_angstrom(self) -> float:
        """Beads farther away than this do not change a bead's energy."""
        return self.model.receptive_field_angstrom

    def species_index(self, names: Sequence[str]) -> np.ndarray:
        """Return the species of residue names, [n] int32; `UserError` naming the first that this model was not trained on."""
        from cg_data.mapping import standard_residue

        known = {name: index for index, name in enumerate(self.species_names)}
        indices = []
        for name in names:
            found = name if name in known else standard_residue(name)
            if found not in known:
                raise UserError(
                    f"model: species {name!r} is not in it; expected some of {', '.join(self.species_names)}: train on data with it"
                )
            indices.append(known[found])
        return np.asarray(indices, np.int32)

    def graph(
        self,
        positions: Array,
        species: Sequence[str] | Array,
        residue_index: Array | None = None,
        chain_index: Array | None = None,
        rows: bool = True,
    ) -> BeadGraph:
        """Return the unpadded graph of one frame in free space with the edges that this model needs.

        positions [n_beads, 3] angstrom; species: residue names or indices; residue_index and chain_index [n_beads], one unbroken
        chain where they are not given; rows: edges in rows, else flat (`cg_models.graph`).
        """
        positions = _real(positions)
        require(
            positions.ndim == 2 and positions.shape[1] == 3, f"graph: expected positions [n_beads, 3], received {list(positions.shape)}"
        )
        _require_finite(positions, "bead")
        identities = self._identities(len(positions), species, residue_index, chain_index)
        graph = frame_graph(positions, *identities, self.cutoff_angstrom)
        return in_rows(graph) if rows else graph

    def energy(self, graph: BeadGraph) -> Array:
        """Return per-bead energies, [n_beads] kcal/mol; compiled once per shape, differentiable, traceable inside `jax.jit`."""
        return self._compiled_energy(self.params, graph)

    def energy_fn(self, part: Part = "full") -> EnergyFn:
        """Return `(params, graph) -> [n_beads]` kcal/mol of a part of the model."""
        return self.model.energy_of(part)

    def energy_and_forces(self, graph: BeadGraph, part: Part = "full") -> tuple[Array, Array]:
        """Return per-bead energies [n_beads] kcal/mol and forces [n_beads, 3] kcal/mol/angstrom; compiled once per shape."""
        return self._compiled(part)(self.params, graph)

    def for_frames(
        self,
        positions: Array,
        species: Sequence[str] | Array,
        residue_index: Array | None = None,
        chain_index: Array | None = None,
        part: Part = "full",
        beads_per_batch: int = 1024,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return per-bead energies [n_frames, n_beads] kcal/mol and forces [n_frames, n_beads, 3] kcal/mol/angstrom of many frames.

        positions [n_frames, n_beads, 3] angstrom; the rest as in `graph`, the same for all frames. Frames are packed side by side,
        as many as make `beads_per_batch` beads, so that few shapes are compiled.
        """
        positions = _real(positions)
        shape = list(positions.shape)
        require(len(shape) == 3 and shape[2] == 3, f"for_frames: expected positions [n_frames, n_beads, 3], received {shape}")
        n_frames, n_beads, _ = shape
        _require_finite(positions, "frame")
        identities = self._identities(n_beads, species, residue_index, chain_index)
        energies, forces = np.zeros(shape[:2], positions.dtype), np.zeros(shape, positions.dtype)
        at_once = max(min(beads_per_batch // max(n_beads, 1), n_frames), 1)
        for start in range(0, n_frames, at_once):
            graphs = [frame_graph(frame, *identities, self.cutoff_angstrom) for frame in positions[start : start + at_once]]
            found = self.energy_and_forces(pack(graphs, _frames_budget(graphs, at_once)), part)
            for results, values in zip((energies, forces), found, strict=True):
                results[start : start + at_once] = np.asarray(values).reshape(at_once, *results.shape[1:])[: len(graphs)]
        return energies, forces

    def jax_md_energy(
        self,
        species: Sequence[str] | Array,
        residue_index: Array | None = None,
        chain_index: Array | None = None,
        part: Part = "full",
        displacement: Displacement | None = None,
    ) -> NeighbourEnergy:
        """Return jax-md's `energy(positions, neighbor)`, a scalar in kcal/mol (`cg_models.neighbour_lists`); the rest as in `graph`.

        `energy(positions, neighbor, params=...)` evaluates other parameters, over which it may be mapped.
        """
        return neighbour_energy(
            self.energy_fn(part), self.params, *self._identities(len(species), species, residue_index, chain_index), displacement
        )

    def _identities(
        self, n_beads: int, species: Sequence[str] | Array, residue_index: Array | None, chain_index: Array | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return species, residue_index and chain_index, [n_beads] int32 each; `UserError` where they do not fit."""
        named = len(species) > 0 and isinstance(species[0], str)
        indices = self.species_index(list(species)) if named else np.asarray(species, np.int32)
        require(len(indices) == n_beads, f"graph: expected {n_beads} species, one per position, received {len(indices)}")
        require(
            bool(np.all((indices >= 0) & (indices < len(self.species_names)))),
            f"graph: expected species in [0, {len(self.species_names)}), received {indices.min(initial=0)} to {indices.max(initial=0)}",
        )
        residues = np.arange(n_beads, dtype=np.int32) if residue_index is None else np.asarray(residue_index, np.int32)
        chains = np.zeros(n_beads, np.int32) if chain_index is None else np.asarray(chain_index, np.int32)
        for name, values in (("residue_index", residues), ("chain_index", chains)):
            require(len(values) == n_beads, f"graph: expected {n_beads} values of {name}, one per position, received {len(values)}")
        return indices, residues, chains

    @functools.cached_property
    def _compiled_energy(self) -> EnergyFn:
        compiled: EnergyFn = jax.jit(self.model.energy)
        return compiled

    @functools.cached_property
    def _functions(self) -> dict[str, Any]:
        return {}

    def _compiled(self, part: Part) -> Any:
        if part not in self._functions:
            self._functions[part] = jax.jit(energy_and_forces(self.model.energy_of(part)))
        return self._functions[part]


def save_bundle(path: Path | str, bundle: Bundle, overwrite: bool = False) -> None:
    """Write a bundle: model.yaml, params.safetensors, prior.yaml where it has one, metrics.json, checksums.json; atomic.

    Equal bundles give equal bytes. Raises `UserError` where the folder exists, unless `overwrite`.
    """
    tensors = {name: np.asarray(value, order="C") for name, value in sorted(_flatten(bundle.params).items())}
    for name, value in tensors.items():
        require(
            bool(np.isfinite(value).all()), f"{path}: parameter {name} is not finite: the training diverged; keep an earlier checkpoint"
        )
    model = bundle.config.to_dict()
    # Whose code computes it is a matter of the machine it runs on.
    model["backbone"].pop("kernels", None)
    document = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "units": UNITS,
        "model": model,
        "species_names": list(bundle.species_names),
        "statistics": bundle.statistics.to_dict(),
        "cutoff_angstrom": bundle.cutoff_angstrom,
        "receptive_field_angstrom": bundle.receptive_field_angstrom,
        "dataset": _plain(bundle.dataset_info),
        "packages": {name: version(name) for name in PACKAGES},
    }
    with atomic_folder(path, overwrite=overwrite) as folder:
        (folder / "model.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        safetensors.numpy.save_file(tensors, folder / "params.safetensors")
        if bundle.model.prior is not None:
            prior = bundle.model.prior
            if not _same_arrays(prior.arrays, bundle.params["prior"]):
                prior = prior.replace_arrays(bundle.params["prior"])
            save_prior(folder / "prior.yaml", prior)
        (folder / "metrics.json").write_text(json.dumps(_plain(bundle.metrics), indent=1, sort_keys=True) + "\n")
        checksums = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        (folder / "checksums.json").write_text(json.dumps(checksums, indent=1) + "\n")


def load_bundle(path: Path | str, kernels: str | None = None) -> Bundle:
    """Read a bundle and check it; `UserError` in one line for a folder that is not one, of another version, or damaged.

    kernels: whose code computes the backbone, as in its configuration, where it leaves a choice.
    """
    path = Path(path)
    document = _read_document(path)
    try:
        model, asked = document["model"], []
        if kernels is not None:
            model, asked = {**model, "backbone": {**model["backbone"], "kernels": kernels}}, [f"backbone.kernels={kernels}"]
        config = ModelConfig.parse(model, f"{path}/model.yaml: model", asked)
        statistics = ModelStatistics.parse(document["statistics"], f"{path}/model.yaml: statistics")
        species_names = tuple(str(name) for name in document["species_names"])
        dataset_info = document["dataset"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}/model.yaml: incomplete ({error}): export the bundle again") from None
    prior = load_prior(path / "prior.yaml") if (path / "prior.yaml").exists() else None
    try:
        params = _unflatten({name: jnp.asarray(value) for name, value in safetensors.numpy.load_file(path / "params.safetensors").items()})
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}/params.safetensors: cannot be read ({error}): export the bundle again") from None
    bundle = Bundle(config, species_names, params, prior, statistics, dataset_info, json.loads((path / "metrics.json").read_text()))
    _check_parameters(path, bundle)
    return bundle


def _real(positions: Array) -> Array:
    """Return positions as a floating array: as they are where they have a dtype of their own that is one, else in JAX's."""
    if hasattr(positions, "dtype") and jnp.issubdtype(positions.dtype, jnp.floating):
        return positions
    return np.asarray(positions).astype(jax.dtypes.canonicalize_dtype(np.float64))


def _require_finite(positions: Array, what: str) -> None:
    bad = first_not_finite(positions)
    require(bad is None, f"positions must be finite; those of {what} {bad} are not: correct or leave it out")


def _frames_budget(graphs: Sequence[BeadGraph], n_frames: int) -> Budget:
    """Return the budget of `n_frames` frames of one chain; rows in steps of an eighth, so that few shapes are compiled."""
    first = graphs[0]
    most = max(count_rows(graph.receivers) for graph in graphs)
    step = max(2 ** (most.bit_length() - 4), 1) if most else 1
    n_rows = n_frames * max(-(-most // step) * step, 1)
    tuples = {f"n_{name}": n_frames * len(getattr(first, name)) for name in ("bonds", "angles", "dihedrals")}
    return Budget(n_beads=n_frames * first.n_beads, n_edges=n_rows * ROW_WIDTH, n_frames=n_frames + 1, n_rows=n_rows, **tuples)


def _read_document(path: Path) -> dict[str, Any]:
    require(path.is_dir(), f"{path}: expected a model bundle, which is a folder with model.yaml: write one with `cg-train run`")
    require((path / "model.yaml").is_file(), f"{path}: expected a model bundle, found no model.yaml in it: give the bundle's folder")
    document = read_yaml(path / "model.yaml")
    named = isinstance(document, dict) and document.get("format") == FORMAT_NAME
    require(named, f"{path}/model.yaml: expected 'format: {FORMAT_NAME}': give the folder of a model bundle")
    received = document.get("version")
    require(
        received == FORMAT_VERSION,
        f"{path}: expected a bundle of format version {FORMAT_VERSION}, received version {received}: "
        "use the cg-models release that wrote it, or export it again",
    )
    try:
        checksums = json.loads((path / "checksums.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"{path}/checksums.json: missing or unreadable: the bundle is damaged; copy it again") from None
    listed = isinstance(checksums, dict) and {"model.yaml", "params.safetensors", "metrics.json"} <= checksums.keys()
    require(listed, f"{path}/checksums.json: expected a checksum of each file: the bundle is damaged; copy it again")
    for name, expected in checksums.items():
        file = path / name
        require(file.is_file(), f"{path}: {name} is missing: the bundle is damaged; copy it again")
        require(sha256(file) == expected, f"{file}: checksum differs: the file was changed or damaged; copy the bundle again")
    return document


def _check_parameters(path: Path, bundle: Bundle) -> None:
    """Parameters must have the names and shapes that the configuration asks for, so a mismatch shows at load, in one line."""
    expected = {name: value.shape for name, value in _flatten(jax.eval_shape(bundle.model.init, jax.random.key(0))).items()}
    received = {name: value.shape for name, value in _flatten(bundle.params).items()}
    for name in sorted(expected.keys() | received.keys()):
        require(
            expected.get(name) == received.get(name),
            f"{path}/params.safetensors: {name}: expected shape {expected.get(name, 'none')}, received {received.get(name, 'none')}: "
            "the parameters belong to another configuration",
        )


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {name: leaf for key, value in tree.items() for name, leaf in _flatten(value, f"{prefix}|{key}" if prefix else key).items()}


def _unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    # "|" joins, because the names of haiku modules contain "/".
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("|")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = leaf
    return tree


def _same_arrays(first: Any, second: Any) -> bool:
    a, b = _flatten(first), _flatten(second)
    return a.keys() == b.keys() and all(np.array_equal(np.asarray(a[name], np.asarray(b[name]).dtype), b[name]) for name in a)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.tolist() if hasattr(value, "tolist") else value
