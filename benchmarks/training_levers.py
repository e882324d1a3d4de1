"""What do the average of the parameters and noise on the positions bring, on frames of trajectories never trained on?

    python benchmarks/training_levers.py DATASET PRIOR FOLDER DOMAIN KELVIN [SEEDS]

Trains a small network on the training frames of one domain at one temperature, with and without each lever, from SEEDS (3) seeds, and
prints mean square force errors on the held-out trajectories, (kcal/mol/angstrom)^2: mean over seeds, and their standard deviation.
Runs that are there already are not made again.
"""

import sys
from pathlib import Path

import numpy as np

from cg_data.store import Dataset, open_dataset
from cg_models.bundle import load_bundle
from cg_models.graph import pack, plan_budget
from cg_train.config import DataConfig, TrainConfig
from cg_train.frames import GraphSource, select_frames
from cg_train.run import run

NETWORK = "{kind: allegro, layers: 1, num_radial: 8, l_max: 1, num_features: 4, mlp_n_hidden: 32, mlp_n_layers: 1}"
STAGE = "stages=[{steps: %d, learning_rate: 0.005, schedule: {kind: %s}}]"
N_STEPS = 400
AVERAGES = {"none": "null", "0.9": "0.9", "0.99": "0.99", "0.999": "0.999"}
NOISES = {
    "none": (0.0, 0.0),
    "0.005": (0.005, 0.0),
    "0.01": (0.01, 0.0),
    "0.02": (0.02, 0.0),
    "0.05": (0.05, 0.0),
    "0.02, half score": (0.02, 0.5),
}


def held_out_errors(bundle_path: Path, dataset: Dataset, data: DataConfig) -> tuple[float, float]:
    """Return the mean square force errors of a bundle and of its prior alone on the held-out trajectories."""
    bundle = load_bundle(bundle_path)
    source = GraphSource(dataset, select_frames(dataset, "held_out_trajectories", data), bundle.cutoff_angstrom, 1.0)
    graphs = [source.graph(index) for index in range(len(source.table))]
    graph = pack(graphs, plan_budget(graphs, len(graphs)))
    labels = np.concatenate([source.forces(index) for index in range(len(graphs))])
    full, prior = (np.asarray(bundle.energy_and_forces(graph, part)[1])[graph.bead_mask] for part in ("full", "prior"))
    return float(((full - labels) ** 2).mean()), float(((prior - labels) ** 2).mean())


def main(dataset_path: str, prior_path: str, folder: Path, domain: str, kelvin: str, n_seeds: int) -> None:
    """Train, evaluate, print."""
    dataset = open_dataset(dataset_path)
    fixed = (
        f"dataset={dataset_path}",
        f"prior={prior_path}",
        f"model.backbone={NETWORK}",
        f"data.domains=[{domain}]",
        f"data.temperatures_kelvin=[{kelvin}]",
        "frames_per_batch=8",
        "validation.every_steps=400",
        "log_every_steps=100",
        "checkpoints.every_steps=1000",
        "parameters=last",
    )

    def errors(name: str, *options: str) -> tuple[str, float]:
        found = []
        for seed in range(n_seeds):
            output = folder / f"{name}-{seed}"
            config = TrainConfig.load(None, [*fixed, *options, f"seed={seed}"])
            if not (output / "bundle").exists():
                run(config, output, resume="auto")
            mse, prior = held_out_errors(output / "bundle", dataset, config.data)
            found.append(mse)
        return f"{np.mean(found):8.2f} +- {np.std(found, ddof=1):.2f}", prior

    config = TrainConfig.load(None, fixed)
    n_train, n_test = (len(select_frames(dataset, split, config.data)) for split in ("train", "held_out_trajectories"))
    print(f"{domain} at {kelvin} K: {n_train} training frames, {n_test} held out; {N_STEPS} steps of 8 frames, {n_seeds} seeds", flush=True)
    for schedule in ("constant", "warmup_cosine"):
        for name, decay in AVERAGES.items():
            text, prior = errors(f"average-{schedule}-{name}", STAGE % (N_STEPS, schedule), f"ema_decay={decay}")
            print(f"{schedule:14} average {name:16} {text}", flush=True)
    for name, (sigma, fraction) in NOISES.items():
        # Without noise it is the run with the default average.
        run_name = f"noise-{sigma}-{fraction}" if sigma > 0 else "average-warmup_cosine-0.99"
        options = (f"augmentation.noise_angstrom={sigma}", f"augmentation.score_fraction={fraction}")
        text, prior = errors(run_name, STAGE % (N_STEPS, "warmup_cosine"), *options)
        print(f"noise {name:24} {text}", flush=True)
    print(f"prior alone {prior:.2f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5], int(sys.argv[6]) if len(sys.argv) > 6 else 3)
