"""How good is a prior alone? One table over four ways to fit it.

    python benchmarks/prior_alone.py DATASET [--temperature 348] [--steps 20000]

For each way: the Jensen-Shannon divergence of every marginal between the training data and Langevin dynamics of the prior alone
(each domain started from its own frames, counts of all domains summed), and the mean square force error on trajectories that
were held out of the fit. Natural logarithm; bins of 0.02 angstrom, 2 and 4 degrees.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np

from cg_data.mapping import RESIDUE_MASSES_AMU
from cg_data.store import open_dataset
from cg_priors.config import PriorConfig
from cg_priors.divergence import coarse, js_divergence
from cg_priors.energy import prior_energy
from cg_priors.fit import as_slice, at_temperature, fit
from cg_priors.force_frames import force_frames
from cg_priors.histogram import accumulate
from cg_priors.langevin import simulate_prior
from cg_priors.parameters import BONDED

WAYS = {
    "inversion, weights 0.5/0.25/0.25/1": {},
    "inversion, plain sum": {name: {"weight": 1.0} for name in BONDED},
    "joint least squares": {"method": "joint"},
    "L-BFGS on forces": {"method": "lbfgs"},
}


def force_error(prior, frames, max_frames):
    """Return the mean square force error per component of the prior and of zero forces, (kcal/mol/angstrom)^2."""
    energy = prior_energy(prior)
    total, zero, number = 0.0, 0.0, 0
    for item in force_frames(frames, max_frames):
        forces = jax.jit(jax.vmap(jax.grad(lambda x, g=item.graph: -energy(prior.arrays, dataclasses.replace(g, positions=x)).sum())))
        total += float(((np.asarray(forces(item.positions)) - item.forces) ** 2).sum())
        zero += float((item.forces**2).sum())
        number += item.forces.size
    return total / number, zero / number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--temperature", type=float, default=348.0)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--max-frames", type=int, default=600)
    parser.add_argument("--iterations", type=int, default=60)
    options = parser.parse_args()
    dataset = open_dataset(options.dataset)

    def split(name):
        return at_temperature([dataset.frames(d).select(as_slice(i)) for d, i in dataset.split(name).items()], options.temperature)

    train, held = split("train"), split("held_out_trajectories")
    reference = accumulate(train, BONDED, dataset.species_names)
    shared = {
        "temperature_kelvin": options.temperature,
        "bootstrap_samples": 0,
        "force_match": {"max_frames": options.max_frames, "iterations": options.iterations},
    }
    print(f"{options.steps} steps of 4 fs, {options.replicas} replicas per domain, {options.temperature:g} K")
    print("| fit | JS bond | JS angle | JS dihedral | force MSE, held out | seconds of fit |\n|---|---|---|---|---|---|")
    for label, way in WAYS.items():
        started = time.perf_counter()
        prior = fit(train, PriorConfig.parse({**shared, **way}, label), dataset.species_names)
        seconds = time.perf_counter() - started
        error, zero = force_error(prior, held, options.max_frames)
        counts = dict.fromkeys(BONDED, 0)
        for item in train:
            masses = np.array([RESIDUE_MASSES_AMU[dataset.species_names[s]] for s in item.species])
            run = simulate_prior(prior, item, masses, options.steps, n_replicas=options.replicas)
            late = run.select(np.arange(run.n_frames).reshape(options.replicas, -1)[:, 10:].reshape(-1))
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
