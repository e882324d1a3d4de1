"""What do matrix products in bfloat16 or float16 cost a fresh default network? Errors of energies and forces of a chain of 50 beads.

    python benchmarks/low_precision_errors.py

Rms errors relative to the rms of float32; edges in rows, cutoff 10 angstrom.
"""

import jax
import numpy as np

from cg_models.backbones.registry import BACKBONES
from cg_models.config import ModelConfig
from cg_models.forces import energy_and_forces
from cg_models.graph import in_rows
from cg_models.hybrid import build_model
from cg_models.precision import low_precision
from cg_models.statistics import ModelStatistics
from cg_models.testing import SPECIES, chain_graph, random_chain

N_BEADS, CUTOFF = 50, 10.0


def relative_error(found: jax.Array, expected: jax.Array) -> float:
    """Return the rms error relative to the rms of what is expected."""
    difference = np.asarray(found) - np.asarray(expected)
    return float(np.sqrt((difference**2).mean() / (np.asarray(expected) ** 2).mean()))


def main() -> None:
    """Print a table."""
    graph = chain_graph(random_chain(N_BEADS).astype(np.float32), cutoff=CUTOFF, padded=False)
    statistics = ModelStatistics(avg_num_neighbors=len(graph.senders) / N_BEADS)
    print("| | energies, bfloat16 | forces, bfloat16 | energies, float16 | forces, float16 |\n|---|---|---|---|---|")
    for backbone in reversed(BACKBONES):
        config = ModelConfig.parse({"mode": "backbone", "cutoff_angstrom": CUTOFF, "backbone": {"kind": backbone.kind}}, "benchmark")
        model = build_model(config, SPECIES, None, statistics)
        params, rows = model.init(jax.random.key(0)), in_rows(graph)
        exact = jax.jit(energy_and_forces(model.energy))(params, rows)
        cells = []
        for matmul in ("bfloat16", "float16"):
            low = jax.jit(energy_and_forces(low_precision(model.energy, matmul)))(params, rows)
            cells += [f"{100 * relative_error(*pair):.2g} %" for pair in zip(low, exact, strict=True)]
        print(f"| {backbone.kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
