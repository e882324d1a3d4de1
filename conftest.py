"""Tests compile quickly rather than well: nearly all that the networks' tests did was to optimise programs that run once.

Only in the tests' own processes; programs that a test starts compile as users' do.
"""

import importlib.util
import os

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
