"""How much faster are batches packed than learned from? The loader must never make the step wait.

    python benchmarks/loader_and_step.py DATASET PRIOR [key=value ...]

Prints frames/s of the loader alone (edges cached, as from the second epoch on, and built anew), frames/s of the step alone on
one batch, and their ratio, for the configuration given; aim: at least 5 with cached edges.
"""

import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cg_data.store import open_dataset
from cg_models.hybrid import build_model
from cg_priors.parameters import load_prior
from cg_train.config import StageConfig, TrainConfig
from cg_train.distributed import make_mesh, put_batch, put_replicated, sharding_of
from cg_train.frames import GraphSource, select_frames
from cg_train.loader import BatchBuilder, plan_run_budgets, training_batches
from cg_train.optimizer import make_optimizer, make_schedule
from cg_train.order import SampleOrder
from cg_train.state import initial_state, trained
from cg_train.step import make_step
from cg_train.targets import Targets, model_statistics

N_LOADED, N_STEPS = 40, 5


def rate(act: Callable[[], object], n_frames: int, repeats: int) -> float:
    """Return frames per second of an action on `n_frames` frames, without its first time."""
    act()
    start = time.perf_counter()
    for _ in range(repeats):
        act()
    return repeats * n_frames / (time.perf_counter() - start)


def main(dataset_path: str, prior_path: str, overrides: Sequence[str]) -> None:
    """Measure and print."""
    config = TrainConfig.load(None, [f"dataset={dataset_path}", f"prior={prior_path}", *overrides])
    dataset, prior = open_dataset(dataset_path), load_prior(prior_path)
    cutoff = max(config.model.cutoff_angstrom, prior.cutoff_angstrom)
    table = select_frames(dataset, "train", config.data).thinned(1024)
    mesh, size = make_mesh(None, 1), config.frames_per_batch
    sharding = sharding_of(mesh, 1)
    order = SampleOrder(0, len(table))
    batches = [order.batch(i, size).tolist() for i in range(N_LOADED)]
    rates = {}
    for name, gigabytes in (("edges built anew", 0.0), ("edges cached", 2.0)):
        source = GraphSource(dataset, table, cutoff, gigabytes)
        margin = config.data.budget_margin
        budgets = plan_run_budgets(source, batches, 1, margin, config.data.most_shapes)
        targets = Targets(source, None)
        builder = BatchBuilder(
            source, lambda sample, _, targets=targets: targets.example(sample, config.loss), sharding, budgets, margin, np.dtype(np.float32)
        )
        for samples in batches:
            builder.build(samples, 0)
        with training_batches(builder, order, size, 0, config.data.prefetch_threads, config.data.prefetch_batches) as stream:
            rates[name] = rate(lambda stream=stream: next(stream), size, N_LOADED)
        print(f"loader, {name:18} {rates[name]:10.0f} frames/s", flush=True)
    model = build_model(config.model, dataset.species_names, prior, model_statistics(source, config.model.cutoff_angstrom))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), model.init(jax.random.key(0)))
    stage = StageConfig()
    optimizer = make_optimizer(stage, make_schedule(stage, 100))
    state = initial_state(params, config)
    state = put_replicated(state.replace(optimizer=optimizer.init(trained(state.params, "backbone"))), mesh)
    step = make_step(model.energy_of("backbone"), stage, optimizer, config, mesh)
    batch = put_batch(builder.build(batches[0], 0), mesh)

    def learn() -> None:
        nonlocal state
        state, _ = step(state, batch)
        jax.block_until_ready(state.step)

    learned = rate(learn, size, N_STEPS)
    print(f"step alone                 {learned:10.0f} frames/s")
    for name, value in rates.items():
        print(f"ratio, {name:19} {value / learned:10.1f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
