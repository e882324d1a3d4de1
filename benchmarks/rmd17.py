"""How accurate are the networks on the revised MD17 (doi:10.1088/2632-2153/abba6f), split 1?

    python benchmarks/rmd17.py DATA OUT --molecule ethanol --backbone mace --frames 200 --steps 4000
    python benchmarks/rmd17.py DATA OUT ... --backbone mace-torch     # the peer, in an environment with torch and mace-torch 0.3.16

DATA holds rmd17_<molecule>_<train|test>_01.npz (coords, forces, energies, nuclear_charges; angstrom, kcal/mol). Prints the mean
absolute errors of forces (meV/angstrom) and energies (meV) on the 1,000 test frames. Frames, their order, batches, cutoff, steps,
loss, optimizer and learning rates are the same for the peer, and so are the options of mace. A run saves its state in OUT after
`--minutes` and goes on from it when it is started again with the same options.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

MEV_PER_KCAL_PER_MOL = 43.36410
ELEMENTS = {1: "H", 6: "C", 8: "O"}
CUTOFF, ENVELOPE, BATCH, LEARNING_RATE, ENERGY_WEIGHT = 5.0, 5, 5, 0.01, 100.0
FRESH_FORCES = 0.1
"""Size of a fresh network's forces, as a share of those it learns: what cg-train begins with."""
MACE = {"layers": 2, "num_features": 16, "max_ell": 2, "num_radial": 8, "correlation": 3, "readout": 16, "embed": 16}
MACE |= {"mlp_n_hidden": 64, "mlp_n_layers": 3}
ALLEGRO = {"layers": 2, "num_features": 16, "l_max": 2, "num_radial": 8, "mlp_n_hidden": 64}
WIDE = {
    "mace": {**MACE, "num_features": 64, "embed": 64},
    "allegro": {**ALLEGRO, "layers": 3, "num_features": 32, "mlp_n_hidden": 128},
}
"""For a GPU."""
PUBLISHED = {
    "ethanol": "published (arXiv 2206.07697), 1,000 frames: MACE 2.1 meV/A and 0.4 meV, Allegro 2.1 and 0.4",
    "aspirin": "published (arXiv 2206.07697), 1,000 frames: MACE 6.6 meV/A and 2.2 meV, Allegro 7.3 and 2.3",
}


@dataclasses.dataclass(frozen=True)
class Frames:
    """positions, forces [n, atoms, 3] angstrom, kcal/mol/angstrom; energies [n] kcal/mol less the training mean; charges [atoms]."""

    positions: np.ndarray
    forces: np.ndarray
    energies: np.ndarray
    charges: np.ndarray


def load(folder: Path, molecule: str, split: str, mean: float = 0.0) -> Frames:
    """Return the frames of a split, their energies less `mean`."""
    with np.load(folder / f"rmd17_{molecule}_{split}_01.npz") as file:
        return Frames(file["coords"], file["forces"], file["energies"] - mean, file["nuclear_charges"].astype(int))


