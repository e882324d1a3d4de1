"""How fast are mace and allegro beside mace-torch and nequip-allegro? Ratios within one run.

    python benchmarks/model_speed.py [--mace-torch PYTHON] [--nequip-allegro PYTHON] [--only mace|allegro] [--rounds 3] [--together]

The peers need exclusive versions of e3nn, so each has an environment of its own, given by its interpreter:

    uv venv A && uv pip install -p A torch==2.13.0 mace-torch==0.3.16
    uv venv B && uv pip install -p B torch==2.13.0 nequip-allegro==0.8.3

A peer that is not given is named as missing. All sides get the same packed beads and edges (no padding beads, 28 neighbours within
10 angstrom on average, 20 species), float32, the same irreps, layers and radial basis, and as many threads; they run alternately,
and the table holds medians over all rounds. Training: energies, forces, loss of both, gradient by the parameters, Adam. MD:
energies and forces. Where a peer offers torch.compile its faster way counts, and is named.

Where there is a GPU all sides use it. Then `--together` compiles everything at once before the first measurement. The standard error
has every way's time, the most memory of a GPU that it held, and for ours also the operations that XLA counts in the program, their rate,
and on a CPU the memory that XLA plans for it.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
    """One process that measures; the driver asks it for numbers of seconds, line by line, and waits `patience` seconds at most."""

    def __init__(self, command, environment, patience):
        self.patience = patience
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )

    def ask(self, **question):
        """Return the answer; raises where the process died or did not answer."""
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], self.patience)[0]:
            self.process.kill()
            raise RuntimeError(f"no answer within {self.patience:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("its process ended, perhaps for want of memory")
        return json.loads(line)

    def close(self):
        """End the process."""
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait(60)


@dataclasses.dataclass
class Timed:
    """What is measured: a function that returns when its work is done, the most bytes held or planned, operations of one call."""

    run: Callable
    peak_bytes: Callable = lambda: None
    operations: float | None = None


def serve(prepare):
    """Answer questions on the standard input: `prepare(way, case, what)` returns what is timed."""
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
                    ready[key].run()
            timed, seconds = ready[key], []
            started = time.perf_counter()
            while len(seconds) < question["least"] or time.perf_counter() - started < question["seconds"]:
                before = time.perf_counter()
                timed.run()
                seconds.append(time.perf_counter() - before)
            answer = {"seconds": seconds, "bytes": timed.peak_bytes(), "operations": timed.operations}
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
    """Return what is timed; way: BACKBONE LAYOUT [OPTION ...], options being `cuequivariance` and a precision of products."""
    import jax
    import optax

    from cg_data.mapping import RESIDUE_SPECIES
    from cg_models.config import ModelConfig
    from cg_models.forces import energy_and_forces
    from cg_models.graph import frame_sum
    from cg_models.hybrid import build_model
    from cg_models.precision import low_precision
    from cg_models.statistics import ModelStatistics

    kind, layout, *options = way.split()
    backbone = {**BACKBONES[kind], **({"kernels": "cuequivariance"} if "cuequivariance" in options else {})}
    graph, data = load_graph(case, layout)
    config = ModelConfig.parse({"mode": "backbone", "cutoff_angstrom": CUTOFF, "backbone": backbone}, "benchmark")
    model = build_model(config, tuple(RESIDUE_SPECIES), None, ModelStatistics(avg_num_neighbors=float(NEIGHBOURS)))
    graph = jax.tree.map(jax.numpy.asarray, graph)
    params = model.init(jax.random.key(0))
    matmul = next((option for option in options if option != "cuequivariance"), "float32")
    evaluate = energy_and_forces(low_precision(model.energy, matmul))

    def timed(run, step, compiled, *arguments):
        def peak_bytes():
            device = jax.devices()[0].memory_stats()
            if device:
                return device["peak_bytes_in_use"]
            planned = compiled.memory_analysis()
            return planned.argument_size_in_bytes + planned.output_size_in_bytes + planned.temp_size_in_bytes

        if "cuequivariance" in options:  # calls of its kernels are not counted
            return Timed(run, peak_bytes)
        cpu = jax.devices("cpu")[0]  # a GPU's client counts nothing
        counted = step.lower(*jax.device_put(arguments, cpu)).cost_analysis()
        return Timed(run, peak_bytes, counted["flops"])

    if what == "md":
        forces_of = jax.jit(evaluate)
        compiled = forces_of.lower(params, graph).compile()
        return timed(lambda: jax.block_until_ready(compiled(params, graph)), forces_of, compiled, params, graph)
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
    compiled = step.lower(*now.values()).compile()

    def run():
        now["params"], now["state"], value = compiled(*now.values())
        value.block_until_ready()

    return timed(run, step, compiled, *now.values())


@dataclasses.dataclass
class Way:
    """A row's candidate: the process that runs it, and the name that the process knows it by."""

    side: Side
    name: str
    seconds: list = dataclasses.field(default_factory=list)
    bytes: int | None = None
    operations: float | None = None
    error: str = ""

    def measure(self, case, what, seconds, least):
        """Let it run for a while; what fails once is left out from then on."""
        if self.error:
            return
        try:
            answer = self.side.ask(way=self.name, case=str(case), what=what, seconds=seconds, least=least)
        except (RuntimeError, BrokenPipeError) as error:
            answer = {"error": str(error)}
        self.error = answer.get("error", "")
        self.seconds += answer.get("seconds", [])
        self.bytes, self.operations = answer.get("bytes"), answer.get("operations")

    @property
    def milliseconds(self):
        """The median."""
        return 1000 * statistics.median(self.seconds)


