from pathlib import Path

import jax
import numpy as np
import pytest

from cg_priors.inputs import read_frames

jax.config.update("jax_enable_x64", True)

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def trp_cage_file() -> Path:
    """20 residues, 348 K, positions and forces."""
    return DATA / "2jofA00.npz"


@pytest.fixture(scope="session")
def trp_cage(trp_cage_file):
    (frames,), species = read_frames(trp_cage_file)
    return frames, species


@pytest.fixture(scope="session")
def chignolin():
    (frames,), species = read_frames(DATA / "5awlA00.npz")
    return frames, species


@pytest.fixture
def random():
    return np.random.default_rng(0)
