"""A private SLURM cluster of virtual nodes on this machine, for tests: no root, no systemd, no cgroups, gone afterwards.

One munged with its own key and socket, one slurmctld, one slurmd per node, all on free ports of the loopback address. It runs real jobs:
srun, sbatch, arrays, signals, requeue; `sacct` it has not. Node names (`n1`, `n2`, ...) do not resolve, so a program that looks the first
node up needs its address by other means (for JAX: `JAX_COORDINATOR_ADDRESS=127.0.0.1:PORT`).
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .workspace import run

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scontrol", "squeue", "scancel")
DAEMON_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

# cred_expire: otherwise a requeued job waits two minutes. linuxproc, task/none: no cgroups needed.
CONFIGURATION = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
MinJobAge=600
KillWait=3
InactiveLimit=0
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs={cpus} RealMemory=8000 State=UNKNOWN
"""


def missing_programs() -> list[str]:
    """Return the programs of SLURM and munge that this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name, path=DAEMON_PATH)]


@dataclass(frozen=True)
class VirtualSlurm:
    """A running cluster."""

    folder: Path
    n_nodes: int

    @property
    def environment(self) -> dict[str, str]:
        """Return what a client needs in its environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": DAEMON_PATH}

    def resume(self, node: str) -> None:
        """Bring back a node that was taken down, unless its daemon's registration already has (ReturnToService=2)."""
        try:
            self.client("scontrol", "update", f"nodename={node}", "state=resume")
        except AssertionError:
            if "DOWN" in self.client("scontrol", "show", "node", node):
                raise

    def client(self, *command: str | Path, environment: Mapping[str, str] | None = None, timeout: float = 60) -> str:
        """Run a SLURM client (`sbatch`, `srun`, `scontrol`, ...) to its end and return its output."""
        return run(command, environment={**self.environment, **(environment or {})}, timeout=timeout).stdout

    def submit(
        self, script: Path, *arguments: str | Path, options: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
    ) -> str:
        """Submit a batch script and return the job's number."""
        return self.client("sbatch", "--parsable", *options, script, *arguments, environment=environment).strip().split(";")[0]

    def state(self, job: str) -> dict[str, str]:
        """Return the states of a job's tasks by their number (`12`, or `12_0`, `12_1` in an array): RUNNING, COMPLETED, ..."""
        return self._tasks(job, "%T")

    def nodes(self, job: str) -> dict[str, str]:
        """Return the nodes of a job's tasks by their number, as `state` does: n1, n2, ..."""
        return self._tasks(job, "%N")

    def _tasks(self, job: str, field: str) -> dict[str, str]:
        rows = self.client("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", f"--format=%i {field}").splitlines()
        return dict(row.split() for row in rows)

    def wait(self, job: str, timeout: float = 60) -> dict[str, str]:
        """Wait until no task of a job is pending, running or ending, and return their states."""
        unfinished = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED"}

        def ended() -> bool:
            return not unfinished & set(self.state(job).values())

        wait_until(ended, timeout, lambda: f"job {job} is not done: {self.state(job)}\n{self.client('scontrol', 'show', 'job', job)}")
        return self.state(job)


def wait_until(reached: Callable[[], bool], timeout: float, describe: Callable[[], str]) -> None:
    """Wait until `reached`; raise `TimeoutError` with a description after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(describe())
        time.sleep(0.1)


def free_ports(number: int) -> list[int]:
    """Return ports of the loopback address that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def virtual_slurm(folder: Path, n_nodes: int = 2, cpus: int = 2) -> Iterator[VirtualSlurm]:
    """Start a cluster in an empty `folder` (a short path: a socket stands in it), and stop exactly its daemons at the end."""
    cluster = VirtualSlurm(folder, n_nodes)
    for name in ("munge", "state", "log", "spool"):
        (folder / name).mkdir(mode=0o700)
    write_configuration(cluster, cpus)
    try:
        start_daemons(cluster)
        yield cluster
    finally:
        stop_daemons(cluster)


def write_configuration(cluster: VirtualSlurm, cpus: int) -> None:
    """Write the cluster's slurm.conf and munge key."""
    host = socket.gethostname().split(".")[0]
    port, *node_ports = free_ports(cluster.n_nodes + 1)
    text = CONFIGURATION.format(host=host, port=port, user=getpass.getuser(), folder=cluster.folder, cpus=cpus)
    for index, node_port in enumerate(node_ports, start=1):
        text += f"NodeName=n{index} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port}\n"
    text += f"PartitionName=main Nodes=n[1-{cluster.n_nodes}] Default=YES MaxTime=INFINITE State=UP\n"
    (cluster.folder / "slurm.conf").write_text(text)
    key = cluster.folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)


def start_daemons(cluster: VirtualSlurm) -> None:
    """Start munged, slurmctld and the nodes, and wait until all nodes are idle."""
    munge, configuration = cluster.folder / "munge", cluster.folder / "slurm.conf"
    files = [
        f"--{name}={munge / file}" for name, file in (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"))
    ]
    daemon(cluster, "munged", *files, f"--seed-file={munge / 'seed'}", "--force")
    daemon(cluster, "slurmctld", "-c", "-f", configuration)
    for index in range(1, cluster.n_nodes + 1):
        daemon(cluster, "slurmd", "-N", f"n{index}", "-f", configuration)

    def nodes_are_idle() -> bool:
        listing = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--states=idle"],
            env={**os.environ, **cluster.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return len(listing.stdout.splitlines()) == cluster.n_nodes

    wait_until(nodes_are_idle, 20, lambda: f"the cluster did not start: {(cluster.folder / 'log' / 'slurmctld.log').read_text()[-2000:]}")


def daemon(cluster: VirtualSlurm, *command: str | Path) -> None:
    """Start a program that puts itself into the background; its descriptors are not ours to wait on."""
    environment = {**os.environ, **cluster.environment}
    start = cluster.folder / "log" / "start"
    with open(start, "a") as log:
        done = subprocess.run([str(part) for part in command], env=environment, stdout=log, stderr=log, check=False, timeout=30)
    if done.returncode != 0:
        logs = [path.read_text()[-2000:] for path in sorted((cluster.folder / "log").iterdir())]
        raise RuntimeError(f"{command[0]} ended with {done.returncode}\n" + "\n".join(logs))


def stop_daemons(cluster: VirtualSlurm) -> None:
    """End the jobs and the daemons, by the process numbers that they wrote, and wait until they are gone."""
    environment = {**os.environ, **cluster.environment}
    subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=environment, capture_output=True, check=False, timeout=30)
    files = [*cluster.folder.glob("slurmd-*.pid"), cluster.folder / "slurmctld.pid", cluster.folder / "munge" / "pid"]
    processes = [int(path.read_text()) for path in files if path.is_file()]
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for process in filter(is_alive, processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, sent)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not any(map(is_alive, processes)), 10, lambda: "still alive")
            return


def is_alive(process: int) -> bool:
    """Return whether a process runs (one that has ended and waits for its parent does not)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
