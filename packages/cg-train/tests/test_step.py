"""Claims about the loss and its gradient, on tiny proteins of different length."""

import dataclasses
import subprocess
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.contracts import BeadGraph
from cg_data.store import Dataset
from cg_train.config import DataConfig, LossConfig, TrainConfig
from cg_train.frames import GraphSource, select_frames
from cg_train.loader import Batch, BatchBuilder, Example, Sharding, plan_run_budgets
from cg_train.loss import batch_sums, loss_value, penalty

GRADIENT = """
import sys
import jax, numpy as np
from cg_data.store import open_dataset
from cg_models.hybrid import build_model
from cg_priors.parameters import load_prior
from cg_train.config import TrainConfig, DataConfig
from cg_train.distributed import make_mesh, put_batch, sharding_of
from cg_train.frames import GraphSource, select_frames
from cg_train.loader import BatchBuilder, Example, plan_run_budgets
from cg_train.loss import loss_value
from cg_train.step import make_gradient
from cg_train.state import trained

config = TrainConfig.load(sys.argv[1])
dataset = open_dataset(config.dataset)
source = GraphSource(dataset, select_frames(dataset, "train", DataConfig()), 7.0, 1.0)
model = build_model(config.model, dataset.species_names, load_prior(config.prior))
params = jax.tree.map(np.float32, model.init(jax.random.key(0)))
samples = [0, 30, 60, 1, 31, 61, 2, 70]
found = {}
for n_devices, n_parts in ((1, 1), (4, 1), (2, 2), (1, 4)):
    mesh = make_mesh("cpu", n_devices)
    sharding = sharding_of(mesh, n_parts)
    budgets = plan_run_budgets(source, [samples], sharding.n_shards, 0.05)
    example = lambda s, step: Example(source.graph(s), source.forces(s))
    builder = BatchBuilder(source, example, sharding, budgets, 0.05, np.dtype(np.float32))
    gradient = jax.jit(make_gradient(model.energy, config.loss, mesh))
    sums, grads = gradient(trained(params, "both"), params, put_batch(builder.build(samples, 0), mesh))
    leaves = [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(grads)]
    found[f"{n_devices}x{n_parts}"] = np.concatenate([np.asarray(loss_value(sums, config.loss)).reshape(1), *leaves])
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def gradients(
    start: Callable[..., subprocess.Popen[str]], tiny: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict:
    """Loss and gradient of one batch, by devices x parts."""
    folder = tmp_path_factory.mktemp("gradients")
    tiny("model.backbone.l_max=0").save(folder / "config.yaml")
    process = start(GRADIENT, folder / "config.yaml", folder / "found.npz", devices=4)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    return dict(np.load(folder / "found.npz"))


@pytest.mark.parametrize("division", ["4x1", "2x2", "1x4"])
def test_loss_and_gradient_do_not_depend_on_devices_or_accumulation(gradients: dict, division: str) -> None:
    one, several = gradients["1x1"], gradients[division]
    assert np.linalg.norm(several - one) <= 1e-6 * np.linalg.norm(one)
    assert np.linalg.norm(one[1:]) > 0


def spring(params: dict, graph: BeadGraph) -> jax.Array:
    energies = params["k"] * (graph.positions**2).sum(-1)
    return jnp.where(graph.bead_mask, energies, 0)


def packed(dataset: Dataset, samples: list[int], room: float = 0.05) -> Batch:
    source = GraphSource(dataset, select_frames(dataset, "train", DataConfig()), 7.0, 1.0)
    budgets = plan_run_budgets(source, [samples, samples * 2 if room > 1 else samples], 1, room)
    builder = BatchBuilder(
        source, lambda s, _: Example(source.graph(s), source.forces(s)), Sharding(1, 1, range(1)), budgets, room, np.dtype(np.float64)
    )
    return jax.tree.map(lambda array: array[0, 0], builder.build(samples, 0))


def test_the_loss_is_the_mean_over_real_beads_and_components(dataset: Dataset) -> None:
    samples = [0, 40, 80]
    source = GraphSource(dataset, select_frames(dataset, "train", DataConfig()), 7.0, 1.0)
    errors = [-2 * 0.1 * source.positions(s).astype(float) - source.forces(s) for s in samples]
    expected = np.mean(np.concatenate(errors) ** 2)
    sums = batch_sums(spring, LossConfig())({"k": 0.1}, packed(dataset, samples))
    assert float(loss_value(sums, LossConfig())) == pytest.approx(expected, rel=1e-5)
    assert float(sums["force_squared"] / sums["force_count"]) == pytest.approx(expected, rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient(dataset: Dataset) -> None:
    def value(k: float, batch: Batch) -> jax.Array:
        return loss_value(batch_sums(spring, LossConfig())({"k": k}, batch), LossConfig())

    small, large = packed(dataset, [0, 40]), packed(dataset, [0, 40], room=2.0)
    assert large.forces.shape[0] > small.forces.shape[0]
    np.testing.assert_allclose(jax.value_and_grad(value)(0.2, small), jax.value_and_grad(value)(0.2, large), rtol=1e-6)


def test_huber_is_the_square_inside_and_its_tangent_outside() -> None:
    config = LossConfig(kind="huber", huber_delta=2.0)
    errors = jnp.array([-1.5, 0.0, 1.0, 2.0, 5.0, -5.0])
    np.testing.assert_allclose(penalty(errors, config), [2.25, 0, 1, 4, 16, 16])
    slope = jax.grad(lambda e: penalty(e, config))
    assert float(slope(2.0 - 1e-9)) == pytest.approx(float(slope(2.0 + 1e-9)), abs=1e-6)


def test_frames_of_weight_zero_leave_the_loss_to_the_others(dataset: Dataset) -> None:
    both = packed(dataset, [0, 40])
    (order,) = (np.asarray(both.graph.frame)[np.asarray(both.graph.bead_mask)],)
    lengths = np.bincount(order)
    kept = 0 if lengths[0] == len(packed(dataset, [0]).weights[packed(dataset, [0]).weights > 0]) else 1
    weights = np.where(np.asarray(both.graph.frame) == kept, both.weights, 0)
    one = batch_sums(spring, LossConfig())({"k": 0.1}, packed(dataset, [0]))
    sums = batch_sums(spring, LossConfig())({"k": 0.1}, dataclasses.replace(both, weights=weights))
    assert float(loss_value(sums, LossConfig())) == pytest.approx(float(loss_value(one, LossConfig())), rel=1e-6)
