"""What the plugin's `python` runtime imports: it loads an artifact's `jax.export` file and evaluates it on LAMMPS's buffers.

Nothing else of this package is imported, so that starting LAMMPS stays quick.
"""

import ctypes
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

MODEL_FILE = "model.jaxexport"

N_COUNTS = 6
ARGUMENTS = ("counts", "positions", "species", "residue", "segment", "senders", "receivers", "bonds", "angles", "dihedrals")
RESULTS = ("energies", "forces")
CHANGES_EVERY_STEP = ("counts", "positions", "senders", "receivers")


class Buffers(ctypes.Structure):
    """The plugin's `cg::Buffers` (runtime.h): addresses of host memory, in the order of arguments and results."""

    _fields_ = [(name, ctypes.c_void_p) for name in (*ARGUMENTS, *RESULTS)]


def shapes(beads: int, edges: int, bonds: int, angles: int, dihedrals: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Return name -> (shape, dtype) of the exported function's arguments and results for one budget."""
    return {
        "counts": ((N_COUNTS,), np.int32),
        "positions": ((beads, 3), np.float64),
        "species": ((beads,), np.int32),
        "residue": ((beads,), np.int32),
        "segment": ((beads,), np.int32),
        "senders": ((edges,), np.int32),
        "receivers": ((edges,), np.int32),
        "bonds": ((bonds, 2), np.int32),
        "angles": ((angles, 3), np.int32),
        "dihedrals": ((dihedrals, 4), np.int32),
        "energies": ((beads,), np.float64),
        "forces": ((beads, 3), np.float64),
    }


class Model:
    """One exported function, compiled for one budget at a time, on memory that the plugin owns."""

    def __init__(self, exported: export.Exported) -> None:
        self._exported = exported

    def compile(self, budget: tuple[int, int, int, int, int], address: int) -> None:
        """Bind the buffers at `address` (a `Buffers` struct) for (beads, edges, bonds, angles, dihedrals) and compile."""
        buffers = Buffers.from_address(address)
        views = {name: _view(getattr(buffers, name), shape, dtype) for name, (shape, dtype) in shapes(*budget).items()}
        self._arguments: list[Any] = [views[name] for name in ARGUMENTS]
        self._results = [views[name] for name in RESULTS]
        self._kept = [(index, views[name]) for index, name in enumerate(ARGUMENTS) if name not in CHANGES_EVERY_STEP]
        with jax.enable_x64(True):
            function = jax.jit(self._exported.call, keep_unused=True)
            self._function = function
            jax.block_until_ready(function(*self._arguments))

    def execute(self, lists_changed: int) -> None:
        """Evaluate the buffers' present contents and write energies and forces back into them."""
        with jax.enable_x64(True):
            if lists_changed:
                for index, view in self._kept:
                    # A copy: the plugin writes into `view` again while the device array must stay as it is.
                    self._arguments[index] = jax.device_put(view.copy())
            for target, value in zip(self._results, self._function(*self._arguments), strict=True):
                np.copyto(target, value)


def load(artifact: str) -> Model:
    """Return the model of an artifact folder, whose checksums the plugin has verified."""
    return Model(export.deserialize(bytearray((Path(artifact) / MODEL_FILE).read_bytes())))


def _view(address: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    count = int(np.prod(shape))
    kind = ctypes.c_double if dtype is np.float64 else ctypes.c_int32
    return np.ctypeslib.as_array((kind * count).from_address(address)).reshape(shape)
