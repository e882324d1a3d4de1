"""Allegro against a slow second implementation of its paper's equations, in NumPy, edge by edge, sharing no code.

It shares the parameters, by name, and e3nn's coupling coefficients; everything else is written again.
"""

import dataclasses

import e3nn_jax as e3nn
import jax
import numpy as np
import pytest

from cg_data.topology import frame_graph
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.hybrid import build_model
from cg_models.statistics import ModelStatistics
from cg_models.testing import random_chain

CUTOFF, NEIGHBOURS, SPECIES = 9.0, 6.0, 3
GAIN = 1.6791767
STEP = 3e-4


def built(**backbone):
    config = ModelConfig.parse({"mode": "backbone", "cutoff_angstrom": CUTOFF, "precision": "float64", "backbone": backbone}, "test")
    model = build_model(config, ("A", "B", "C"), None, ModelStatistics(avg_num_neighbors=NEIGHBOURS))
    params = model.init(jax.random.key(3))
    (weights,) = params["backbone"].values()
    return model, params, {name: np.asarray(value) for name, value in weights.items()}


def chain():
    index = np.arange(8, dtype=np.int32)
    return frame_graph(random_chain(8, 4), index % SPECIES, index, np.zeros(8, np.int32), CUTOFF)


def check(model, params, graph, energies):
    """Compare energies, and forces along two random directions with fourth-order differences of the NumPy energies."""
    found, forces = jax.jit(energy_and_forces(model.energy))(params, graph)
    expected = energies(graph)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    for direction in np.random.default_rng(1).normal(size=(2, *graph.positions.shape)):

        def along(step, direction=direction):
            return energies(dataclasses.replace(graph, positions=graph.positions + step * direction)).sum()

        slope = (8 * (along(STEP) - along(-STEP)) - (along(2 * STEP) - along(-2 * STEP))) / (12 * STEP)
        np.testing.assert_allclose((forces * direction).sum(), -slope, rtol=0, atol=1e-8 * np.abs(forces * direction).sum())


def silu(x):
    return x / (1 + np.exp(-x)) * GAIN


def dense(weights, name, x):
    return x @ weights[name] / np.sqrt(len(x))


def mlp(weights, name, x, hidden_layers):
    for layer in range(hidden_layers):
        x = silu(dense(weights, f"{name}_{layer}", x))
    return dense(weights, f"{name}_{hidden_layers}", x)


def envelope(r, p=6):
    x = r / CUTOFF
    return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)


def bessel(r, n):
    return np.array([np.sqrt(2 / CUTOFF) * np.sin(k * np.pi * r / CUTOFF) / r for k in range(1, n + 1)])


def harmonics(direction):
    """Real spherical harmonics to degree 2 in e3nn's order (y is the polar axis), components of mean square 1."""
    x, y, z = direction
    first = np.sqrt(3) * np.array([x, y, z])
    second = np.sqrt(15) * np.array([x * z, x * y, (y * y - (x * x + z * z) / 2) / np.sqrt(3), y * z, (z * z - x * x) / 2])
    return [np.ones(1), first, second]


def coupled(a, b, degree):
    c = np.asarray(e3nn.clebsch_gordan((len(a) - 1) // 2, (len(b) - 1) // 2, degree), np.float64)
    return np.einsum("ijk,i,j->k", c, a, b) * np.sqrt((2 * degree + 1) / (c**2).sum())


def allegro_energies(weights, graph, layers, channels, parity):
    """Each feature is labelled (degree, parity); (-1)^degree is the parity of a harmonic, or 1 where parity is off."""

    def natural(degree):
        return (-1) ** degree if parity else 1

    carried = {
        (2, True): [[(0, 1), (1, -1), (2, 1)], [(0, 1), (1, -1), (2, 1)], [(0, 1)]],
        (2, False): [[(0, 1), (1, 1), (2, 1)], [(0, 1), (1, 1), (2, 1)], [(0, 1)]],
    }[(layers, parity)]
    edges = list(zip(graph.receivers, graph.senders, strict=True))
    geometry, latent, features = {}, {}, {}
    for i, j in edges:
        vector = graph.positions[i] - graph.positions[j]
        r = np.linalg.norm(vector)
        geometry[i, j] = (envelope(r), harmonics(vector / r))
        radial = bessel(r, 5) * CUTOFF**1.5 / 4
        x = weights["species_receiver"][graph.species[i]] + weights["species_sender"][graph.species[j]] + dense(weights, "radial", radial)
        latent[i, j] = envelope(r) * mlp(weights, "two_body", silu(x / np.sqrt(3)), 1)
        w = dense(weights, "embed", latent[i, j]).reshape(3, channels)
        features[i, j] = {(n, natural(n)): np.array([w[n, c] * geometry[i, j][1][n] for c in range(channels)]) for n in range(3)}
    for layer in range(layers):
        surroundings = {}
        for i, j in edges:
            w = dense(weights, f"environment_{layer}", latent[i, j]).reshape(3, channels)
            for n in range(3):
                part = np.array([w[n, c] * geometry[i, j][1][n] for c in range(channels)]) / np.sqrt(NEIGHBOURS)
                surroundings[i, n] = surroundings.get((i, n), 0) + part
        found = [
            (a, n, out)
            for a in carried[layer]
            for n in range(3)
            for out in carried[layer + 1]
            if abs(a[0] - n) <= out[0] <= a[0] + n and out[1] == a[1] * natural(n)
        ]
        new = {}
        for i, j in edges:
            sums = {out: np.zeros((channels, 2 * out[0] + 1)) for out in carried[layer + 1]}
            for path, (a, n, out) in enumerate(found):
                into = sum(other == out for _, _, other in found)
                for c in range(channels):
                    product = coupled(features[i, j][a][c], surroundings[i, n][c], out[0])
                    sums[out][c] += weights[f"paths_{layer}"][path, c] * product / np.sqrt(into)
            mixing = weights[f"mix_{layer}"] / np.sqrt(channels)
            new[i, j] = {out: mixing[number].T @ sums[out] for number, out in enumerate(carried[layer + 1])}
        features = new
        for i, j in edges:
            inputs = np.concatenate([latent[i, j], features[i, j][0, 1][:, 0]])
            update = geometry[i, j][0] * mlp(weights, f"latent_{layer}", inputs, 2)
            latent[i, j] = (latent[i, j] + 0.5 * update) / np.sqrt(1.25)
    energies = np.zeros(len(graph.species))
    for i, j in edges:
        energies[i] += dense(weights, "readout", silu(dense(weights, "readout_hidden", latent[i, j])))[0] / np.sqrt(NEIGHBOURS)
    return energies


@pytest.mark.parametrize("parity", [True, False])
def test_allegro_is_the_paper_edge_by_edge(parity):
    model, params, weights = built(kind="allegro", layers=2, num_radial=5, num_features=3, mlp_n_hidden=6, parity=parity)
    check(model, params, chain(), lambda graph: allegro_energies(weights, graph, 2, 3, parity))
