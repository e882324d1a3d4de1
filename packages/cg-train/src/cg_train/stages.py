"""The stages of a run, one after the other."""

import dataclasses

import numpy as np

from cg_data.errors import UserError
from cg_train import config as c
from cg_train.distributed import put_replicated
from cg_train.gradient_stage import GradientStage
from cg_train.optimizer import make_optimizer, make_schedule
from cg_train.state import Progress, TrainState, trained
from cg_train.trainer import Trainer


def run_stages(trainer: Trainer, state: TrainState, progress: Progress) -> TrainState:
    """Run what is left of the stages; return the final state. `progress` is updated in place."""
    stages = trainer.config.stages
    while progress.stage < len(stages):
        stage = stages[progress.stage]
        if isinstance(stage, c.LbfgsStage):
            raise UserError("stages: kind lbfgs is not available yet")
        state = GradientStage(trainer, stage, progress).run(state)
        progress.next_stage()
        progress.finished = progress.stage == len(stages)
        state = dataclasses.replace(state, optimizer=(), learning_scale=put_replicated(np.ones((), np.float32), trainer.mesh))
        trainer.save(state, progress)
    return state


def with_optimizer(state: TrainState, config: c.TrainConfig, progress: Progress) -> TrainState:
    """Return a state with the optimizer state that a checkpoint of this progress has."""
    if progress.stage >= len(config.stages) or progress.step == progress.stage_first_step:
        return state
    stage = config.stages[progress.stage]
    if isinstance(stage, c.LbfgsStage):
        return state
    optimizer = make_optimizer(stage, make_schedule(stage, 1))
    return dataclasses.replace(state, optimizer=optimizer.init(trained(state.params, stage.train)))
