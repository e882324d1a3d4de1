import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cg_data.contracts import BeadGraph
from cg_data.store import Dataset
from cg_train.config import DataConfig, StageConfig, TrainConfig
from cg_train.frames import GraphSource, select_frames
from cg_train.loader import Batch, BatchBuilder, Sharding, plan_run_budgets
from cg_train.state import initial_state
from cg_train.step import step_function
from cg_train.targets import Targets


def network(params: dict, graph: BeadGraph) -> jax.Array:
    """A matrix product inside a compiled function, and geometry outside of it."""
    hidden = jax.jit(lambda x: jnp.tanh(x @ params["backbone"]["w"]))(graph.positions * 0.1)
    return jnp.where(graph.bead_mask, (hidden @ jnp.ones(8, hidden.dtype)) + (graph.positions**2).sum(-1), 0)


@pytest.fixture(scope="module")
def batch(dataset: Dataset) -> Batch:
    source = GraphSource(dataset, select_frames(dataset, "train", DataConfig()), 7.0, 1.0)
    samples = [0, 40, 80]
    budgets, targets = plan_run_budgets(source, [samples], 1, 0.05), Targets(source, None)
    loss = TrainConfig(dataset="d", prior="p").loss
    builder = BatchBuilder(source, lambda s, _: targets.example(s, loss), Sharding(1, 1, range(1)), budgets, 0.05, np.dtype(np.float32))
    return builder.build(samples, 0)


PARAMS = {"backbone": {"w": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)}}


def test_a_step_that_overflows_float16_is_left_out_and_the_scale_halved(batch: Batch) -> None:
    precision = {"matmul": "float16", "initial_loss_scale": 1e38, "growth_steps": 2}
    config = TrainConfig.parse({"dataset": "d", "prior": "p", "mixed_precision": precision}, "test")
    optimizer = optax.with_extra_args_support(optax.sgd(1e-6))
    step: Callable = jax.jit(step_function(network, StageConfig(), optimizer, config, None))
    state = initial_state({**PARAMS, "prior": {}}, config)
    state = dataclasses.replace(state, optimizer=optimizer.init(state.params))
    after, _ = step(state, batch)
    assert int(after.step) == 1
    assert int(after.failed_step) == -1
    assert float(after.loss_scale) == pytest.approx(5e37)
    np.testing.assert_array_equal(after.params["backbone"]["w"], PARAMS["backbone"]["w"])
    state = dataclasses.replace(state, loss_scale=jnp.float32(8.0))
    for _ in range(2):
        state, _ = step(state, batch)
    assert float(state.loss_scale) == 16.0
    assert not np.array_equal(state.params["backbone"]["w"], PARAMS["backbone"]["w"])
