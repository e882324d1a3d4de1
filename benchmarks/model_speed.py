"""How fast are mace and allegro beside mace-torch and nequip-allegro? Ratios within one run.

    python benchmarks/model_speed.py [--mace-torch PYTHON] [--nequip-allegro PYTHON] [--only mace|allegro] [--rounds 3]

The peers need exclusive versions of e3nn, so each has an environment of its own, given by its interpreter:

    uv venv A && uv pip install -p A torch==2.13.0 mace-torch==0.3.16
    uv venv B && uv pip install -p B torch==2.13.0 nequip-allegro==0.8.3

A peer that is not given is named as missing. All sides get the same packed beads and edges (no padding beads, 28 neighbours within
10 angstrom on average, 20 species), float32, the same irreps, layers and radial basis, and as many threads; they run alternately,
and the table holds medians over all rounds. Training: energies, forces, loss of both, gradient by the parameters, Adam. MD:
energies and forces. Where a peer offers torch.compile its faster way counts, and is named.
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CASES = {"16 x 50": (16, 50), "8 x 150": (8, 150), "2 x 500": (2, 500)}
NEIGHBOURS, CUTOFF, N_SPECIES = 28, 10.0, 20
MACE = {
    "kind": "mace",
    "layers": 2,
    "num_features": 128,
    "max_ell": 2,
    "num_radial": 8,
    "correlation": 3,
    "readout": 16,
    "embed": 128,
    "mlp_n_hidden": 64,
    "mlp_n_layers": 3,
}
ALLEGRO = {"kind": "allegro", "layers": 3, "num_radial": 24, "l_max": 2, "num_features": 16, "mlp_n_hidden": 64, "mlp_n_layers": 2}
BACKBONES = {"mace": MACE, "allegro": ALLEGRO}
PEERS = {"mace": "mace-torch", "allegro": "nequip-allegro"}


def globule(n_beads, rng):
    """Return a random walk folded into a ball, no two beads nearer than 3.8 angstrom before it is scaled, [n_beads, 3]."""
    radius = 3.3 * n_beads ** (1 / 3)
    points = [np.zeros(3)]
    while len(points) < n_beads:
        candidate = rng.uniform(-radius, radius, 3)
        if np.linalg.norm(candidate) < radius and np.linalg.norm(np.asarray(points) - candidate, axis=1).min() > 3.8:
            points.append(candidate)
    return np.asarray(points)


def write_case(path, n_frames, n_beads):
    """Write positions, species, frames, edges of a batch and random forces to learn."""
    rng = np.random.default_rng(n_beads)
    frames = [globule(n_beads, rng) for _ in range(n_frames)]
    low, high = 0.3, 2.0
    for _ in range(40):  # bisection of the scale that gives the wanted number of neighbours
        scale = (low + high) / 2
        pairs = [np.linalg.norm((x[:, None] - x[None]) * scale, axis=-1) < CUTOFF for x in frames]
        mean = np.mean([close.sum(1).mean() - 1 for close in pairs])
        low, high = (scale, high) if mean > NEIGHBOURS else (low, scale)
    senders, receivers = [], []
    for number, close in enumerate(pairs):
        to, of = np.nonzero(close & ~np.eye(n_beads, dtype=bool))
        receivers.append(to + number * n_beads)
        senders.append(of + number * n_beads)
    np.savez(
        path,
        positions=(np.concatenate(frames) * scale).astype(np.float32),
        species=rng.integers(0, N_SPECIES, n_frames * n_beads).astype(np.int32),
        frame=np.repeat(np.arange(n_frames, dtype=np.int32), n_beads),
        senders=np.concatenate(senders).astype(np.int32),
        receivers=np.concatenate(receivers).astype(np.int32),
        forces=rng.normal(size=(n_frames * n_beads, 3)).astype(np.float32),
        energies=rng.normal(size=n_frames).astype(np.float32),
    )


class Side:
    """One process that measures; the driver asks it for numbers of seconds, line by line."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )

    def ask(self, **question):
        """Return the answer; raises where the process died."""
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args}: ended without an answer")
        return json.loads(line)

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait(60)


