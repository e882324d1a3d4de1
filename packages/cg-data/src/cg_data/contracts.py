"""Arrays that cross package borders: shapes, dtypes, units, and their host-side checks.

Every class is an immutable pytree. `check` runs on the host, at load, save and entry; it is never called on construction,
because construction also happens to tracers inside `jax.jit`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, dataclass_transform

import chex
import numpy as np

from cg_data.errors import UserError
from cg_data.mapped import first_not_finite

Array = Any
"""A NumPy or JAX array (or a tracer of one)."""

Params = Mapping[str, Any]
"""`{"backbone": pytree, "prior": pytree}`."""


Contract = TypeVar("Contract", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def contract(cls: Contract) -> Contract:
    """Make a class an immutable, keyword-only dataclass that is a pytree; change a copy with `dataclasses.replace`."""
    return chex.dataclass(cls, frozen=True, mappable_dataclass=False)


PER_FRAME = ("positions", "forces", "temperature", "trajectory", "weight", "force_error", "energy", "cell", "stress")
"""The arrays of `BeadFrames` whose first axis counts frames."""


@contract
class BeadFrames:
    """Frames of one domain.

    positions        [n_frames, n_beads, 3] float32, angstrom
    forces           [n_frames, n_beads, 3] float32, kcal/mol/angstrom; None where the source has no forces
    species          [n_beads] int32, index into the data set's species names
    residue_index    [n_beads] int32, strictly increasing by one along an unbroken segment
    chain_index      [n_beads] int32, one value per unbroken segment: a chain break starts a new value
    temperature      [n_frames] float32, kelvin
    trajectory       [n_frames] int32, one value per trajectory of the domain
    weight           [n_frames] float32 above 0, the frame's weight in losses and averages; None: all are 1
    force_error      [n_frames, n_beads, 3] float32, standard error of `forces`, kcal/mol/angstrom; None where it is not known
    energy           [n_frames] float64, kcal/mol, NaN for a frame without; None where there are none (energies of coarse beads are
                     free energies, which simulations do not give)
    cell             [n_frames, 3, 3] float32, angstrom, rows are the vectors of a periodic cell; None in free space
    stress           [n_frames, 6] float32, kcal/mol/angstrom^3, xx yy zz yz xz xy, (dE/dstrain)/volume as in ASE, NaN for a frame
                     without; needs `cell`
    """

    positions: Array
    forces: Array
    species: Array
    residue_index: Array
    chain_index: Array
    temperature: Array
    trajectory: Array
    weight: Array = None
    force_error: Array = None
    energy: Array = None
    cell: Array = None
    stress: Array = None

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.positions.shape[0])

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return int(self.positions.shape[1])

    def select(self, frames: Array) -> "BeadFrames":
        """Return the frames chosen by an index array, a boolean mask or a slice."""
        per_frame = {name: getattr(self, name) for name in PER_FRAME}
        return dataclasses.replace(self, **{name: array[frames] for name, array in per_frame.items() if array is not None})

    def check(self, where: str, numbers: bool = True) -> "BeadFrames":
        """Return self if the contract holds; raise `UserError` naming `where` and the field otherwise.

        numbers: False leaves out the look at every number of the arrays per bead, for a reader that looks as it passes over them.
        """
        _check_shape(self.positions, (None, None, 3), np.float32, f"{where}: positions")
        n_frames, n_beads, _ = self.positions.shape
        if self.forces is not None:
            _check_shape(self.forces, (n_frames, n_beads, 3), np.float32, f"{where}: forces")
        for name in ("species", "residue_index", "chain_index"):
            _check_shape(getattr(self, name), (n_beads,), np.int32, f"{where}: {name}")
        _check_shape(self.temperature, (n_frames,), np.float32, f"{where}: temperature")
        _check_shape(self.trajectory, (n_frames,), np.int32, f"{where}: trajectory")
        if self.weight is not None:
            _check_shape(self.weight, (n_frames,), np.float32, f"{where}: weight")
        if self.force_error is not None:
            _check_shape(self.force_error, (n_frames, n_beads, 3), np.float32, f"{where}: force_error")
            if self.forces is None:
                raise UserError(f"{where}: force_error without forces: expected both or none")
        for name in ("positions", "forces", "force_error", "temperature", "weight")[0 if numbers else 3 :]:
            values = getattr(self, name)
            if values is not None:
                check_numbers(values, name, where)
        if n_frames and not (np.asarray(self.temperature) > 0).all():
            raise UserError(f"{where}: temperature must be above 0 K; smallest is {np.min(self.temperature)}")
        if self.weight is not None and not (np.asarray(self.weight) > 0).all():
            raise UserError(f"{where}: weight must be above 0; smallest is {np.min(self.weight)}: leave such frames out")
        self._check_cell_and_labels(where)
        return self

    def _check_cell_and_labels(self, where: str) -> None:
        n_frames = self.positions.shape[0]
        if self.energy is not None:
            _check_shape(self.energy, (n_frames,), np.float64, f"{where}: energy")
        if self.cell is not None:
            _check_shape(self.cell, (n_frames, 3, 3), np.float32, f"{where}: cell")
            if not (np.abs(np.linalg.det(np.asarray(self.cell, np.float64))) > 0).all():
                raise UserError(f"{where}: cell: expected three independent vectors in every frame: give no cell for free space")
        if self.stress is not None:
            _check_shape(self.stress, (n_frames, 6), np.float32, f"{where}: stress")
            if self.cell is None:
                raise UserError(f"{where}: stress without cell: expected both or none")


@contract
class BeadGraph:
    """One or many frames side by side in one flat graph; the argument of every energy.

    positions                           [n_beads, 3] float32 or float64, angstrom
    species, residue_index, chain_index [n_beads] int32
    frame                               [n_beads] int32, the frame a bead belongs to; beads of padding belong to the last frame
    bead_mask                           [n_beads] bool, False for padding
    senders, receivers                  [n_edges] int32; an edge carries information from its sender to its receiver, every
                                        pair within the cutoff appears once in each direction
    edge_mask                           [n_edges] bool
    shifts                              [n_edges, 3] angstrom or None; an edge vector is
                                        positions[receivers] - positions[senders] + shifts
    bonds, angles, dihedrals            [n, 2], [n, 3], [n, 4] int32 bead indices, consecutive along a segment
    bond_mask, angle_mask, dihedral_mask [n] bool

    Indices of padding point at a valid bead (index 0 or the last) and are masked; nothing may be read from them.
    """

    positions: Array
    species: Array
    residue_index: Array
    chain_index: Array
    frame: Array
    bead_mask: Array
    senders: Array
    receivers: Array
    edge_mask: Array
    bonds: Array
    bond_mask: Array
    angles: Array
    angle_mask: Array
    dihedrals: Array
    dihedral_mask: Array
    shifts: Array = None

    @property
    def n_beads(self) -> int:
        """Number of beads, padding included."""
        # Not int(...): under a shape-polymorphic export this is a symbolic size.
        n_beads: int = self.positions.shape[0]
        return n_beads

    def check(self, where: str) -> "BeadGraph":
        """Return self if shapes, dtypes and index ranges hold; raise `UserError` naming `where` otherwise."""
        _check_shape(self.positions, (None, 3), np.floating, f"{where}: positions")
        n_beads = self.positions.shape[0]
        for name in ("species", "residue_index", "chain_index", "frame"):
            _check_shape(getattr(self, name), (n_beads,), np.int32, f"{where}: {name}")
        _check_shape(self.bead_mask, (n_beads,), np.bool_, f"{where}: bead_mask")
        n_edges = self.senders.shape[0]
        for name in ("senders", "receivers"):
            _check_shape(getattr(self, name), (n_edges,), np.int32, f"{where}: {name}")
            _check_range(getattr(self, name), n_beads, f"{where}: {name}")
        _check_shape(self.edge_mask, (n_edges,), np.bool_, f"{where}: edge_mask")
        if self.shifts is not None:
            _check_shape(self.shifts, (n_edges, 3), np.floating, f"{where}: shifts")
        for name, mask, width in (
            ("bonds", "bond_mask", 2),
            ("angles", "angle_mask", 3),
            ("dihedrals", "dihedral_mask", 4),
        ):
            tuples = getattr(self, name)
            _check_shape(tuples, (None, width), np.int32, f"{where}: {name}")
            _check_range(tuples, n_beads, f"{where}: {name}")
            _check_shape(getattr(self, mask), (tuples.shape[0],), np.bool_, f"{where}: {mask}")
        return self


class EnergyFn(Protocol):
    """`(params, graph) -> [n_beads]` per-bead energies in kcal/mol; zero for padding."""

    def __call__(self, params: Params, graph: BeadGraph) -> Array:
        """Return per-bead energies."""
        ...


def check_numbers(values: Array, name: str, where: str, first_frame: int = 0) -> None:
    """Raise `UserError` naming `where` and the frame where numbers of a field [n_frames, ...] of `BeadFrames` are not what they may be.

    first_frame: the number of the first of these frames.
    """
    frame = first_not_finite(values)
    if frame is not None:
        raise UserError(f"{where}: {name} must be finite; frame {first_frame + frame} is not: remove it and prepare again")
    if name == "force_error" and not (np.asarray(values) >= 0).all():
        raise UserError(f"{where}: force_error must not be negative; smallest is {np.min(values)}")


def _check_shape(array: Array, shape: tuple[int | None, ...], dtype: type, where: str) -> None:
    actual = tuple(getattr(array, "shape", ()))
    if len(actual) != len(shape) or any(want is not None and want != got for want, got in zip(shape, actual, strict=True)):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise UserError(f"{where}: expected shape [{wanted}], received {list(actual)}: prepare the data again")
    if not np.issubdtype(array.dtype, dtype):
        raise UserError(f"{where}: expected {np.dtype(dtype).name if dtype is not np.floating else 'floating'}, received {array.dtype}")


def _check_range(indices: Array, n_beads: int, where: str) -> None:
    values = np.asarray(indices)
    if values.size and (values.min() < 0 or values.max() >= n_beads):
        raise UserError(f"{where}: bead indices must lie in [0, {n_beads}), received {values.min()} to {values.max()}")
