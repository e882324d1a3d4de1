"""Devices and processes: the mesh, checks at start, arrays from the host to the devices and back."""

import contextlib
import logging
import os
import re
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax._src.distributed import global_state  # no public way to the coordinator's store
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cg_data.errors import UserError, require
from cg_train.loader import Sharding

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15
"""A process that is silent for so long counts as dead, and the others end."""
CONNECT_SECONDS = 300
FAREWELL_SECONDS = 3
"""How long the first process, having failed, leaves the others to end by themselves."""
AXIS = "data"
BATCH_SPEC = PartitionSpec(None, AXIS)


@dataclass(frozen=True)
class Processes:
    """The processes of a run: the address where the first listens, how many there are, which one this is."""

    coordinator: str
    count: int
    index: int


def slurm_processes(environment: Mapping[str, str] = os.environ) -> Processes | None:
    """Return the processes of a SLURM step of several tasks, one per node; None elsewhere.

    The first node of the step is the coordinator, at port 29400 + job id modulo 1000; JAX_COORDINATOR_ADDRESS takes precedence.
    """
    count = int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1")))
    if "SLURM_PROCID" not in environment or count == 1:
        return None
    port = 29400 + int(environment.get("SLURM_JOB_ID", "0")) % 1000
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "localhost"))
    address = environment.get("JAX_COORDINATOR_ADDRESS", f"{first_node(nodes)}:{port}")
    return Processes(address, count, int(environment["SLURM_PROCID"]))


def first_node(nodes: str) -> str:
    """Return the first name of a SLURM node list such as `jwb[0012-0015,0101],login1`."""
    name, bracket, rest = nodes.partition("[")
    if not bracket or "," in name:
        return nodes.split(",")[0]
    inside, _, suffix = rest.partition("]")
    return name + re.split("[-,]", inside)[0] + suffix.split(",")[0]


def connect(processes: Processes) -> None:
    """Join the other processes; must come before JAX is used.

    From here on an exception that nobody catches ends this process at once with its traceback and place, and the others after
    `HEARTBEAT_SECONDS`, instead of leaving them waiting. Raises `UserError` where the coordinator's port is taken, and where its
    address is none or its host not known here, for which JAX would wait minutes.
    """
    _check_address(processes.coordinator)
    if processes.index == 0:
        _probe(processes.coordinator)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("SLURM_GPUS_ON_NODE")
    n_gpus = None if not gpus else int(gpus) if gpus.isdigit() and "CUDA_VISIBLE_DEVICES" not in os.environ else len(gpus.split(","))
    jax.distributed.initialize(
        coordinator_address=processes.coordinator,
        num_processes=processes.count,
        process_id=processes.index,
        # Of several devices on a node, JAX would take the one numbered by the local task.
        local_device_ids=None if n_gpus is None else list(range(n_gpus)),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        initialization_timeout=CONNECT_SECONDS,
    )


def end_all(error: BaseException, exit_code: int) -> None:
    """Print an error with this process's place and end at once, without waiting for the others at exit."""
    place = f"[process {jax.process_index()} of {jax.process_count()} on {_host()}]"
    lines = [f"error: {' '.join(str(error).split())}"] if isinstance(error, UserError) else traceback.format_exception(error)
    sys.stderr.write("".join(f"{place} {line}\n" for line in "".join(lines).splitlines()))
    sys.stderr.flush()
    if jax.process_index() == 0 and jax.process_count() > 1:
        # The first takes the coordinator with it, at whose loss JAX aborts the others: an error that all found ends all by its code.
        time.sleep(FAREWELL_SECONDS)
    os._exit(exit_code)


def synchronise(name: str) -> None:
    """Return when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process; all must call it together."""
    if jax.process_count() == 1:
        return flag
    return bool(np.asarray(multihost_utils.process_allgather(np.asarray([flag]))).any())


def from_first(tree: Any) -> Any:
    """Return the first process's host arrays in every process."""
    return tree if jax.process_count() == 1 else jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


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
    counts = Counter(device.process_index for device in found)
    if len(set(counts.values())) > 1:
        hosts = _hosts()
        listed = ", ".join(f"{hosts[process]}: {n}" for process, n in sorted(counts.items()))
        raise UserError(f"devices: every process needs as many, JAX found {listed}: check the short one's driver and allocation")
    chosen: list[Any] = []
    for process in range(jax.process_count()):
        of_process = sorted((device for device in found if device.process_index == process), key=lambda device: device.id)
        n = len(of_process) if devices is None else devices
        require(
            n <= len(of_process),
            f"devices: expected {devices} in process {process}, JAX found {len(of_process)}: ask for fewer or allocate more",
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
    """Return NumPy copies of arrays that are replicated, or whole on this host; they stay valid when device buffers are donated."""

    def copy(array: Any) -> np.ndarray:
        spread = isinstance(array, jax.Array) and array.is_fully_replicated
        return np.array(array.addressable_data(0) if spread else array, copy=True)

    return jax.tree.map(copy, tree)


def describe(mesh: Mesh) -> str:
    """Return one line about where the run takes place."""
    kinds: Sequence[str] = sorted({device.device_kind for device in mesh.devices})
    return f"{mesh.devices.size} device(s) ({', '.join(kinds)}), {jax.process_count()} process(es), jax {jax.__version__}, host {_host()}"


def _hosts() -> list[str]:
    """Return the host name of each process; through the coordinator, since collectives need the equal devices that are missed here."""
    client = global_state.client
    if client is None:
        return [_host()]
    client.key_value_set(f"cg_train/host/{jax.process_index()}", _host(), allow_overwrite=True)
    patience = 1000 * HEARTBEAT_SECONDS
    names = [client.blocking_key_value_get(f"cg_train/host/{index}", patience) for index in range(jax.process_count())]
    # Whoever is done ends, and the first takes the store with it: not before all have read.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.wait_at_barrier("cg_train hosts known", patience)
    return names


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    require(bool(host) and port.isdigit(), f"coordinator: expected HOST:PORT, received {address!r}")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"coordinator: {_host()} does not know the host {host!r} ({getattr(error, 'strerror', None) or error}): "
            "set JAX_COORDINATOR_ADDRESS=HOST:PORT, or --coordinator, to an address that all nodes see"
        ) from None


def _probe(address: str) -> None:
    port = address.rpartition(":")[2]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", int(port)))
        except OSError as error:
            raise UserError(
                f"coordinator: port {port} on {_host()} cannot be used ({error.strerror}): "
                "set JAX_COORDINATOR_ADDRESS=HOST:PORT to a free one"
            ) from None


def _host() -> str:
    return socket.gethostname()
