"""What training changes: everything a resumed run needs to end like an uninterrupted one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from cg_data.contracts import Array, contract
from cg_train.config import Plateau, ScheduleConfig, TrainConfig
from cg_train.loss import SUMS

WINDOW = (*SUMS, "gradient_norm", "steps")
NEVER = -1


@contract
class TrainState:
    """Arrays that a step reads and writes, replicated on every device.

    params          {"backbone": ..., "prior": ...}
    optimizer       state of the stage's optimizer; () between stages
    average         exponential moving average of `params`, or None
    best            parameters of the best validation so far (those evaluated there)
    step            int32, steps done since the start of the run
    learning_scale  float32, product of the plateau schedule's reductions in this stage
    loss_scale      float32, what the loss is multiplied by before it is differentiated in float16
    good_steps      int32, steps since that was changed
    window          sums since the last line of metrics, float32
    failed_step     int32, the first step whose loss or gradient was not finite, which was not applied; -1 if none
    """

    params: Any
    optimizer: Any
    average: Any
    best: Any
    step: Array
    learning_scale: Array
    loss_scale: Array
    good_steps: Array
    window: dict[str, Array]
    failed_step: Array


class Progress(pydantic.BaseModel):
    """Where the run stands, on the host; written into each checkpoint.

    schedule_offset: steps of another run that its schedule goes on from; optimizer_loaded: whether this stage's optimizer came from
    another run, so that checkpoints have its state before the stage's first step too; members: of an ensemble, what its members'
    validations were, while the ensemble's own numbers are their means.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    statistics: dict[str, Any]
    step: int = 0
    stage: int = 0
    stage_first_step: int = 0
    best_mse: float | None = None
    best_step: int | None = None
    stage_best_mse: float | None = None
    validations_without_best: int = 0
    validations_without_reduction: int = 0
    plateau_best_mse: float | None = None
    budgets: list[dict[str, int | None]] | None = None
    budget_shards: int = 0
    replans: int = 0
    schedule_offset: int = 0
    optimizer_loaded: bool = False
    finished: bool = False
    members: list["Progress"] | None = None

    def note_validation(self, mse: float) -> bool:
        """Take in a validation's mean square error; return whether it is the run's best so far."""
        if np.isfinite(mse) and (self.stage_best_mse is None or mse < self.stage_best_mse):
            self.stage_best_mse, self.validations_without_best = mse, 0
        else:
            self.validations_without_best += 1
        if not np.isfinite(mse) or (self.best_mse is not None and mse >= self.best_mse):
            return False
        self.best_mse, self.best_step = mse, self.step
        return True

    def plateau_reached(self, mse: float, schedule: ScheduleConfig) -> bool:
        """Take in a validation's error; return whether a plateau schedule's patience is over (and count anew)."""
        if not isinstance(schedule, Plateau):
            return False
        if self.plateau_best_mse is None or mse < self.plateau_best_mse:
            self.plateau_best_mse, self.validations_without_reduction = mse, 0
            return False
        self.validations_without_reduction += 1
        if self.validations_without_reduction < schedule.patience:
            return False
        self.validations_without_reduction = 0
        return True

    def next_stage(self) -> None:
        """Move on to the next stage, which starts at the present step."""
        self.stage += 1
        self.stage_first_step = self.step
        self.budgets = None
        self.schedule_offset, self.optimizer_loaded = 0, False
        for member in self.members or []:
            member.next_stage()
        self.stage_best_mse = self.plateau_best_mse = None
        self.validations_without_best = self.validations_without_reduction = 0


def initial_state(params: Any, config: TrainConfig) -> TrainState:
    """Return the state before the first stage."""
    with_average = config.ema_decay is not None
    params = jax.tree.map(jnp.asarray, params)
    return TrainState(
        params=params,
        optimizer=(),
        average=jax.tree.map(jnp.array, params) if with_average else None,
        best=jax.tree.map(jnp.array, params),
        step=jnp.zeros((), jnp.int32),
        learning_scale=jnp.ones((), jnp.float32),
        loss_scale=jnp.float32(config.mixed_precision.initial_loss_scale),
        good_steps=jnp.zeros((), jnp.int32),
        window=empty_window(),
        failed_step=jnp.full((), NEVER, jnp.int32),
    )


def empty_window() -> dict[str, Any]:
    """Return window sums of nothing."""
    return {name: np.zeros((), np.float32) for name in WINDOW}


def trained(params: Any, train: str) -> dict[str, Any]:
    """Return the part of the parameters that a stage moves."""
    groups = ("backbone", "prior") if train == "both" else (train,)
    return {group: params[group] for group in groups}
