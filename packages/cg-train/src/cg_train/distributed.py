"""Devices and processes: the mesh, checks at start, arrays from the host to the devices and back."""

import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cg_data.errors import UserError, require
from cg_train.loader import Sharding

logger = logging.getLogger(__name__)

AXIS = "data"
BATCH_SPEC = PartitionSpec(None, AXIS)


def make_mesh(platform: str | None, devices: int | None) -> Mesh:
    """Return the mesh over which batches are spread: `devices` (or all) of every process, in order of process.

    Raises `UserError` where JAX does not run on `platform`, where there are too few devices, or where processes differ.
    """
    found = jax.devices()
    actual = found[0].platform
    require(
        platform is None or platform == actual,
        f"platform: expected {platform}, JAX found only {actual} on host {_host()}: install the extra for it (cuda12, cuda13), "
        "check JAX_PLATFORMS and the driver, or remove platform from the configuration",
    )
    chosen: list[Any] = []
    for process in range(jax.process_count()):
        of_process = sorted((device for device in found if device.process_index == process), key=lambda device: device.id)
        n = len(of_process) if devices is None else devices
        if not 0 < n <= len(of_process):
            raise UserError(
                f"devices: expected {devices} devices in process {process}, JAX found {len(of_process)}: ask for fewer or allocate more"
            )
        chosen.extend(of_process[:n])
    return Mesh(np.array(chosen), (AXIS,))


def sharding_of(mesh: Mesh, n_parts: int) -> Sharding:
    """Return how batches are divided over a mesh."""
    local = [place for place, device in enumerate(mesh.devices) if device.process_index == jax.process_index()]
    return Sharding(n_parts=n_parts, n_devices=mesh.devices.size, local=range(local[0], local[-1] + 1))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Return a batch, of which this process built its devices' part, on the devices."""
    return jax.tree.map(lambda local: jax.make_array_from_process_local_data(NamedSharding(mesh, BATCH_SPEC), local), batch)


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Return a tree of equal host arrays on every device."""
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def to_host(tree: Any) -> Any:
    """Return NumPy copies of replicated arrays, which stay valid when the device buffers are donated."""
    return jax.tree.map(lambda array: np.array(array.addressable_data(0), copy=True), tree)


def describe(mesh: Mesh) -> str:
    """Return one line about where the run takes place."""
    kinds: Sequence[str] = sorted({device.device_kind for device in mesh.devices})
    return f"{mesh.devices.size} device(s) ({', '.join(kinds)}), {jax.process_count()} process(es), jax {jax.__version__}, host {_host()}"


def _host() -> str:
    import socket

    return socket.gethostname()
