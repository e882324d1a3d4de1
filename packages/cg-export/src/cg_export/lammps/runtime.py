"""What the plugin's `python` runtime imports: it loads an artifact's `jax.export` file and evaluates it on LAMMPS's buffers.

Nothing else of this package is imported, so that starting LAMMPS stays quick.
"""

import ctypes
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

MODEL_FILE = "model.jaxexport"

N_COUNTS = 6
ARGUMENTS = ("counts", "positions", "species", "residue", "segment", "senders", "receivers", "bonds", "angles", "dihedrals")
RESULTS = ("energies", "forces")
STEP = ("counts", "positions", "senders", "receivers")
"""Arguments that change on every step, of which there are two sets."""
LISTS = tuple(name for name in ARGUMENTS if name not in STEP)
N_SETS = 2


class Buffers(ctypes.Structure):
    """The plugin's `cg::Buffers` (runtime.h): addresses of host memory, those of a step once for each set, as `counts_0`, `counts_1`."""

    _fields_ = [
        *((f"{name}_{index}", ctypes.c_void_p) for index in range(N_SETS) for name in STEP),
        *((name, ctypes.c_void_p) for name in (*LISTS, *RESULTS)),
    ]


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
        specs = shapes(*budget)

        def view(name: str, index: int) -> np.ndarray:
            return _view(getattr(buffers, f"{name}_{index}" if name in STEP else name), *specs[name])

        self._views = [[view(name, index) for name in ARGUMENTS] for index in range(N_SETS)]
        self._results = [view(name, 0) for name in RESULTS]
        self._in_place = jax.default_backend() == "cpu"
        with jax.enable_x64(True):
            # On a CPU the program reads the plugin's memory itself: nothing is copied, on a step or on a rebuild.
            self._arguments: list[list[Any]] = [
                [jnp.from_dlpack(view, copy=False) if self._in_place else view for view in views] for views in self._views
            ]
            self._function = jax.jit(self._exported.call, keep_unused=True)
            jax.block_until_ready(self._function(*self._arguments[0]))

    def execute(self, index: int, lists_changed: int) -> None:
        """Evaluate the present contents of set `index` and write energies and forces back into the plugin's memory."""
        with jax.enable_x64(True):
            if lists_changed and not self._in_place:
                for place, name in enumerate(ARGUMENTS):
                    if name in LISTS:
                        # A copy: the plugin writes into the view again while the device array must stay as it is.
                        array = jax.device_put(self._views[0][place].copy())
                        for arguments in self._arguments:
                            arguments[place] = array
            for target, value in zip(self._results, self._function(*self._arguments[index]), strict=True):
                np.copyto(target, value)


def load(artifact: str) -> Model:
    """Return the model of an artifact folder, whose checksums the plugin has verified."""
    return Model(export.deserialize(bytearray((Path(artifact) / MODEL_FILE).read_bytes())))


def _view(address: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    count = int(np.prod(shape))
    kind = ctypes.c_double if dtype is np.float64 else ctypes.c_int32
    return np.ctypeslib.as_array((kind * count).from_address(address)).reshape(shape)