def batch_of(step: int, n_frames: int, seed: int) -> np.ndarray:
    """Return the frames of a step: consecutive places in one permutation per epoch."""
    per_epoch = n_frames // BATCH
    order = np.random.default_rng([seed, step // per_epoch]).permutation(n_frames)
    return order[(step % per_epoch) * BATCH :][:BATCH]


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: a cosine from LEARNING_RATE to zero."""
    return LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / steps))


def mean_errors(energies: np.ndarray, forces: np.ndarray, test: Frames) -> dict[str, float]:
    """Return mean absolute errors in meV/angstrom and meV."""
    return {
        "force_mae_mev_per_angstrom": float(np.abs(forces - test.forces).mean() * MEV_PER_KCAL_PER_MOL),
        "energy_mae_mev": float(np.abs(energies - test.energies).mean() * MEV_PER_KCAL_PER_MOL),
    }


# --- ours


def train_ours(options: argparse.Namespace, train: Frames, test: Frames) -> dict[str, float]:
    """Train a backbone and return its errors, also where time ran out before the last step."""
    import jax
    import jax.numpy as jnp
    import optax

    from cg_data.atomic import atomic_file
    from cg_models.config import ModelConfig
    from cg_models.forces import energy_and_forces
    from cg_models.graph import frame_sum, pack, plan_budget
    from cg_models.hybrid import build_model, match_force_scale
    from cg_models.statistics import measure_statistics, root_mean_square

    kinds = sorted(set(train.charges))
    species_names = tuple(ELEMENTS[kind] for kind in kinds)
    atoms = len(train.charges)
    graphs, test_graphs = (graphs_of(frames, kinds) for frames in (train, test))
    budget = plan_budget(graphs + test_graphs, BATCH, rows=True)
    sizes = (WIDE if options.wide else {"mace": MACE, "allegro": ALLEGRO})[options.backbone]
    config = {"mode": "backbone", "cutoff_angstrom": CUTOFF, "envelope_exponent": ENVELOPE, "backbone": {"kind": options.backbone, **sizes}}
    forces, energies = train.forces.astype(np.float32), train.energies.astype(np.float32)
    statistics = measure_statistics(graphs, [forces], CUTOFF, len(species_names), train.energies)
    model = build_model(ModelConfig.parse(config, "benchmark"), species_names, None, statistics)
    fresh_rms = FRESH_FORCES * root_mean_square([forces])
    params = match_force_scale(model, model.init(jax.random.key(options.seed)), pack(graphs[:BATCH], budget), fresh_rms)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, options.steps))
    derive = energy_and_forces(model.energy)

    def predict(params, graph):
        energies, forces = derive(params, graph)
        return frame_sum(energies, graph, BATCH + 1)[:BATCH], forces

    @jax.jit
    def step(params, state, graph, forces, energies):
        def loss(params):
            found, found_forces = predict(params, graph)
            return ENERGY_WEIGHT * jnp.mean(((found - energies) / atoms) ** 2) + jnp.mean((found_forces - forces) ** 2)

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    saved = state_file(options)
    first, clock, (params, state) = restored(saved, (params, optimizer.init(params)))
    started = time.perf_counter()
    done = options.steps
    for number in range(first, options.steps):
        chosen = batch_of(number, options.frames, options.seed)
        batch = pack([graphs[frame] for frame in chosen], budget)
        params, state = step(params, state, batch, forces[chosen].reshape(-1, 3), energies[chosen])
        if time.perf_counter() - started > 60 * options.minutes:
            done = number + 1
            break
    jax.block_until_ready(params)
    clock += time.perf_counter() - started
    leaves = jax.tree.leaves((params, state))
    with atomic_file(saved) as aside, aside.open("wb") as file:
        np.savez(file, step=done, clock=clock, **{str(n): np.asarray(leaf) for n, leaf in enumerate(leaves)})
    compiled = jax.jit(predict)
    found = [compiled(params, pack(test_graphs[start : start + BATCH], budget)) for start in range(0, len(test_graphs), BATCH)]
    found_energies, found_forces = (np.concatenate([np.asarray(batch[part]) for batch in found]) for part in range(2))
    return {"steps": done, "seconds": clock, **mean_errors(found_energies, found_forces.reshape(-1, atoms, 3), test)}


def graphs_of(frames: Frames, kinds: list[int]) -> list:
    """Return the graph of every frame; every atom is a segment of its own, so nothing is bonded."""
    from cg_data.topology import frame_graph

    index = np.arange(len(frames.charges), dtype=np.int32)
    species = np.array([kinds.index(kind) for kind in frames.charges], np.int32)
    return [frame_graph(x, species, index * 0, index, CUTOFF) for x in frames.positions.astype(np.float32)]


def state_file(options: argparse.Namespace) -> Path:
    """Return where a run keeps its state: each run its own, so that none goes on from, or reports, another's."""
    backbone = f"{options.backbone}_wide" if options.wide else options.backbone
    return options.out / f"{options.molecule}_{backbone}_{options.frames}_frames_{options.steps}_steps_seed_{options.seed}.npz"


def restored(path: Path, fresh: tuple) -> tuple[int, float, tuple]:
    """Return the step, the seconds and the state of a saved run, or of one that begins."""
    import jax
    import jax.numpy as jnp

    if not path.exists():
        return 0, 0.0, fresh
    with np.load(path) as file:
        leaves, shape = jax.tree.flatten(fresh)
        return int(file["step"]), float(file["clock"]), jax.tree.unflatten(shape, [jnp.asarray(file[str(n)]) for n in range(len(leaves))])


# --- the peer


def train_peer(options: argparse.Namespace, train: Frames, test: Frames) -> dict[str, float]:
    """Train mace-torch with the same options; return its errors."""
    import torch

    torch.manual_seed(options.seed)
    kinds = sorted(set(train.charges.tolist()))
    atoms = len(train.charges)
    net = peer_network(train, kinds)
    one_hot = torch.nn.functional.one_hot(torch.tensor([kinds.index(kind) for kind in train.charges]), len(kinds)).float()

    def batch(positions: np.ndarray) -> dict:
        n = len(positions)
        apart = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
        frame, sender, receiver = np.nonzero((apart < CUTOFF) & (apart > 0))
        edges = np.stack([frame * atoms + sender, frame * atoms + receiver])
        return {
            "positions": torch.tensor(positions.reshape(-1, 3), dtype=torch.float32, requires_grad=True),
            "node_attrs": one_hot.repeat(n, 1),
            "edge_index": torch.tensor(edges),
            "shifts": torch.zeros(edges.shape[1], 3),
            "unit_shifts": torch.zeros(edges.shape[1], 3),
            "cell": torch.zeros(3 * n, 3),
            "batch": torch.arange(n).repeat_interleave(atoms),
            "ptr": torch.arange(n + 1) * atoms,
        }

    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    energies, forces = torch.tensor(train.energies, dtype=torch.float32), torch.tensor(train.forces, dtype=torch.float32)
    started = time.perf_counter()
    for number in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, options.steps)
        chosen = batch_of(number, options.frames, options.seed)
        out = net(batch(train.positions[chosen]), training=True)
        loss = ENERGY_WEIGHT * (((out["energy"] - energies[chosen]) / atoms) ** 2).mean()
        loss = loss + ((out["forces"] - forces[chosen].reshape(-1, 3)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clock = time.perf_counter() - started
    found_energies, found_forces = [], []
    for start in range(0, len(test.positions), 50):
        out = net(batch(test.positions[start : start + 50]))
        found_energies.append(out["energy"].detach().numpy())
        found_forces.append(out["forces"].detach().numpy().reshape(-1, atoms, 3))
    errors = mean_errors(np.concatenate(found_energies), np.concatenate(found_forces), test)
    return {"steps": options.steps, "seconds": clock, **errors}


def peer_network(train: Frames, kinds: list[int]):
    """Return a fresh ScaleShiftMACE with the options and the statistics that ours has."""
    from model_speed_peers import mace_network

    distances = np.linalg.norm(train.positions[:, :, None] - train.positions[:, None], axis=-1)
    neighbours = float(((distances < CUTOFF) & (distances > 0)).sum() / distances.shape[0] / len(train.charges))
    return mace_network(MACE, len(kinds), CUTOFF, neighbours, float(np.sqrt((train.forces**2).mean())), ENVELOPE)


def main() -> None:
    """Train, and print the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--molecule", choices=sorted(PUBLISHED), default="ethanol")
    parser.add_argument("--backbone", choices=["mace", "allegro", "mace-torch"], default="mace")
    parser.add_argument("--wide", action="store_true", help="more channels than the peer is given")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=8.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train = load(options.data, options.molecule, "train")
    mean = float(train.energies[: options.frames].mean())
    train = load(options.data, options.molecule, "train", mean)
    train = dataclasses.replace(train, **{name: getattr(train, name)[: options.frames] for name in ("positions", "forces", "energies")})
    test = load(options.data, options.molecule, "test", mean)
    run = train_peer if options.backbone == "mace-torch" else train_ours
    chosen = {name: getattr(options, name) for name in ("molecule", "backbone", "wide", "frames", "seed")}
    print(json.dumps({**chosen, "of_steps": options.steps, **run(options, train, test)}), flush=True)
    print(PUBLISHED[options.molecule])


if __name__ == "__main__":
    main()
