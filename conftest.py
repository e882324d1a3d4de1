"""Tests compile quickly rather than well: nearly all that the networks' tests did was to optimise programs that run once.

That holds for the processes of pytest itself. Programs that a test starts compile as users' do, unless it asks for
`quick_compilation`; so command lines, SLURM jobs and LAMMPS run the programs that users run.
"""

import importlib.util
import os

import pytest

QUICK = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false",
}

if importlib.util.find_spec("jax") is not None:  # cg-data's own environment has none
    before = dict(os.environ)
    os.environ.update(QUICK)
    import jax

    jax.devices()  # reads the flags
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def quick_compilation() -> dict[str, str]:
    """Return the environment in which a program compiles as the tests' own processes do: the same numbers, bit for bit."""
    return dict(QUICK)
