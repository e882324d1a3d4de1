"""Double precision, like every package's tests: one process may run them all; and a small bundle and data set that are shared."""

import jax
import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.store import write_dataset
from cg_models.bundle import Bundle, save_bundle
from cg_models.config import ModelConfig
from cg_models.hybrid import build_model
from cg_priors.parameters import PriorParameters, Term

jax.config.update("jax_enable_x64", True)

SPECIES = ("ALA", "GLY", "LEU", "SER")
SMALL = {"kind": "allegro", "layers": 1, "num_radial": 4, "l_max": 1, "num_features": 2, "mlp_n_hidden": 8, "mlp_n_layers": 1}


def zigzag_frames(n_beads, n_frames, seed, temperature=300.0, n_trajectories=2):
    """Frames of a zigzag chain with independent bead noise; forces are minus 20 times the displacement, plus noise."""
    generator = np.random.default_rng(seed)
    mean = np.zeros((n_beads, 3))
    mean[:, 0], mean[:, 1], mean[:, 2] = 3.1 * np.arange(n_beads), 2.2 * (np.arange(n_beads) % 2), 0.8 * (np.arange(n_beads) // 2 % 2)
    displacement = generator.normal(scale=0.12, size=(n_frames, n_beads, 3))
    return BeadFrames(
        positions=(mean + displacement).astype(np.float32),
        forces=(-20.0 * displacement + generator.normal(size=displacement.shape)).astype(np.float32),
        species=(np.arange(n_beads) % len(SPECIES)).astype(np.int32),
        residue_index=np.arange(n_beads, dtype=np.int32),
        chain_index=np.zeros(n_beads, np.int32),
        temperature=np.full(n_frames, temperature, np.float32),
        trajectory=np.repeat(np.arange(n_trajectories), n_frames // n_trajectories).astype(np.int32),
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Two domains of 8 and 11 beads; the second replica of each is held out."""
    domains = {"one": zigzag_frames(8, 80, seed=1), "two": zigzag_frames(11, 60, seed=2)}
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", domains, species_names=SPECIES)


@pytest.fixture(scope="session")
def prior():
    terms = {
        "bond": Term("harmonic", 1.0),
        "angle": Term("quartic", 1.0),
        "repulsion": Term("soft_sphere", 1.0, settings={"switch": 5.0, "cutoff": 7.0}),
    }
    arrays = {
        "bond": {"force_constant": [40.0], "length": [3.88]},
        "angle": {"angle": [1.9], "quadratic": [5.0], "cubic": [0.5], "quartic": [2.0]},
        "repulsion": {"epsilon": [1.0], "sigma": [4.5]},
    }
    values = {term: {key: np.asarray(value) for key, value in group.items()} for term, group in arrays.items()}
    return PriorParameters(SPECIES, 300.0, terms, values)


@pytest.fixture(scope="session")
def prior_bundle(prior):
    """A bundle whose only part is the prior: fast to compile."""
    config = ModelConfig.parse({"mode": "prior"}, "test")
    params = build_model(config, SPECIES, prior).init(jax.random.key(0))
    return Bundle(config, SPECIES, params, prior)


@pytest.fixture(scope="session")
def hybrid_bundle(prior):
    config = ModelConfig.parse({"mode": "hybrid", "cutoff_angstrom": 7.0, "backbone": SMALL}, "test")
    params = build_model(config, SPECIES, prior).init(jax.random.key(0))
    return Bundle(config, SPECIES, params, prior)


@pytest.fixture(scope="session")
def bundle_folder(prior_bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    save_bundle(path, prior_bundle)
    return path
