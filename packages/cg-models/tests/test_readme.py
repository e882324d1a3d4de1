import os
import re
from pathlib import Path

import numpy as np

PACKAGE = Path(__file__).parents[1]


def test_the_smallest_example_predicts_forces_as_written(monkeypatch):
    monkeypatch.chdir(PACKAGE)
    example = re.search(r"## Smallest example\n\n```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL).group(1)
    assert len([line for line in example.splitlines() if line and not line.startswith("from")]) <= 5
    names = {}
    exec(compile(example, os.fspath(PACKAGE / "README.md"), "exec"), names)
    assert names["forces"].shape == (8, 3)
    assert np.isfinite(names["forces"]).all()
    assert np.abs(names["forces"]).max() > 0
