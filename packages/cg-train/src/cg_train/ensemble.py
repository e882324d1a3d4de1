"""An ensemble: models that differ in their seeds alone, trained together, whose spread says where they know little.

OUT/members/<i>/bundle   an ordinary bundle for each member kept
OUT/ensemble.json        paths of the bundles, each member's validation error, the best, the variance of the members' forces
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cg_data.atomic import atomic_file
from cg_data.errors import UserError, require
from cg_models.forces import energy_and_forces
from cg_train.checkpoint import full_disk_is_one_line
from cg_train.config import StageConfig, TrainConfig
from cg_train.distributed import describe, to_host
from cg_train.ensemble_stage import member_of
from cg_train.frames import GraphSource
from cg_train.loader import BatchBuilder, Sharding, plan_run_budgets
from cg_train.metrics import plot_losses
from cg_train.preemption import stop_on_signals
from cg_train.prepare import Inputs, prepare
from cg_train.run import final_params, look_at, write_bundle
from cg_train.stages import run_stages
from cg_train.targets import Targets
from cg_train.trainer import Trainer

logger = logging.getLogger(__name__)

ENSEMBLE_VERSION = 1
Keep = Literal["all", "best"]


@dataclass(frozen=True)
class EnsembleResult:
    """What an ensemble ended with; `about` is what stands in ensemble.json."""

    output: Path
    about: dict[str, Any]


def run_ensemble(
    config: TrainConfig,
    output: Path | str,
    n_members: int = 4,
    keep: Keep = "all",
    resume: str | None = None,
    allow_changes: bool = False,
    load: str = "auto",
) -> EnsembleResult:
    """Train `n_members` models at once; write their bundles and `ensemble.json` into the folder `output`.

    Member i starts from the parameters of the seed `config.seed + i`; all see the same frames in the same order. Members are
    divided among as many devices as divide their number, and vectorised on each. resume and its options: as of a run.
    Raises `UserError` for input that cannot be used, and `preemption.Stopped` after a signal, with everything saved.
    """
    output = Path(output)
    require(n_members >= 2, f"--members {n_members}: expected at least 2; one model is trained by cg-train run")
    require(
        all(isinstance(stage, StageConfig) or stage.train == "prior" for stage in config.stages),
        "stages: in an ensemble L-BFGS trains what the members share, the prior: set its train to prior",
    )
    require(jax.process_count() == 1, "ensemble: expected one process, which uses all devices of its node")
    inputs, restored, load = look_at(config, output, resume, allow_changes, load)
    if restored is not None:
        found = len(restored.progress.members or [])
        require(found == n_members, f"{restored.path}: holds an ensemble of {found} members, --members is {n_members}: make them equal")
    inputs = Inputs(config, output, inputs.dataset, inputs.prior, members_mesh(inputs.mesh, n_members), inputs.checksums)
    logger.info("%s; %d members, %d on each device", describe(inputs.mesh), n_members, n_members // inputs.mesh.devices.size)
    with stop_on_signals() as stop, full_disk_is_one_line(output):
        trainer, state, progress = prepare(inputs, stop, restored, load, n_members)
        try:
            state = run_stages(trainer, state, progress)
            trainer.checkpoints.wait()
            members = progress.members or []
            use_best = config.parameters == "best" and all(member.best_mse is not None for member in members)
            return _finish(trainer, inputs, final_params(state, use_best), keep)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"ensemble: {n_members} members do not fit the memory of {inputs.mesh.devices.size} device(s): give more devices, raise "
                "gradient_accumulation, or train members one by one with cg-train run seed=..."
            ) from None
        finally:
            trainer.close()


def members_mesh(mesh: Mesh, n_members: int) -> Mesh:
    """Return a mesh of the most devices that divide the members evenly."""
    n_devices = max(n for n in range(1, min(mesh.devices.size, n_members) + 1) if n_members % n == 0)
    return Mesh(np.asarray(mesh.devices)[:n_devices], mesh.axis_names)


def _finish(trainer: Trainer, inputs: Inputs, params: Any, keep: Keep) -> EnsembleResult:
    """Evaluate the members, write bundles and ensemble.json; the names of errors say on which frames.

    These are the validation frames, or the training frames where there are none.
    """
    source, split = (trainer.training, "train") if trainer.validation is None else (trainer.validation, "validation")
    spread = force_spread(trainer, params, source)
    best = int(np.argmin(spread["mse"]))
    n_members = trainer.n_members or 0
    kept = list(range(n_members)) if keep == "all" else [best]
    for index in kept:
        metrics = {f"{split}_mse": spread["mse"][index], "member": index, "seed": trainer.config.seed + index}
        write_bundle(inputs.output / "members" / str(index) / "bundle", trainer, member_of(params, index), metrics, inputs.dataset)
    about = {
        "format": "cg-ensemble",
        "version": ENSEMBLE_VERSION,
        "members": [f"members/{index}/bundle" for index in kept],
        "kept": keep,
        "seeds": [trainer.config.seed + index for index in range(n_members)],
        f"{split}_mse": spread["mse"],
        f"{split}_mse_of_mean": spread["mse_of_mean"],
        f"{split}_force_variance": spread["variance"],
        "best": best,
    }
    with atomic_file(inputs.output / "ensemble.json") as aside:
        aside.write_text(json.dumps(about, indent=1) + "\n")
    plot_losses(inputs.output / "metrics.jsonl", inputs.output / "loss.png")
    return EnsembleResult(inputs.output, about)


def force_spread(trainer: Trainer, params: Any, source: GraphSource) -> dict[str, Any]:
    """Return what the members' forces are on all frames of a source, over real beads and components, (kcal/mol/angstrom)^2.

    mse [n_members]; mse_of_mean: of the mean of their forces; variance: mean of their unbiased variance.
    """
    config, loss = trainer.config, trainer.config.loss
    samples = range(len(source.table))
    chunks = [list(samples[i : i + config.frames_per_batch]) for i in range(0, len(samples), config.frames_per_batch)]
    budgets = plan_run_budgets(source, chunks, 1, config.data.budget_margin)
    targets = Targets(source, None)
    sharding = Sharding(1, 1, range(1))
    builder = BatchBuilder(
        source, lambda sample, _: targets.example(sample, loss), sharding, budgets, config.data.budget_margin, trainer.dtype
    )
    derive = jax.vmap(lambda values, graph: energy_and_forces(trainer.model.energy)(values, graph)[1], in_axes=(0, None))
    evaluate = jax.jit(
        jax.shard_map(
            derive,
            mesh=trainer.mesh,
            in_specs=(PartitionSpec(*trainer.mesh.axis_names), PartitionSpec()),
            out_specs=PartitionSpec(*trainer.mesh.axis_names),
            check_vma=False,
        )
    )
    placed = jax.device_put(params, NamedSharding(trainer.mesh, PartitionSpec(*trainer.mesh.axis_names)))
    squares, of_mean, variance, count = np.zeros(trainer.n_members or 0), 0.0, 0.0, 0
    for chunk in chunks:
        batch = builder.build(chunk, 0)
        graph = jax.tree.map(lambda array: array[0, 0], batch.graph)
        real = graph.bead_mask
        forces = to_host(evaluate(placed, graph))[:, real].astype(np.float64)
        label = batch.forces[0, 0][real]
        squares += ((forces - label) ** 2).sum(axis=(1, 2))
        of_mean += float(((forces.mean(axis=0) - label) ** 2).sum())
        variance += float(forces.var(axis=0, ddof=1).sum())
        count += label.size
    return {"mse": (squares / count).tolist(), "mse_of_mean": of_mean / count, "variance": variance / count}