@dataclasses.dataclass
class Row:
    """A line of the table: what is compared, our ways and the peer's."""

    backbone: str
    what: str
    label: str
    case: Path
    own: list
    peers: list

    def prepare(self):
        """Compile every way."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda way: way.measure(self.case, self.what, 0, 0), self.own + self.peers))

    def measure(self, rounds, seconds):
        """Let every way run in turn, several rounds, and end the processes."""
        for _ in range(rounds):
            for way in self.own + self.peers:
                way.measure(self.case, self.what, seconds, 2)
        for way in self.own + self.peers:
            way.side.close()

    def describe(self):
        """Return the table's line, and say on the standard error what every way took."""
        n_beads = CASES[self.label][0] * CASES[self.label][1]
        for way in self.own + self.peers:
            name = f"{self.backbone} {self.what} {self.label}: {way.name}"
            if way.error or not way.seconds:
                print(f"{name} failed: {way.error}", file=sys.stderr)
                continue
            memory = f", {way.bytes / n_beads / 1e3:.1f} MB per 1,000 beads" if way.bytes else ""
            rate = f", {way.operations / 1e9:.1f} GFLOP, {way.operations / way.milliseconds / 1e9:.3f} TFLOP/s" if way.operations else ""
            print(f"{name} {way.milliseconds:.2f} ms{memory}{rate}", file=sys.stderr, flush=True)
        ours, theirs = (best(ways) for ways in (self.own, self.peers))
        cells = [self.backbone, self.what, self.label]
        cells += [ours.name.removeprefix(self.backbone).strip(), f"{ours.milliseconds:.2f}"] if ours else ["missing", ""]
        cells += [f"{PEERS[self.backbone]} {theirs.name}", f"{theirs.milliseconds:.2f}"] if theirs else ["missing", ""]
        cells.append(f"{theirs.milliseconds / ours.milliseconds:.2f}" if ours and theirs else "")
        return f"| {' | '.join(cells)} |"


def best(ways):
    """Return the fastest way, or None."""
    found = [way for way in ways if way.seconds and not way.error]
    return min(found, key=lambda way: way.milliseconds) if found else None


def processor():
    """Return the name of the processor."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table_rows(options, folder, environment):
    """Yield the rows that the options ask for; each way of a row has a process of its own, started here."""
    for backbone, what, label in itertools.product(BACKBONES, options.what, options.cases):
        if options.only not in (None, backbone):
            continue

        def ways(names, *command):
            return [Way(Side(list(command), environment, options.patience), name) for name in names]

        own = [f"{backbone} {way}" for way in options.ours if backbone == "mace" or "cuequivariance" not in way]
        python = getattr(options, PEERS[backbone].replace("-", "_"))
        yield Row(
            backbone,
            what,
            label,
            Path(folder) / f"{label}.npz",
            ways(own, sys.executable, __file__, "--serve"),
            ways(options.peer_ways if python else (), python, str(HERE / "model_speed_peers.py"), backbone),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mace-torch", help="interpreter with mace-torch")
    parser.add_argument("--nequip-allegro", help="interpreter with nequip-allegro")
    parser.add_argument("--only", choices=("mace", "allegro"))
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--what", nargs="+", choices=("training", "md"), default=("training", "md"))
    parser.add_argument("--ours", nargs="*", default=("rows",), help='"flat" or "rows", and options: "rows cuequivariance bfloat16"')
    parser.add_argument("--peer-ways", nargs="*", default=("eager", "compiled"))
    parser.add_argument("--together", action="store_true", help="compile all rows at once, then measure; for GPUs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="least time of each round of each way")
    parser.add_argument("--patience", type=float, default=600, help="longest time of an answer, compilation included, seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(prepare_ours)
        return
    # glibc gives large arrays back to the system after every step, and then pays for each page anew; no side has to here.
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
    # JAX would take most of a GPU's memory at its start, and leave none to the other sides.
    environment = {"OMP_NUM_THREADS": str(options.threads), "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **kept}
    print(f"{processor()}, {os.cpu_count()} processors, {options.threads} threads, float32; median of {options.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as folder:
        for label in options.cases:
            write_case(Path(folder) / f"{label}.npz", *CASES[label])
        print("| backbone | step | beads | ours | ms | peer | ms | peer / ours |\n|---|---|---|---|---|---|---|---|")
        rows = table_rows(options, folder, environment)
        if options.together:
            rows = list(rows)
            with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:
                list(pool.map(Row.prepare, rows))
        for row in rows:  # otherwise one at a time: memory kept for all sizes at once would not fit
            row.measure(options.rounds, options.seconds)
            print(row.describe(), flush=True)


if __name__ == "__main__":
    main()