def serve(prepare):
    """Answer questions on the standard input: `prepare(way, case, what)` returns a function without arguments that is timed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    ready = {}
    for line in sys.stdin:
        question = json.loads(line)
        key = (question["way"], question["case"], question["what"])
        try:
            if key not in ready:
                ready[key] = prepare(*key)
                for _ in range(2):
                    ready[key]()
            seconds = []
            started = time.perf_counter()
            while len(seconds) < question["least"] or time.perf_counter() - started < question["seconds"]:
                before = time.perf_counter()
                ready[key]()
                seconds.append(time.perf_counter() - before)
            answer = {"seconds": seconds}
        except Exception as error:  # noqa: BLE001 - whatever fails in another library is reported, not raised
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def load_graph(path, layout):
    """Return the graph of a case, with edges flat or in rows, and its targets."""
    from cg_data.contracts import BeadGraph
    from cg_models.graph import in_rows

    with np.load(path) as file:
        data = dict(file)
    n_beads = len(data["species"])
    none = {name: np.zeros((0, size), np.int32) for name, size in (("bonds", 2), ("angles", 3), ("dihedrals", 4))}
    masks = {f"{name[:-1]}_mask": np.zeros(0, bool) for name in none}
    graph = BeadGraph(
        **{name: data[name] for name in ("positions", "species", "frame", "senders", "receivers")},
        residue_index=np.arange(n_beads, dtype=np.int32),
        chain_index=data["frame"],
        bead_mask=np.ones(n_beads, bool),
        edge_mask=np.ones(len(data["senders"]), bool),
        **none,
        **masks,
    )
    return in_rows(graph) if layout == "rows" else graph, data


def prepare_ours(way, case, what):
    """Return the timed function; way: BACKBONE LAYOUT."""
    import jax
    import optax

    from cg_data.mapping import RESIDUE_SPECIES
    from cg_models.config import ModelConfig
    from cg_models.forces import energy_and_forces
    from cg_models.graph import frame_sum
    from cg_models.hybrid import build_model
    from cg_models.statistics import ModelStatistics

    kind, layout = way.split()
    graph, data = load_graph(case, layout)
    config = ModelConfig.parse({"mode": "backbone", "cutoff_angstrom": CUTOFF, "backbone": BACKBONES[kind]}, "benchmark")
    model = build_model(config, tuple(RESIDUE_SPECIES), None, ModelStatistics(avg_num_neighbors=float(NEIGHBOURS)))
    graph = jax.tree.map(jax.numpy.asarray, graph)
    params = model.init(jax.random.key(0))
    evaluate = energy_and_forces(model.energy)
    if what == "md":
        run = jax.jit(evaluate)
        return lambda: jax.block_until_ready(run(params, graph))
    forces, energies = jax.numpy.asarray(data["forces"]), jax.numpy.asarray(data["energies"])
    optimizer = optax.adam(1e-6)

    def loss(params):
        found, found_forces = evaluate(params, graph)
        return ((found_forces - forces) ** 2).mean() + ((frame_sum(found, graph, len(energies)) - energies) ** 2).mean()

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    now = {"params": params, "state": optimizer.init(params)}

    def timed():
        now["params"], now["state"], value = step(now["params"], now["state"])
        value.block_until_ready()

    return timed


@dataclasses.dataclass
class Way:
    """A row's candidate: which side runs it, and the name that the side knows it by."""

    side: Side
    name: str
    seconds: list = dataclasses.field(default_factory=list)
    error: str = ""


def measure(ways, case, what, rounds, seconds):
    """Let every way run in turn, several rounds; what fails is left out from then on."""
    for _ in range(rounds):
        for way in ways:
            if not way.error:
                try:
                    answer = way.side.ask(way=way.name, case=str(case), what=what, seconds=seconds, least=2)
                except (RuntimeError, BrokenPipeError):
                    answer = {"error": "its process ended, perhaps for want of memory"}
                way.error = answer.get("error", "")
                way.seconds += answer.get("seconds", [])


def best(ways):
    """Return (median milliseconds, name) of the fastest way, or None."""
    found = [(1000 * statistics.median(way.seconds), way.name) for way in ways if way.seconds and not way.error]
    return min(found) if found else None


def processor():
    """Return the name of the processor."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mace-torch", help="interpreter with mace-torch")
    parser.add_argument("--nequip-allegro", help="interpreter with nequip-allegro")
    parser.add_argument("--only", choices=("mace", "allegro"))
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--what", nargs="+", choices=("training", "md"), default=("training", "md"))
    parser.add_argument("--ours", nargs="+", default=("rows",), help="layouts of ours: flat, rows")
    parser.add_argument("--peer-ways", nargs="+", default=("eager", "compiled"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="least time of each round of each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(prepare_ours)
        return
    # glibc gives large arrays back to the system after every step, and then pays for each page anew; no side has to here.
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
    environment = {"OMP_NUM_THREADS": str(options.threads), **kept}
    print(f"{processor()}, {os.cpu_count()} processors, {options.threads} threads, float32; median of {options.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as folder:
        for label in options.cases:
            write_case(Path(folder) / f"{label}.npz", *CASES[label])
        print("| backbone | step | beads | ours, ms | peer | peer, ms | peer / ours |\n|---|---|---|---|---|---|---|")
        for backbone in BACKBONES:
            if options.only not in (None, backbone):
                continue
            python = getattr(options, PEERS[backbone].replace("-", "_"))
            for what, label in itertools.product(options.what, options.cases):
                case = Path(folder) / f"{label}.npz"
                # Each row has processes of its own: kept memory of all sizes at once would not fit.
                ours = Side([sys.executable, __file__, "--serve"], environment)
                sides = [ours]
                own = [Way(ours, f"{backbone} {layout}") for layout in options.ours]
                peers = []
                if python is not None:
                    sides.append(Side([python, str(HERE / "model_speed_peers.py"), backbone], environment))
                    peers = [Way(sides[1], way) for way in options.peer_ways]
                try:
                    measure(own + peers, case, what, options.rounds, options.seconds)
                finally:
                    for side in sides:
                        side.close()
                fastest, peer = best(own), best(peers)
                for way in own + peers:
                    if way.error:
                        print(f"{backbone} {what} {label}: {way.name} failed: {way.error}", file=sys.stderr)
                    elif way.seconds:
                        print(f"{backbone} {what} {label}: {way.name} {1000 * statistics.median(way.seconds):.1f} ms", file=sys.stderr)
                their = f"{PEERS[backbone]} {peer[1]} | {peer[0]:.1f} | {peer[0] / fastest[0]:.2f}" if peer else "missing | |"
                print(f"| {backbone} | {what} | {label} | {fastest[0]:.1f} | {their} |", flush=True)


if __name__ == "__main__":
    main()
