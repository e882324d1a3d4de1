from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cg_data.units import thermal_energy
from cg_train.augment import noised, random_rotation
from cg_train.config import AugmentationConfig, TrainConfig
from cg_train.metrics import read_metrics
from cg_train.order import random_generator
from cg_train.run import run


def test_rotations_are_proper_and_uniform() -> None:
    rotations = np.array([random_rotation(random_generator(0, i)) for i in range(4000)])
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotations.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-12)
    # Of the Haar measure, entries have mean 0 and second moment 1/3, and the trace has mean 0 and second moment 1.
    assert np.abs(rotations.mean(axis=0)).max() < 0.04
    assert np.abs((rotations**2).mean(axis=0) - 1 / 3).max() < 0.03
    assert (np.trace(rotations, axis1=1, axis2=2) ** 2).mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("score_fraction", [0.0, 0.4, 1.0])
def test_noised_forces_have_the_mean_of_the_noised_density(score_fraction: float) -> None:
    kt, stiffness, sigma = thermal_energy(300.0), 4.0, 0.3
    rng = np.random.default_rng(1)
    x = rng.normal(scale=np.sqrt(kt / stiffness), size=(200_000, 3))
    config = AugmentationConfig(noise_angstrom=sigma, score_fraction=score_fraction)
    y, target = noised(x, -stiffness * x, 300.0, config, rng)
    slope = (y * target).sum() / (y * y).sum()
    assert slope == pytest.approx(-kt / (kt / stiffness + sigma**2), rel=0.02)


def test_rotation_leaves_the_validation_of_an_invariant_model_as_it_was(only_prior: Callable[..., TrainConfig], tmp_path: Path) -> None:
    plain = run(only_prior(), tmp_path / "plain")
    turned = run(only_prior("augmentation.random_rotation=true"), tmp_path / "turned")
    assert turned.metrics["validation_mse"] == pytest.approx(plain.metrics["validation_mse"], rel=1e-4)
    assert turned.metrics["train_mse"] != plain.metrics["train_mse"]  # by rounding


def test_noise_is_for_training_alone_and_the_same_in_every_run(only_prior: Callable[..., TrainConfig], tmp_path: Path) -> None:
    noisy = only_prior("augmentation.noise_angstrom=0.1", "augmentation.score_fraction=0.5")
    first, second = run(noisy, tmp_path / "first"), run(noisy, tmp_path / "second")
    assert (first.bundle / "params.safetensors").read_bytes() == (second.bundle / "params.safetensors").read_bytes()
    plain = run(only_prior(), tmp_path / "plain")
    assert read_metrics(first.metrics_file)[0] == read_metrics(plain.metrics_file)[0]
    assert read_metrics(first.metrics_file)[1]["train_mse"] != read_metrics(plain.metrics_file)[1]["train_mse"]
