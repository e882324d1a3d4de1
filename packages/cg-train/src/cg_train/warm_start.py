"""What a new run takes from another's checkpoint: weights, and on request the optimizer, the schedule, the loss scale."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cg_data.errors import UserError
from cg_train import checkpoint
from cg_train import config as c
from cg_train.optimizer import make_optimizer, make_schedule
from cg_train.state import Progress, TrainState, trained

PARTS = ("weights", "optimizer", "scheduler", "scaler")


def parse_load(text: str) -> str:
    """Return what a command line's --load names: auto, all, or parts joined by commas, of which weights is always one."""
    parts = [part.strip() for part in text.split(",")]
    if text not in ("auto", "all") and not set(parts) <= set(PARTS):
        raise UserError(f"--load {text}: expected auto, all, or some of {', '.join(PARTS)} joined by commas")
    return text if text in ("auto", "all") else ",".join(part for part in PARTS if part in parts or part == "weights")


def warm_state(restored: checkpoint.Restored, fresh: TrainState, config: c.TrainConfig, load: str, progress: Progress) -> TrainState:
    """Return the first state of a new run with the checkpoint's parameters and the other parts named in `load`.

    The optimizer's moments come without its place in the schedule unless `scheduler` is named too; that place is noted in
    `progress`. Raises `UserError` where they do not fit the first stage, or the checkpoint stands between stages.
    """
    parts = load.split(",")
    state = _starting_from(checkpoint.read_parts(restored.path, {"params": fresh.params})["params"], fresh)
    if not config.energy_reference.use_checkpoint:
        state = _starting_from(_with_offsets(state.params, fresh.params), fresh)
    if not {"optimizer", "scheduler"} & set(parts):
        return _with_scale(state, restored) if "scaler" in parts else state
    stage, old = config.stages[0], restored.progress
    if not isinstance(stage, c.StageConfig) or (old.step == old.stage_first_step and not old.optimizer_loaded):
        raise UserError(
            f"--load {load}: {restored.path} stands between stages or the first stage is L-BFGS: there is no optimizer to load; "
            "choose another checkpoint or --load weights"
        )
    init = make_optimizer(stage, make_schedule(stage, 1)).init
    blank = (init if progress.members is None else jax.vmap(init))(trained(state.params, stage.train))
    found = checkpoint.read_parts(restored.path, {"optimizer": blank, "learning_scale": state.learning_scale})
    done = old.step - old.stage_first_step + old.schedule_offset if "scheduler" in parts else 0
    optimizer = _at(found["optimizer"] if "optimizer" in parts else blank, done)
    progress.schedule_offset, progress.optimizer_loaded = done, True
    scale = found["learning_scale"] if "scheduler" in parts else state.learning_scale
    state = dataclasses.replace(state, optimizer=optimizer, learning_scale=scale)
    return _with_scale(state, restored) if "scaler" in parts else state


def _starting_from(params: Any, fresh: TrainState) -> TrainState:
    """Return a first state, of a run or of an ensemble, with other parameters."""
    average = None if fresh.average is None else jax.tree.map(jnp.array, params)
    return dataclasses.replace(fresh, params=jax.tree.map(jnp.asarray, params), average=average, best=jax.tree.map(jnp.array, params))


def _with_scale(state: TrainState, restored: checkpoint.Restored) -> TrainState:
    names = {"loss_scale": state.loss_scale, "good_steps": state.good_steps}
    return dataclasses.replace(state, **checkpoint.read_parts(restored.path, names))


def _with_offsets(params: Any, fresh: Any) -> Any:
    """Return parameters whose species offsets are those of a fresh model."""

    def choose(path: Any, old: Any, new: Any) -> Any:
        return new if str(getattr(path[-1], "key", path[-1])) == "species_offset" else old

    return jax.tree_util.tree_map_with_path(choose, params, fresh)


def _at(optimizer: Any, step: int) -> Any:
    """Return an optimizer's state whose schedules stand at `step`."""
    return _schedules(optimizer, lambda state: state._replace(count=np.full_like(np.asarray(state.count), step)))


def _schedules(optimizer: Any, change: Callable[[Any], Any]) -> Any:
    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState) or type(node).__name__.startswith("InjectStatefulHyperparams")

    return jax.tree.map(lambda node: change(node) if is_schedule(node) else node, optimizer, is_leaf=is_schedule)
