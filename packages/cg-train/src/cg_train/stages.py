"""The stages of a run, one after the other."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cg_train import config as c
from cg_train.distributed import put_replicated, to_host
from cg_train.ensemble_stage import EnsembleStage, member_of, per_member, stacked
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
            lbfgs = run_lbfgs if trainer.n_members is None else _lbfgs_once
            state = lbfgs(trainer, stage, state, progress)
        else:
            kind = GradientStage if trainer.n_members is None else EnsembleStage
            state = kind(trainer, stage, progress).run(state)
        if stage.train != "backbone":
            _check_prior(trainer, state, f"stage {progress.stage + 1}")
        progress.next_stage()
        progress.finished = progress.stage == len(stages)
        scale = np.ones(np.shape(state.learning_scale), np.float32)
        state = dataclasses.replace(state, optimizer=(), learning_scale=put_replicated(scale, trainer.mesh))
        trainer.save(state, progress)
    return state


def _check_prior(trainer: Trainer, state: TrainState, where: str) -> None:
    """Raise `UserError` where training made the prior unphysical, before anything is built on it."""
    if trainer.model.prior is not None:
        params = to_host(state.params if state.average is None else state.average)
        for index in range(trainer.n_members or 1):
            arrays = params["prior"] if trainer.n_members is None else member_of(params["prior"], index)
            trainer.model.prior.replace_arrays(arrays).check(f"the prior as trained by {where}")


def _lbfgs_once(trainer: Trainer, stage: c.LbfgsStage, state: TrainState, progress: Progress) -> TrainState:
    """Run L-BFGS on the prior, which all members share, and give all of them the result."""
    host = to_host(put_replicated(state, trainer.mesh))
    n_members = trainer.n_members or 1
    alone = Mesh(np.asarray(trainer.mesh.devices)[:1], trainer.mesh.axis_names)
    single = dataclasses.replace(trainer, mesh=alone, n_members=None)
    of_one = progress.model_copy(deep=True)
    done = to_host(run_lbfgs(single, stage, put_replicated(member_of(host, 0), alone), of_one))
    progress.step = of_one.step
    everywhere = stacked([done.params["prior"]] * n_members)

    def shared(params: Any) -> Any:
        return None if params is None else {**params, "prior": everywhere}

    step = np.full(n_members, progress.step, np.int32)
    average = None if host.average is None else shared(host.params)
    validated = np.array([member.best_mse is not None for member in progress.members or []])
    # Of members that were validated before, the best stay what they were: this stage validates the first alone.
    best = jax.tree.map(lambda old, new: np.where(per_member(validated, new), old, new), host.best, shared(host.params))
    return dataclasses.replace(host, params=shared(host.params), average=average, best=best, step=step)


def with_optimizer(state: TrainState, config: c.TrainConfig, progress: Progress) -> TrainState:
    """Return a state with the optimizer state that a checkpoint of this progress has."""
    if progress.stage >= len(config.stages) or (progress.step == progress.stage_first_step and not progress.optimizer_loaded):
        return state
    stage = config.stages[progress.stage]
    if isinstance(stage, c.LbfgsStage):
        return state
    optimizer = make_optimizer(stage, make_schedule(stage, 1))
    init = optimizer.init if progress.members is None else jax.vmap(optimizer.init)
    return dataclasses.replace(state, optimizer=init(trained(state.params, stage.train)))
