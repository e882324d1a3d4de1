# ruff: noqa: E402 - the type variable comes first
"""Write schnetpack.npz: a small random PaiNN of SchNetPack 2.0.4 with its energies and forces, in float64.

uv run --no-project --python 3.11 --with torch --with schnetpack==2.0.4 make_schnetpack.py schnetpack.npz
"""

import sys
import typing

import numpy as np
import torch
import torch.utils.data.dataloader

# SchNetPack imports a type variable that newer torch no longer has.
torch.utils.data.dataloader.T_co = typing.TypeVar("T_co", covariant=True)

from schnetpack import properties
from schnetpack.nn import BesselRBF, build_mlp
from schnetpack.representation import PaiNN

WIDTH, HIDDEN, RADIAL, LAYERS, SPECIES, CUTOFF, EXPONENT = 4, 6, 5, 2, 4, 9.0, 6


class PolynomialCutoff(torch.nn.Module):
    """The envelope of cg-models in the place of SchNetPack's cosine."""

    cutoff = CUTOFF

    def forward(self, r):
        p, x = EXPONENT, r / CUTOFF
        return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)


def main(output):
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    positions = np.cumsum(rng.normal(size=(9, 3)) * 2.2, 0)
    species = rng.integers(0, SPECIES, 9)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    receivers, senders = np.nonzero((distances < CUTOFF) & (distances > 0))
    silu = torch.nn.functional.silu
    net = PaiNN(WIDTH, LAYERS, BesselRBF(RADIAL, CUTOFF), PolynomialCutoff(), silu, max_z=SPECIES + 1)
    readout = build_mlp(WIDTH, 1, HIDDEN, n_layers=2, activation=silu)
    for parameter in [*net.parameters(), *readout.parameters()]:
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    x = torch.tensor(positions, requires_grad=True)
    inputs = {
        properties.Z: torch.tensor(species) + 1,
        properties.Rij: x[senders] - x[receivers],
        properties.idx_i: torch.tensor(receivers),
        properties.idx_j: torch.tensor(senders),
    }
    energies = readout(net(inputs)["scalar_representation"])[:, 0]
    (gradient,) = torch.autograd.grad(energies.sum(), x)
    arrays = {"positions": positions, "species": species, "energies": energies.detach().numpy(), "forces": -gradient.numpy()}
    state = {**net.state_dict(), **{f"readout.{name}": value for name, value in readout.state_dict().items()}}
    arrays |= {f"state/{name}": value.numpy() for name, value in state.items()}
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
