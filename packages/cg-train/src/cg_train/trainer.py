"""What all stages of a run share."""

import contextlib
import dataclasses
import signal
from dataclasses import dataclass
from typing import NoReturn

import jax
import numpy as np
from jax.sharding import Mesh

from cg_models.hybrid import Model
from cg_train.checkpoint import Checkpoints
from cg_train.config import TrainConfig
from cg_train.distributed import to_host
from cg_train.frames import GraphSource
from cg_train.metrics import Journal
from cg_train.order import SampleOrder
from cg_train.preemption import Stopped, StopRequest
from cg_train.state import Progress, TrainState
from cg_train.targets import FrozenPrior, Targets


@dataclass(frozen=True)
class Trainer:
    """A run's inputs and outputs.

    validation is None where the split has no frames; journal is None, and lock, of the output folder, empty in all processes but the first;
    inputs are fingerprints of the files that the run learns from; dtype is that of positions and forces; n_members is that of an
    ensemble, whose state has a leading axis of members.
    """

    config: TrainConfig
    model: Model
    mesh: Mesh
    training: GraphSource
    validation: GraphSource | None
    order: SampleOrder
    checkpoints: Checkpoints
    journal: Journal | None
    lock: contextlib.ExitStack
    stop: StopRequest
    inputs: dict[str, str]
    frozen_prior: FrozenPrior | None
    resume_hint: str
    dtype: np.dtype
    n_members: int | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return jax.process_index() == 0

    def close(self) -> None:
        """End what writes into the output folder, then let others in."""
        self.checkpoints.close()
        if self.journal is not None:
            self.journal.close()
        self.lock.close()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begin to write a checkpoint."""
        host = to_host(state)
        if progress.step == progress.stage_first_step and not progress.optimizer_loaded:
            # Between stages there is no optimizer state, whichever side of the border the run stands on.
            host = dataclasses.replace(host, optimizer=())
        self.checkpoints.save(host, progress, self.config.to_dict(), self.inputs)

    def stop_now(self, state: TrainState, progress: Progress) -> NoReturn:
        """Save and raise `Stopped`: a signal has asked this process, or another, to stop, and all know of it."""
        self.save(state, progress)
        self.checkpoints.wait()
        number = self.stop.signal_number or signal.SIGTERM
        raise Stopped(number, f"stopped after step {progress.step}, everything is saved; go on with: {self.resume_hint}")

    def targets(self, source: GraphSource, state: TrainState, subtracted: bool) -> Targets:
        """Return what is to be learned on a source: its forces, less those of the prior as it stands, if that is wanted."""
        if self.frozen_prior is None or not subtracted:
            return Targets(source, None)
        arrays = to_host(state.params["prior"])
        if self.n_members is not None:
            # A prior that is subtracted is the same in all members.
            arrays = jax.tree.map(lambda array: array[0], arrays)
        return Targets(source, self.frozen_prior(arrays, source))
