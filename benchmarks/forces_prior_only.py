"""Frames per second of `cg-eval dataset` for the whole model and for its prior alone, which never runs the network.

    python benchmarks/forces_prior_only.py BUNDLE DATASET [--frames 400]

Both numbers come from one process; graphs are built on the host in both. Compilation stands apart.
"""

import argparse
import time

import numpy as np

from cg_data.split import SPLITS
from cg_data.store import open_dataset
from cg_eval.force_field import load_force_field
from cg_eval.forces import ForcesConfig, choose_frames
from cg_eval.predict import predict_forces


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("dataset")
    parser.add_argument("--frames", type=int, default=400, help="per split")
    parser.add_argument("--beads-per-batch", type=int, default=256, help="small, so that little is done before the clock starts")
    options = parser.parse_args()
    bundle, dataset = load_force_field(options.bundle), open_dataset(options.dataset)
    config = ForcesConfig(frames=options.frames)
    chosen = [piece for split in SPLITS for piece in choose_frames(dataset, split, config).items()]
    n_frames = sum(len(indices) for _, indices in chosen)
    first = (chosen[0][0], chosen[0][1][:1])
    seconds = {}
    for part in ("full", "prior"):
        began = time.perf_counter()
        stream = predict_forces(bundle, dataset, [first, *chosen], (part,), options.beads_per_batch)
        next(stream)
        compiled = time.perf_counter()
        for found in stream:
            assert np.isfinite(found.forces[part]).all()
        seconds[part] = time.perf_counter() - compiled
        rate = n_frames / seconds[part]
        print(
            f"{part:<6} {n_frames} frames: {rate:.0f} frames/s, after {compiled - began:.1f} s for compilation and the first batch",
            flush=True,
        )
    print(f"prior alone is {seconds['full'] / seconds['prior']:.1f} times faster")


if __name__ == "__main__":
    main()
