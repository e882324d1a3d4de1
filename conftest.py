"""Tests compile quickly rather than well: nearly all that the networks' tests did was to optimise programs that run once.

That holds for the processes of pytest itself. Programs that a test starts compile as users' do, unless it asks for
`quick_compilation`; so command lines, SLURM jobs and LAMMPS run the programs that users run.
"""

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable

import pytest


def _quick(devices: int | None = None) -> dict[str, str]:
    flags = [os.environ.get("XLA_FLAGS", "")]
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end the process at a flag they do not know
        flags.append("--xla_cpu_use_fusion_emitters=false")
    if devices is not None:
        flags.append(f"--xla_force_host_platform_device_count={devices}")
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": " ".join(flags)}


if importlib.util.find_spec("jax") is not None:  # cg-data's own environment has none
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _quick().items():
            patch.setenv(name, value)
        import jax

        jax.devices()  # reads the flags


@pytest.fixture(scope="session")
def quick_compilation() -> Callable[[int], dict[str, str]]:
    """Return `quick_compilation(devices)`: the environment of a program that computes as the tests do, bit for bit."""
    return _quick
