"""The stages of a run, one after the other."""

import dataclasses

import numpy as np

from cg_train import config as c
from cg_train.distributed import put_replicated, to_host
from cg_train.gradient_stage import GradientStage
from cg_train.lbfgs_stage import run_lbfgs
from cg_train.optimizer import make_optimizer, make_schedule
from cg_train.state import Progress, TrainState, trained
from cg_train.trainer import Trainer


def run_stages(trainer: Trainer, state: TrainState, progress: Progress) -> TrainState:
    """Run what is left of the stages; return the final state. `progress` is updated in place."""
    stages = trainer.config.stages
    while progress.stage < len(stages):
        stage = stages[progress.stage]
        if isinstance(stage, c.LbfgsStage):
            state = run_lbfgs(trainer, stage, state, progress)
        else:
            state = GradientStage(trainer, stage, progress).run(state)
        if stage.train != "backbone":
            _check_prior(trainer, state, f"stage {progress.stage + 1}")
        progress.next_stage()
        progress.finished = progress.stage == len(stages)
        state = dataclasses.replace(state, optimizer=(), learning_scale=put_replicated(np.ones((), np.float32), trainer.mesh))
        trainer.save(state, progress)
    return state


def _check_prior(trainer: Trainer, state: TrainState, where: str) -> None:
    """Raise `UserError` where training made the prior unphysical, before anything is built on it."""
    if trainer.model.prior is not None:
        params = to_host(state.params if state.average is None else state.average)
        trainer.model.prior.replace_arrays(params["prior"]).check(f"the prior as trained by {where}")


def with_optimizer(state: TrainState, config: c.TrainConfig, progress: Progress) -> TrainState:
    """Return a state with the optimizer state that a checkpoint of this progress has."""
    if progress.stage >= len(config.stages) or progress.step == progress.stage_first_step:
        return state
    stage = config.stages[progress.stage]
    if isinstance(stage, c.LbfgsStage):
        return state
    optimizer = make_optimizer(stage, make_schedule(stage, 1))
    return dataclasses.replace(state, optimizer=optimizer.init(trained(state.params, stage.train)))
