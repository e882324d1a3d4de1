"""Double precision, like every package's tests; and tiny data: chains of beads with forces of a known potential."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.mapping import RESIDUE_SPECIES
from cg_data.split import SplitConfig
from cg_data.store import Dataset, write_dataset
from cg_priors.parameters import PriorParameters, Term, save_prior
from cg_train.config import TrainConfig

jax.config.update("jax_enable_x64", True)

BOND_LENGTH, FORCE_CONSTANT = 3.8, 20.0


def make_frames(n_beads: int, n_frames: int, seed: int, n_trajectories: int = 2) -> BeadFrames:
    """Return bent chains whose bonds are springs, attracted to their centre, with noisy forces."""
    rng = np.random.default_rng(seed)
    angle = np.arange(n_beads) * 1.7
    helix = np.stack([2.3 * np.cos(angle), 2.3 * np.sin(angle), 1.5 * np.arange(n_beads)], -1)
    positions = helix + rng.normal(scale=0.25, size=(n_frames, n_beads, 3))
    steps = np.diff(positions, axis=1)
    lengths = np.linalg.norm(steps, axis=-1, keepdims=True)
    pulls = FORCE_CONSTANT * (lengths - BOND_LENGTH) * steps / lengths
    forces = -0.3 * (positions - positions.mean(axis=1, keepdims=True))
    forces[:, :-1] += pulls
    forces[:, 1:] -= pulls
    forces += rng.normal(scale=0.5, size=forces.shape)
    trajectory = np.sort(np.arange(n_frames) % n_trajectories).astype(np.int32)
    return BeadFrames(
        positions=positions.astype(np.float32),
        forces=forces.astype(np.float32),
        species=rng.integers(0, 20, n_beads).astype(np.int32),
        residue_index=np.arange(n_beads, dtype=np.int32),
        chain_index=np.zeros(n_beads, np.int32),
        temperature=np.where(trajectory == 0, 300.0, 350.0).astype(np.float32),
        trajectory=trajectory,
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    domains = {"7aaaA00": make_frames(7, 60, 0), "9bbbA00": make_frames(9, 48, 1), "12cccA0": make_frames(12, 36, 2)}
    split = SplitConfig(held_out_trajectory_fraction=0.1, validation_fraction=0.2, gap_fraction=0.01)
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", domains, split=split)


@pytest.fixture(scope="session")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prior") / "prior.yaml"
    arrays = {"bond": {"force_constant": np.array([8.0]), "length": np.array([3.6])}}
    save_prior(path, PriorParameters(RESIDUE_SPECIES, 300.0, {"bond": Term(form="harmonic", weight=1.0)}, arrays))
    return path


@pytest.fixture(scope="session")
def tiny(dataset: Dataset, prior: Path) -> Callable[..., TrainConfig]:
    """Return a configuration that compiles and runs in seconds; options given replace its own."""

    def make(*overrides: str) -> TrainConfig:
        small = "{kind: allegro, layers: 1, num_radial: 4, l_max: 1, num_features: 2, mlp_n_hidden: 8, mlp_n_layers: 1}"
        defaults = (
            f"dataset={dataset.path}",
            f"prior={prior}",
            f"model.backbone={small}",
            "model.cutoff_angstrom=7.0",
            "frames_per_batch=6",
            "stages=[{steps: 12, learning_rate: 0.01}]",
            "log_every_steps=3",
            "validation.every_steps=6",
            "checkpoints.every_steps=4",
        )
        return TrainConfig.load(None, [*defaults, *overrides])

    return make


@pytest.fixture(scope="session")
def only_prior(tiny: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """Return a configuration that trains a prior alone: nothing compiles faster, and the mechanics are the same."""

    def make(*overrides: str) -> TrainConfig:
        return tiny("model.mode=prior", "stages=[{train: prior, steps: 30, learning_rate: 0.05}]", *overrides)

    return make


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs, shared by the processes that tests start."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def start(cache: Path, quick_compilation: Callable[[int], dict[str, str]]) -> Callable[..., subprocess.Popen[str]]:
    """Start a Python program in a process of its own, in single precision as users run it; compiled as tests are."""

    def begin(code: str, *arguments: object, devices: int = 1, **environment: str) -> subprocess.Popen[str]:
        settings = {**quick_compilation(devices), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        settings |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0"}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(
            command, env={**os.environ, **settings, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    return begin
