from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cg_train import config as c
from cg_train.optimizer import decay_mask, evaluation_params, make_optimizer, make_schedule

KINDS = ("adam", "amsgrad", "adabelief", "yogi", "lion", "sgd", "polyak_sgd", "fromage", "muon", "schedule_free_adam")


def stage_of(kind: str, rate: float = 0.05, **options: Any) -> c.StageConfig:
    values = {"optimizer": {"kind": kind, **options}, "learning_rate": rate, "schedule": {"kind": "constant"}, "gradient_clip_norm": None}
    return c.StageConfig.parse(values, "test")


def minimise(stage: c.StageConfig, n_steps: int) -> float:
    """Return the share of a quadratic bowl's value that is left."""
    target = {"backbone": {"net": {"w": jnp.linspace(-1, 1, 12).reshape(3, 4), "b": jnp.ones(4)}}}
    optimizer = make_optimizer(stage, make_schedule(stage, n_steps))

    def loss(params: Any) -> jax.Array:
        return sum(((a - b) ** 2).sum() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True))

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(lambda leaf: leaf + 0.7, target)
    first, state = float(loss(params)), optimizer.init(params)
    for _ in range(n_steps):
        params, state = step(params, state)
    return float(loss(evaluation_params(stage, state, params))) / first


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_descends_a_bowl(kind: str) -> None:
    assert minimise(stage_of(kind, 0.01 if kind == "lion" else 0.05), 150) < 0.05


def test_warmup_cosine_rises_and_falls() -> None:
    stage = c.StageConfig(learning_rate=2.0, schedule=c.WarmupCosine(warmup_fraction=0.1, final_fraction=0.1))
    rates = np.array([float(make_schedule(stage, 100)(step)) for step in range(101)])
    assert rates[0] == pytest.approx(0.2)
    assert rates.max() == pytest.approx(2.0)
    assert rates[9] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(0.2, rel=1e-5)
    assert (np.diff(rates[10:]) < 0).all()


def test_the_gradient_is_clipped_to_its_norm() -> None:
    stage = c.StageConfig(optimizer=c.Sgd(), learning_rate=1.0, schedule=c.Constant(), gradient_clip_norm=2.0)
    optimizer = make_optimizer(stage, make_schedule(stage, 10))
    params = {"backbone": {"net": {"w": jnp.zeros((2, 2))}}}
    updates, _ = optimizer.update(jax.tree.map(lambda leaf: leaf + 100.0, params), optimizer.init(params), params, value=jnp.ones(()))
    assert float(optax.tree.norm(updates)) == pytest.approx(2.0, rel=1e-6)


def test_polyaks_step_is_of_the_gradient_as_it_is() -> None:
    """A clipped gradient g' would give the step loss / |g'|, which is longer the more was clipped."""
    stage = c.StageConfig(optimizer=c.PolyakSgd(), learning_rate=1.0, schedule=c.Constant())
    assert stage.gradient_clip_norm == 10.0
    optimizer = make_optimizer(stage, make_schedule(stage, 10))
    params = {"backbone": {"net": {"w": jnp.zeros((2, 2))}}}
    gradient = jax.tree.map(lambda leaf: leaf + 100.0, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params, value=jnp.asarray(50.0))
    assert float(optax.tree.norm(updates)) == pytest.approx(50.0 / 200.0)


def test_only_matrices_of_the_backbone_decay() -> None:
    params = {
        "backbone": {"net": {"w": jnp.ones((2, 2)), "b": jnp.ones(2), "energy_scale": jnp.ones(()), "embed": jnp.ones((2, 2))}},
        "prior": {"angle": {"cosine": jnp.ones((2, 3))}},
    }
    mask = decay_mask(params)
    assert mask["backbone"]["net"] == {"w": True, "b": False, "energy_scale": False, "embed": False}
    assert not mask["prior"]["angle"]["cosine"]
    stage = stage_of("adam", 0.1, weight_decay=0.5)
    optimizer = make_optimizer(stage, make_schedule(stage, 10))
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params, value=jnp.ones(()))
    np.testing.assert_allclose(updates["backbone"]["net"]["w"], -0.05, rtol=1e-6)
    assert float(abs(updates["prior"]["angle"]["cosine"]).max()) == 0
