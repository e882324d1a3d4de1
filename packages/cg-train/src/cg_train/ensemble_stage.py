"""A stage that trains all members of an ensemble at once: one step, vectorised over members, which are spread over the devices."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cg_data.errors import UserError
from cg_train.distributed import AXIS, to_host
from cg_train.gradient_stage import GradientStage
from cg_train.loader import Batch, Sharding
from cg_train.loss import SUMS, validation_errors
from cg_train.state import Progress, TrainState, trained
from cg_train.step import evaluated_params, evaluation_function, step_function

MEMBERS = PartitionSpec(AXIS)


class EnsembleStage(GradientStage):
    """As `GradientStage`, on a `TrainState` whose arrays have a leading axis of members.

    Every member sees the same batches; what differs are its first parameters. The devices of the mesh divide the members, so
    nothing is communicated.
    """

    def compile(self) -> None:
        """Make what runs on the devices."""
        config, mesh = self.trainer.config, self.trainer.mesh
        self.sharding = Sharding(config.gradient_accumulation, 1, range(1))
        step = jax.vmap(step_function(self.energy, self.stage, self.optimizer, config, None), in_axes=(0, None))
        evaluate = jax.vmap(evaluation_function(self.energy, config.loss, None), in_axes=(0, None))
        specs = (MEMBERS, PartitionSpec())
        stepped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=(MEMBERS, MEMBERS), check_vma=False)
        self.step_fn = jax.jit(stepped, donate_argnums=0)
        self.evaluate = jax.jit(jax.shard_map(evaluate, mesh=mesh, in_specs=specs, out_specs=MEMBERS, check_vma=False))

    def begin(self, state: TrainState) -> TrainState:
        """Return the state on the devices, with that of the stage's optimizer."""
        state = self.place(to_host(state))
        if state.optimizer == ():
            optimizer_state = jax.vmap(self.optimizer.init)(trained(state.params, self.stage.train))
            state = dataclasses.replace(state, optimizer=self.place(to_host(optimizer_state)))
        return state

    def place(self, tree: Any) -> Any:
        """Return a part of the state on the devices, each with its members."""
        return jax.device_put(tree, NamedSharding(self.trainer.mesh, MEMBERS))

    def put(self, batch: Batch) -> Batch:
        """Return a batch on every device."""
        replicated: Batch = jax.device_put(batch, NamedSharding(self.trainer.mesh, PartitionSpec()))
        return replicated

    def validate(self, state: TrainState) -> tuple[dict[str, float], TrainState, bool]:
        """Return means of the members' errors, the state with each member's best, and whether that mean is the least so far."""
        params = jax.vmap(lambda member: evaluated_params(member, self.stage))(state)
        found = [to_host(self.evaluate(params, self.put(batch))) for batch in self.validation_batches]
        loss, members = self.trainer.config.loss, self.progress.members or []
        errors, is_best, scale = [], np.zeros(len(members), bool), np.array(to_host(state.learning_scale))
        for index, member in enumerate(members):
            sums = {name: sum(float(part[name][index]) for part in found) for name in SUMS}
            error, criterion = validation_errors(sums, loss)
            errors.append(error)
            member.step = self.progress.step
            is_best[index] = member.note_validation(criterion)
            if member.plateau_reached(criterion, self.stage.schedule):
                scale[index] = self.reduced(scale[index])
        if is_best.any():
            chosen = jax.tree.map(lambda new, old: np.where(per_member(is_best, new), new, old), to_host(params), to_host(state.best))
            state = dataclasses.replace(state, best=self.place(chosen))
        state = dataclasses.replace(state, learning_scale=self.place(scale))
        means: dict[str, Any] = {name: float(np.mean([error[name] for error in errors])) for name in errors[0]}
        self.stop_early(min(member.validations_without_best for member in members))
        best = self.progress.note_validation(means.get("validation_loss", means["validation_mse"]))
        means["validation_mse_of_members"] = [error["validation_mse"] for error in errors]
        return means, state, best

    def check_finite(self, state: TrainState) -> None:
        """Raise `UserError` where a member's loss or gradient was not finite; the newest checkpoint is from before."""
        failed = to_host(state.failed_step)
        if (failed < 0).all():
            return
        # The first to fail: who failed later is another step's concern.
        step = int(failed[failed >= 0].min())
        member = int(np.argmax(failed == step))
        samples = self.trainer.order.batch(step, self.trainer.config.frames_per_batch).tolist()
        raise UserError(
            f"step {step + 1}: the loss of member {member} or its gradient is not finite; its frames: "
            f"{self.trainer.training.table.describe(samples)}; checkpoints before it are kept in {self.trainer.checkpoints.folder}: "
            "look at these frames, lower learning_rate or gradient_clip_norm"
        )


def stacked(members: list[Any]) -> Any:
    """Return one tree of host arrays with a leading axis of members."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *members)


def member_of(tree: Any, index: int) -> Any:
    """Return one member's part of a stacked tree of host arrays."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def new_progress(progress: Progress, n_members: int) -> None:
    """Give an ensemble's progress that of its members."""
    progress.members = [Progress(statistics=progress.statistics) for _ in range(n_members)]


def per_member(values: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Return [n_members] values as an array that goes with a stacked one."""
    return values.reshape((-1,) + (1,) * (array.ndim - 1))
