"""The peers' side of model_speed.py: run by the interpreter of an environment that holds one of them.

python benchmarks/model_speed_peers.py mace|allegro     (questions on the standard input, as model_speed.py asks them)
"""

import os
import sys

# e3nn 0.4.4 reads its own constants with torch.load, which newer torch refuses by default.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import numpy as np
import torch
from model_speed import ALLEGRO, CUTOFF, MACE, N_SPECIES, NEIGHBOURS, Timed, serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tensors(path):
    """Return the arrays of a case as tensors."""
    with np.load(path) as file:
        return {name: torch.tensor(file[name], device=DEVICE) for name in file.files}


def mace_network(options, n_species, cutoff, neighbours, scale=1.0, envelope=6):
    """Return a fresh ScaleShiftMACE with the options that ours has."""
    from e3nn import o3
    from mace.modules import RealAgnosticResidualInteractionBlock, ScaleShiftMACE

    width = options["num_features"]
    return ScaleShiftMACE(
        atomic_inter_scale=scale,
        atomic_inter_shift=0.0,
        r_max=cutoff,
        num_bessel=options["num_radial"],
        num_polynomial_cutoff=envelope,
        max_ell=options["max_ell"],
        interaction_cls=RealAgnosticResidualInteractionBlock,
        interaction_cls_first=RealAgnosticResidualInteractionBlock,
        num_interactions=options["layers"],
        num_elements=n_species,
        hidden_irreps=o3.Irreps(f"{width}x0e + {width}x1o"),
        MLP_irreps=o3.Irreps(f"{options['readout']}x0e"),
        atomic_energies=np.zeros(n_species),
        avg_num_neighbors=neighbours,
        atomic_numbers=list(range(1, n_species + 1)),
        correlation=options["correlation"],
        gate=torch.nn.functional.silu,
        radial_MLP=[options["mlp_n_hidden"]] * options["mlp_n_layers"],
    )


def mace_model():
    """Return a network of the benchmark's size."""
    torch.manual_seed(0)
    return mace_network(MACE, N_SPECIES, CUTOFF, float(NEIGHBOURS))


def mace_side(way, data, what):
    """Return (model, `() -> (energies of frames, forces)`)."""
    from mace.tools import compile as mace_compile

    model = (mace_compile.prepare(mace_model)() if way == "compiled" else mace_model()).to(DEVICE)
    n_frames = len(data["energies"])
    inputs = {
        "positions": data["positions"],
        "node_attrs": torch.nn.functional.one_hot(data["species"].long(), N_SPECIES).float(),
        "edge_index": torch.stack([data["senders"], data["receivers"]]).long(),
        "shifts": torch.zeros(len(data["senders"]), 3, device=DEVICE),
        "unit_shifts": torch.zeros(len(data["senders"]), 3, device=DEVICE),
        "cell": torch.zeros(3 * n_frames, 3, device=DEVICE),
        "batch": data["frame"].long(),
        "ptr": torch.cat([torch.zeros(1, dtype=torch.long, device=DEVICE), torch.cumsum(torch.bincount(data["frame"]), 0)]),
    }
    run = torch.compile(model) if way == "compiled" else model
    if what == "md":
        model.requires_grad_(False)

    def evaluate():
        # As its calculator does: a compiled model keeps the graph of the forces.
        out = run(
            {**inputs, "positions": inputs["positions"].detach().requires_grad_(True)}, training=what == "training" or way == "compiled"
        )
        return out["energy"], out["forces"]

    return model, evaluate


def allegro_side(way, data, what):
    """Return (model, `() -> (energies of frames, forces)`)."""
    from allegro.model import AllegroModel
    from nequip.utils.global_state import set_global_state

    torch._functorch.config.donated_buffer = False  # as nequip's own training does
    set_global_state()
    width, depth = ALLEGRO["mlp_n_hidden"], ALLEGRO["mlp_n_layers"]
    embed = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": ALLEGRO["num_radial"], "polynomial_cutoff_p": 6}
    model = AllegroModel(
        seed=0,
        model_dtype="float32",
        compile_mode="compile" if way == "compiled" else "eager",
        type_names=[f"S{n}" for n in range(N_SPECIES)],
        r_max=CUTOFF,
        l_max=ALLEGRO["l_max"],
        parity=True,
        radial_chemical_embed=embed,
        scalar_embed_mlp_hidden_layers_depth=depth - 1,
        scalar_embed_mlp_hidden_layers_width=width,
        num_layers=ALLEGRO["layers"],
        num_scalar_features=width,
        num_tensor_features=ALLEGRO["num_features"],
        allegro_mlp_hidden_layers_depth=depth,
        allegro_mlp_hidden_layers_width=width,
        readout_mlp_hidden_layers_depth=1,
        readout_mlp_hidden_layers_width=width,
        avg_num_neighbors=float(NEIGHBOURS),
    ).to(DEVICE)
    model.train(what == "training")
    inputs = {
        "atom_types": data["species"].long(),
        "edge_index": torch.stack([data["receivers"], data["senders"]]).long(),
        "batch": data["frame"].long(),
        "num_atoms": torch.bincount(data["frame"]).long(),
    }

    if what == "md":
        model.requires_grad_(False)

    def evaluate():
        out = model({**inputs, "pos": data["positions"].to(torch.get_default_dtype())})
        return out["total_energy"][:, 0], out["forces"]

    return model, evaluate


def prepare(way, case, what):
    """Return what is timed."""
    data = tensors(case)
    model, evaluate = {"mace": mace_side, "allegro": allegro_side}[sys.argv[1]](way, data, what)
    if what == "md":
        return timed(evaluate)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def step():
        optimizer.zero_grad(set_to_none=True)
        energies, forces = evaluate()
        loss = ((forces - data["forces"]) ** 2).mean() + ((energies - data["energies"]) ** 2).mean()
        loss.backward()
        optimizer.step()

    return timed(step)


def timed(step):
    """Return a step that waits for the device."""

    def run():
        step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return Timed(run, torch.cuda.max_memory_allocated if DEVICE == "cuda" else lambda: None)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    serve(prepare)
