import copy
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)

CHIGNOLIN = Path(__file__).parent / "data" / "mdcath_dataset_5awlA00.h5"


@pytest.fixture(scope="session")
def chignolin_file() -> Path:
    """A real file in mdCATH layout: 175 atoms, 348 K, replica 0 with 160 frames and replica 1 with 60."""
    return CHIGNOLIN


@pytest.fixture(scope="session")
def _chignolin_parts():
    with h5py.File(CHIGNOLIN) as file:
        group = file["5awlA00"]
        return {
            "domain": "5awlA00",
            "attrs": dict(group.attrs),
            "atoms": {name: group[name][()] for name in ("chain", "element", "resname", "resid", "z", "pdb", "psf", "pdbProteinAtoms")},
            "runs": {f"348/{r}": {name: item[()] for name, item in group[f"348/{r}"].items()} for r in "01"},
        }


@pytest.fixture
def parts(_chignolin_parts):
    """What `write_mdcath` writes, to be changed at will: domain, attrs, atoms, runs (by group name)."""
    small = copy.deepcopy(_chignolin_parts)
    for run in small["runs"].values():
        n_frames = len(run["coords"])
        for name, values in run.items():
            if name not in ("box", "rmsf") and len(values) == n_frames:
                run[name] = values[:30].copy()
    return small


@pytest.fixture
def write_mdcath():
    """Return a writer of files in mdCATH's layout, names, dtypes and attributes included."""
    return _write_mdcath


def _write_mdcath(path, parts):
    text = h5py.string_dtype("utf-8")
    units = {"coords": "Angstrom", "forces": "kcal/mol/Angstrom", "box": "nm", "gyrationRadius": "nm", "rmsd": "nm", "rmsf": "nm"}
    with h5py.File(path, "w") as file:
        file.attrs["layout"] = "mdcath-only-protein-v1.0"
        group = file.create_group(parts["domain"])
        for name, value in parts["attrs"].items():
            group.attrs[name] = np.int64(value)
        for name, values in parts["atoms"].items():
            if name in ("chain", "element", "resname"):
                group.create_dataset(name, data=values, dtype=text)
            else:
                group.create_dataset(name, data=values)
        for run, arrays in parts["runs"].items():
            trajectory = group.create_group(run)
            if "coords" in arrays:
                trajectory.attrs["numFrames"] = np.int64(len(arrays["coords"]))
            for name, values in arrays.items():
                options = (
                    {"compression": "gzip", "chunks": (min(16, len(values)), *values.shape[1:])} if name in ("coords", "forces") else {}
                )
                dtype = h5py.string_dtype("ascii") if name == "dssp" else None
                dataset = trajectory.create_dataset(name, data=values, dtype=dtype, **options)
                if name in units:
                    dataset.attrs["unit"] = units[name]
    return path
