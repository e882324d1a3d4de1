import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.mapping import RESIDUE_SPECIES
from cg_export.artifact import export_artifact
from cg_export.lammps.build import build_plugin
from cg_export.lammps.input import LammpsConfig
from cg_export.lammps.system import System, make_system
from cg_export.lammps.write import write_lammps
from cg_export.lower import Budget
from cg_models.backbones.allegro.config import AllegroConfig
from cg_models.bundle import Bundle
from cg_models.config import ModelConfig
from cg_models.hybrid import build_model
from cg_priors.config import PriorConfig
from cg_priors.fit import fit
from cg_priors.parameters import PriorParameters

jax.config.update("jax_enable_x64", True)

TEMPERATURE_KELVIN = 320.0
SMALL_LADDER = (Budget.of_beads(32, 24),)
SMALL_ALLEGRO = AllegroConfig(layers=1, num_radial=6, l_max=1, num_features=4, mlp_n_hidden=16, mlp_n_layers=1)


def _random_chain(n_beads: int, random: np.random.Generator) -> np.ndarray:
    """Return positions [n_beads, 3] of a self-avoiding walk with CA bonds."""
    positions, direction = np.zeros((n_beads, 3)), np.array([1.0, 0.0, 0.0])
    for i in range(1, n_beads):
        for _ in range(200):
            turned = direction + 0.9 * random.normal(size=3)
            turned /= np.linalg.norm(turned)
            positions[i] = positions[i - 1] + turned * (3.82 + 0.04 * random.normal())
            if i < 2 or np.linalg.norm(positions[: i - 1] - positions[i], axis=1).min() > 4.8:
                break
        direction = turned
    return positions


def _chain_system(segments: list[int], seed: int = 0) -> System:
    """Return segments of the given lengths, random chains side by side, with all species."""
    random = np.random.default_rng(seed)
    positions = [_random_chain(n, random) + np.array([0.0, 0.0, 9.0 * k]) for k, n in enumerate(segments)]
    names = [RESIDUE_SPECIES[(3 * i) % 20] for i in range(sum(segments))]
    residues = np.concatenate([np.arange(n) for n in segments]).astype(np.int32)
    return make_system(names, np.concatenate(positions), residues, np.repeat(np.arange(len(segments)), segments).astype(np.int32))


def _fit_prior(**options: object) -> PriorParameters:
    """Return a prior of random chains, which go everywhere: through straight angles too."""
    random = np.random.default_rng(1)
    n_beads, n_frames = 24, 300
    frames = BeadFrames(
        positions=np.stack([_random_chain(n_beads, random) for _ in range(n_frames)]).astype(np.float32),
        forces=None,
        species=(np.arange(n_beads) % 20).astype(np.int32),
        residue_index=np.arange(n_beads, dtype=np.int32),
        chain_index=np.zeros(n_beads, np.int32),
        temperature=np.full(n_frames, TEMPERATURE_KELVIN, np.float32),
        trajectory=np.zeros(n_frames, np.int32),
    )
    config = PriorConfig.model_validate({"temperature_kelvin": TEMPERATURE_KELVIN, "bootstrap_samples": 0, **options})
    return fit([frames], config, RESIDUE_SPECIES)


@pytest.fixture(scope="session")
def prior() -> PriorParameters:
    return _fit_prior()


def _make_bundle(prior: PriorParameters | None, **options: object) -> Bundle:
    """Return an untrained bundle with a small network whose forces are of the prior's size."""
    config = ModelConfig.model_validate({"mode": "hybrid", "backbone": SMALL_ALLEGRO, "precision": "float32", **options})
    model = build_model(config, RESIDUE_SPECIES, prior)
    return Bundle(config, RESIDUE_SPECIES, model.init(jax.random.key(3)), prior if config.mode != "backbone" else None)


@pytest.fixture(scope="session")
def restricted_artifact(shared: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Return an artifact for 8 beads whose prior keeps angles off 0 and 180 degrees, where dihedrals and their forces jump."""

    def export(path: Path) -> None:
        bundle = _make_bundle(_fit_prior(angle={"form": "restricted"}))
        export_artifact(bundle, path, "float32", ladder=(Budget.of_beads(8, 8),))

    return shared("restricted", export)


@pytest.fixture(scope="session")
def bundle(prior: PriorParameters) -> Bundle:
    return _make_bundle(prior)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return `shared(name, make)`: a file or folder that `make` writes once for all workers of a test session."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def get(name: str, make: Callable[[Path], object]) -> Path:
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / name).exists():
                make(root / name)
        return root / name

    return get


@pytest.fixture(scope="session")
def artifact(bundle: Bundle, shared: Callable[..., Path]) -> Path:
    return shared("artifact", lambda path: export_artifact(bundle, path, "float32", ladder=SMALL_LADDER))


@pytest.fixture(scope="session")
def plugin(shared: Callable[..., Path]) -> Path:
    # A compiler's warning is an error here.
    return shared("cgplugin.so", lambda path: build_plugin(path, extra_flags=["-Werror"]))


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(shared: Callable[..., Path]) -> None:
    """LAMMPS processes and workers of one test session share compiled programs."""
    folder = shared("jax-cache", Path.mkdir)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="session")
def chain_system() -> Callable[..., System]:
    return _chain_system


@pytest.fixture(scope="session")
def meeting() -> tuple[System, np.ndarray, str]:
    """Return two segments 60 A apart, their positions [20, 3] once together, and the LAMMPS commands that bring them there."""
    system = _chain_system([10, 10], seed=5)
    together = system.positions.copy()
    together[system.chain_index == 1] += [0.0, 0.0, -3.0]
    apart = together.copy()
    apart[system.chain_index == 1] += [0.0, 0.0, 60.0]
    commands = "group second molecule 2\ndisplace_atoms second move 0 0 -60\n"
    return System(system.names, apart, system.residue_index, system.chain_index), together, commands


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    return _make_bundle


@pytest.fixture(scope="session")
def ladder() -> tuple[Budget, ...]:
    return SMALL_LADDER


@pytest.fixture
def write(artifact: Path, plugin: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return `write(system, replacements, model, **options)`: a folder to run, with pieces of its input replaced."""

    def write_folder(
        system: System | list[System], replacements: Mapping[str, str] | None = None, model: Path | Bundle = artifact, **options: object
    ) -> Path:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        write_lammps(model, system, folder, LammpsConfig.model_validate({"thermo_every": 100, **options}), plugin=plugin)
        text = (folder / "in.lammps").read_text()
        for old, new in (replacements or {}).items():
            assert old in text, f"{old!r} is not in the input"
            text = text.replace(old, new)
        (folder / "in.lammps").write_text(text)
        return folder

    return write_folder
