"""Write mace_torch.npz: a small random MACE of mace-torch with its energies and forces, in float64.

uv run --no-project --python 3.11 --with torch --with mace-torch==0.3.16 make_mace_torch.py mace_torch.npz
"""

import os
import sys

# e3nn 0.4.4 reads its own constants with torch.load, which newer torch refuses by default.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import numpy as np
import torch
from e3nn import o3
from mace.modules import RealAgnosticResidualInteractionBlock, ScaleShiftMACE

CHANNELS, SPECIES, CUTOFF, NEIGHBOURS = 4, 4, 9.0, 6.0


def model():
    torch.manual_seed(0)
    return ScaleShiftMACE(
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
        r_max=CUTOFF,
        num_bessel=5,
        num_polynomial_cutoff=6,
        max_ell=2,
        interaction_cls=RealAgnosticResidualInteractionBlock,
        interaction_cls_first=RealAgnosticResidualInteractionBlock,
        num_interactions=2,
        num_elements=SPECIES,
        hidden_irreps=o3.Irreps(f"{CHANNELS}x0e + {CHANNELS}x1o"),
        MLP_irreps=o3.Irreps("6x0e"),
        atomic_energies=np.zeros(SPECIES),
        avg_num_neighbors=NEIGHBOURS,
        atomic_numbers=list(range(1, SPECIES + 1)),
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[7, 7],
    )


def main(output):
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    positions = np.cumsum(rng.normal(size=(9, 3)) * 2.2, 0)
    species = rng.integers(0, SPECIES, 9)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    senders, receivers = np.nonzero((distances < CUTOFF) & (distances > 0))
    net = model()
    out = net(
        {
            "positions": torch.tensor(positions, requires_grad=True),
            "node_attrs": torch.nn.functional.one_hot(torch.tensor(species), SPECIES).double(),
            "edge_index": torch.tensor(np.stack([senders, receivers])),
            "shifts": torch.zeros(len(senders), 3),
            "unit_shifts": torch.zeros(len(senders), 3),
            "cell": torch.zeros(3, 3),
            "batch": torch.zeros(9, dtype=torch.long),
            "ptr": torch.tensor([0, 9]),
        }
    )
    arrays = {
        "positions": positions,
        "species": species,
        "energies": out["node_energy"].detach().numpy(),
        "forces": out["forces"].detach().numpy(),
        "vectors": rng.normal(size=(5, 3)),
        "silu_gain": float(net.interactions[0].conv_tp_weights.layer0.act.cst),
    }
    arrays["harmonics"] = net.spherical_harmonics(torch.tensor(arrays["vectors"])).numpy()
    for name, value in net.state_dict().items():
        if value.is_floating_point() and value.numel():
            arrays["state/" + name] = value.numpy()
    for layer, block in enumerate(net.interactions):
        arrays[f"paths_{layer}"] = np.array([(i.i_in1, i.i_in2, i.i_out) for i in block.conv_tp.instructions])
        arrays[f"mid_{layer}"] = np.array([ir.l for _, ir in block.conv_tp.irreps_out])
        arrays[f"linear_{layer}"] = np.array([(i.i_in, i.i_out) for i in block.linear.instructions])
    for l1, l2, l3 in {(i, j, k) for i in range(2) for j in range(3) for k in range(3) if abs(i - j) <= k <= i + j}:
        arrays[f"wigner_{l1}{l2}{l3}"] = o3.wigner_3j(l1, l2, l3).numpy()
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
