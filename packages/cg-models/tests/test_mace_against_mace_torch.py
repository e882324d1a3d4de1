"""MACE against mace-torch 0.3.16: the same weights give the same energies and forces.

references/mace_torch.npz holds a small random model of mace-torch, its inputs and its results; references/make_mace_torch.py
wrote it.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.topology import frame_graph
from cg_models.backbones.mace.layers import polynomial_basis, symmetric_tensors
from cg_models.config import ModelConfig
from cg_models.equivariant import blocks, coupling, harmonic_irreps, paths, spherical_harmonics
from cg_models.forces import energy_and_forces
from cg_models.hybrid import build_model
from cg_models.layers import SILU_GAIN
from cg_models.statistics import ModelStatistics

CHANNELS, SPECIES, CUTOFF = 4, 4, 9.0
HARMONICS = harmonic_irreps(2, True)
INPUTS = (HARMONICS[:1], HARMONICS[:2])
OUTPUTS = (HARMONICS[:2], HARMONICS[:1])


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "references" / "mace_torch.npz") as file:
        return {name: file[name] for name in file.files}


def per_irrep(flat, n_irreps, width=CHANNELS):
    return flat.reshape(n_irreps, CHANNELS, width)


def symmetric(tensor):
    orders = list(itertools.permutations(range(tensor.ndim - 1)))
    return sum(tensor.transpose(*order, tensor.ndim - 1) for order in orders) / len(orders)


def product_weights(reference, layer):
    """Weights of mace-torch's couplings as weights of our independent ones: both span the symmetric equivariant polynomials."""
    per_output = []
    for number, output in enumerate(OUTPUTS[layer]):
        prefix = f"state/products.{layer}.symmetric_contractions.contractions.{number}."
        for degree, name in ((1, "weights.1"), (2, "weights.0"), (3, "weights_max")):
            u = reference[f"{prefix}U_matrix_{degree}"]
            u = u[None] if output.dim == 1 else u
            theirs = [symmetric(np.moveaxis(u[..., k], 0, -1)).ravel() for k in range(u.shape[-1])]
            ours = [tensor.ravel() for tensor in symmetric_tensors(HARMONICS, degree)[output]]
            transfer, residual, rank, _ = np.linalg.lstsq(np.stack(ours, 1), np.stack(theirs, 1), rcond=None)
            assert rank == len(ours)
            assert np.abs(residual).max(initial=0) < 1e-20
            per_output.append(np.einsum("ok,ekc->eoc", transfer, reference[prefix + name]))
    weights = np.concatenate(per_output, 1)
    assert weights.shape[1] == sum(polynomial_basis(HARMONICS, OUTPUTS[layer], 3)[1])
    return weights


def message_weights(reference, layer):
    """Per degree of the message, the linear map of all paths into it; couplings may differ in sign."""
    mid = [tuple(path) for path in reference[f"paths_{layer}"]]
    degrees = reference[f"mid_{layer}"]
    order = reference[f"linear_{layer}"][:, 0].tolist()
    linear = dict(zip(order, reference[f"state/interactions.{layer}.linear.weight"].reshape(-1, CHANNELS, CHANNELS), strict=True))
    found, radial_order = {0: [], 1: [], 2: []}, []
    for i, j, k in paths(INPUTS[layer], HARMONICS, HARMONICS):
        theirs = next(n for n, (a, b, o) in enumerate(mid) if (a, b) == (i, j) and degrees[o] == k)
        overlap = (coupling(INPUTS[layer][i], HARMONICS[j], HARMONICS[k]) * reference[f"wigner_{i}{j}{k}"]).sum()
        assert abs(overlap) == pytest.approx(np.sqrt(2 * k + 1))
        found[k].append(linear[int(mid[theirs][2])] * np.sign(overlap))
        radial_order.append(theirs)
    return {k: np.concatenate(parts) for k, parts in found.items()}, radial_order


def translated(reference):
    """Return mace-torch's weights under our names."""
    state = {name.removeprefix("state/"): value for name, value in reference.items() if name.startswith("state/")}
    gain = float(reference["silu_gain"]) / SILU_GAIN
    weights = {"embed": state["node_embedding.linear.weight"].reshape(SPECIES, CHANNELS) / np.sqrt(SPECIES)}
    for layer in range(2):
        block = f"interactions.{layer}."
        weights[f"up_{layer}"] = per_irrep(state[block + "linear_up.weight"], len(INPUTS[layer]))
        by_degree, radial_order = message_weights(reference, layer)
        weights |= {f"message_{layer}_{k}": value for k, value in by_degree.items()}
        weights[f"radial_{layer}_0"] = state[block + "conv_tp_weights.layer0.weight"] / (CUTOFF**1.5 / 4)
        weights[f"radial_{layer}_1"] = state[block + "conv_tp_weights.layer1.weight"] * gain
        last = state[block + "conv_tp_weights.layer2.weight"] * gain
        weights[f"radial_{layer}_2"] = last.reshape(7, -1, CHANNELS)[:, radial_order].reshape(7, -1)
        kept = min(len(INPUTS[layer]), len(OUTPUTS[layer]))
        skip = state[block + "skip_tp.weight"].reshape(kept, CHANNELS, SPECIES, CHANNELS)
        weights[f"skip_{layer}"] = skip.transpose(2, 0, 1, 3) / np.sqrt(SPECIES)
        weights[f"product_{layer}"] = product_weights(reference, layer)
        weights[f"product_mix_{layer}"] = per_irrep(state[f"products.{layer}.linear.weight"], len(OUTPUTS[layer]))
    weights["readout_0"] = state["readouts.0.linear.weight"][:, None]
    weights["readout_hidden"] = state["readouts.1.linear_1.weight"].reshape(CHANNELS, 6)
    weights["readout"] = state["readouts.1.linear_2.weight"][:, None] * gain
    return weights | {"energy_scale": np.ones(()), "species_offset": np.zeros(SPECIES)}


def test_spherical_harmonics_are_those_of_e3nn_torch(reference):
    vectors = reference["vectors"]
    ours = spherical_harmonics(jnp.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)), 2)
    np.testing.assert_allclose(ours, reference["harmonics"], atol=1e-12)
    assert [block.stop for block in blocks(HARMONICS)] == [1, 4, 9]


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_energies_and_forces_are_those_of_mace_torch(reference, precision, tolerance):
    options = {"kind": "mace", "layers": 2, "num_features": CHANNELS, "embed": CHANNELS, "num_radial": 5, "readout": 6}
    options |= {"mlp_n_hidden": 7, "mlp_n_layers": 2}
    config = ModelConfig.parse({"mode": "backbone", "cutoff_angstrom": CUTOFF, "precision": precision, "backbone": options}, "test")
    model = build_model(config, ("A", "B", "C", "D"), None, ModelStatistics(avg_num_neighbors=6.0))
    weights = translated(reference)
    expected = jax.eval_shape(model.init, jax.random.key(0))["backbone"]
    (module,) = expected
    assert {name: leaf.shape for name, leaf in expected[module].items()} == {name: value.shape for name, value in weights.items()}
    params = {"backbone": {module: {name: jnp.asarray(value, precision) for name, value in weights.items()}}}
    index = np.arange(9, dtype=np.int32)
    positions = reference["positions"].astype(precision)
    graph = frame_graph(positions, reference["species"].astype(np.int32), index, np.zeros(9, np.int32), CUTOFF)
    energies, forces = jax.jit(energy_and_forces(model.energy))(params, graph)
    for ours, theirs in ((energies, reference["energies"]), (forces, reference["forces"])):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
