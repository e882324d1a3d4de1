"""The stored results of other libraries are what these libraries give today.

Runs where an environment has them; the comparisons with the stored results always run. For example

    uv venv peers && uv pip install --python peers/bin/python torch mace-torch==0.3.16
    CG_PEER_PYTHON=peers/bin/python uv run pytest packages/cg-models/tests/test_peer_references.py
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REFERENCES = Path(__file__).parent / "references"


@pytest.mark.parametrize(("module", "package"), [("mace", "mace-torch==0.3.16"), ("schnetpack", "schnetpack==2.0.4")])
def test_stored_results_are_those_of_the_library(module, package, tmp_path):
    python = os.environ.get("CG_PEER_PYTHON", sys.executable)
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    if subprocess.run([python, "-c", find], check=False).returncode:
        pytest.skip(f"needs {package}: set CG_PEER_PYTHON to a Python that has it")
    stored = {"mace": "mace_torch", "schnetpack": "schnetpack"}[module]
    subprocess.run([python, REFERENCES / f"make_{stored}.py", tmp_path / "again.npz"], check=True, capture_output=True, timeout=300)
    with np.load(REFERENCES / f"{stored}.npz") as expected, np.load(tmp_path / "again.npz") as found:
        assert set(found.files) == set(expected.files)
        for name in expected.files:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-10, atol=1e-12, err_msg=name)
