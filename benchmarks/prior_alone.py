"""How good is a prior alone? One table over four ways to fit it.

    uv run benchmarks/prior_alone.py FOLDER                      # of mdCATH files (*.h5), or a dataset that cg-data prepared
    uv run benchmarks/prior_alone.py FOLDER --only joint --steps 2000

For each way: the Jensen-Shannon divergence of every marginal between the training data and Langevin dynamics of the prior alone
(each domain started from its own frames, counts of all domains summed), and the mean square force error on trajectories that
were held out of the fit. Natural logarithm; bins of 0.02 angstrom, 2 and 4 degrees.
"""

import argparse
import dataclasses
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from cg_data.contracts import BeadFrames
from cg_data.mapping import RESIDUE_MASSES_AMU
from cg_data.store import open_dataset
from cg_priors.config import PriorConfig
from cg_priors.divergence import coarse, js_divergence
from cg_priors.fit import at_temperature, fit, split_frames
from cg_priors.fit_lbfgs import fold_weights, forces_of_slopes, slope_values
from cg_priors.force_frames import force_frames
from cg_priors.histogram import accumulate
from cg_priors.langevin import simulation
from cg_priors.parameters import BONDED

DOMAIN_SPACING_ANGSTROM = 300.0
SKIPPED = 10
"""Frames of each replica, 0.4 ps apart, that are not counted."""
WAYS = {
    "weights": ("inversion, weights 0.5/0.25/0.25/1", {}),
    "plain": ("inversion, plain sum", {name: {"weight": 1.0} for name in BONDED}),
    "joint": ("joint least squares", {"method": "joint"}),
    "lbfgs": ("L-BFGS on forces", {"method": "lbfgs"}),
}


def force_error(prior, frames, max_frames):
    """Return the mean square force error per component of the prior and of zero forces, (kcal/mol/angstrom)^2."""
    slopes = forces_of_slopes(prior, force_frames(frames, max_frames))
    with jax.enable_x64(True):
        error = slopes.push @ np.asarray(slope_values(prior, slopes, prior.arrays)) + slopes.forces
    return float((error**2).mean()), float((slopes.forces**2).mean())


def side_by_side(frames, replicas):
    """Return `replicas` frames of all domains in one, each domain far from the others, and the slice of beads of each."""
    parts, slices, first = [], [], 0
    for number, item in enumerate(frames):
        x = np.asarray(item.positions[np.linspace(0, item.n_frames - 1, replicas).round().astype(int)])
        parts.append(x - x.mean((0, 1)) + np.array([number * DOMAIN_SPACING_ANGSTROM, 0, 0], np.float32))
        slices.append(slice(first, first + item.n_beads))
        first += item.n_beads
    temperature = np.full(replicas, frames[0].temperature[0], np.float32)
    return BeadFrames(
        positions=np.concatenate(parts, 1).astype(np.float32),
        forces=None,
        species=np.concatenate([item.species for item in frames]),
        residue_index=np.concatenate([item.residue_index for item in frames]),
        chain_index=np.concatenate([item.chain_index + 100 * number for number, item in enumerate(frames)]).astype(np.int32),
        temperature=temperature,
        trajectory=np.arange(replicas, dtype=np.int32),
    ), slices


def dataset_of(folder):
    """Return the dataset: the folder itself, or one prepared from its mdCATH files with all defaults."""
    if (folder / "dataset.json").exists():
        return open_dataset(folder)
    files = sorted(folder.glob("*.h5"))
    output = Path(tempfile.mkdtemp(prefix="prior-alone-")) / "dataset"
    subprocess.run(["cg-data", "prepare", *map(str, files), "-o", str(output)], check=True)
    return open_dataset(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--temperature", type=float, default=348.0)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--max-frames", type=int, default=600, help="Frames whose forces are matched, and tested, at most.")
    parser.add_argument("--only", choices=WAYS, nargs="*", default=list(WAYS))
    options = parser.parse_args()
    dataset = dataset_of(options.folder)

    def split(name):
        return at_temperature(split_frames(dataset, name), options.temperature)

    train, held = split("train"), split("held_out_trajectories")
    reference = accumulate(train, BONDED, dataset.species_names)
    shared = {
        "temperature_kelvin": options.temperature,
        "bootstrap_samples": 0,
        "force_match": {"max_frames": options.max_frames},
    }
    print(f"{options.steps} steps of 4 fs, {options.replicas} replicas per domain, {options.temperature:g} K")
    print("| fit | JS bond | JS angle | JS dihedral | force MSE, held out | seconds of fit |\n|---|---|---|---|---|---|")
    start, slices = side_by_side(train, options.replicas)
    masses = np.array([RESIDUE_MASSES_AMU[dataset.species_names[s]] for s in start.species])
    run = None
    for chosen in options.only:
        label, way = WAYS[chosen]
        started = time.perf_counter()
        prior = fit(train, PriorConfig.parse({**shared, **way}, label), dataset.species_names)
        seconds = time.perf_counter() - started
        error, zero = force_error(prior, held, options.max_frames)
        prior = fold_weights(prior)
        if run is None:
            # The four priors differ in numbers alone: one compilation serves all.
            run = simulation(prior, start, masses, options.steps, n_replicas=options.replicas)
        saved = run(prior.arrays, 0)
        saved = saved.select(np.arange(saved.n_frames).reshape(options.replicas, -1)[:, SKIPPED:].reshape(-1))
        counts = dict.fromkeys(BONDED, 0)
        for item, beads in zip(train, slices, strict=True):
            own = {name: getattr(saved, name)[beads] for name in ("species", "residue_index", "chain_index")}
            late = dataclasses.replace(saved, positions=saved.positions[:, beads], **own)
            weight = item.n_frames / late.n_frames
            for name, found in accumulate([late], BONDED, dataset.species_names).items():
                counts[name] = counts[name] + weight * found.counts.sum((0, 1))
        divergences = []
        for name in BONDED:
            x = reference[name].centres
            data = coarse(name, reference[name].counts.sum((0, 1)), x)[0]
            divergences.append(js_divergence(data, coarse(name, counts[name], x)[0]))
        print(f"| {label} | {' | '.join(f'{value:.4f}' for value in divergences)} | {error:.2f} | {seconds:.1f} |", flush=True)
    print(f"zero model: force MSE {zero:.2f}")


if __name__ == "__main__":
    main()
