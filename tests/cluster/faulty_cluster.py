"""A Ray cluster of four nodes on this machine with ten real faults in it."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

REPOSITORY = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class FaultyCluster:
    """What the examination is told; the names of the faulty nodes."""

    full_disk: Path
    small_memory: Path
    closed_port: int
    node_ids: dict[str, str]


@contextlib.contextmanager
def faulty_cluster(folder: Path) -> Iterator[FaultyCluster]:
    """Start it in `folder`, with the environment's object store; needs root for its small disks and its firewall."""
    with contextlib.ExitStack() as stack:
        full_disk = stack.enter_context(_disk(folder / "full", megabytes=4))
        (full_disk / "data").write_bytes(bytes(3 * 2**20))
        small_memory = stack.enter_context(_disk(folder / "shm", megabytes=8))
        closed_port = _free_port()
        stack.enter_context(_blocked(closed_port))
        nodes = {
            "old": {"env_vars": _old(folder)},
            "stranger": {"env_vars": {"AWS_SECRET_ACCESS_KEY": "wrong"}, "num_gpus": 1},
            "lost": {
                "env_vars": {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{_free_port()}"},
                "dashboard_agent_listen_port": closed_port,
            },
        }
        cluster = Cluster()
        stack.callback(cluster.shutdown)
        head = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
        cluster.add_node(num_cpus=1, object_store_memory=80_000_000, **_agent_ports() | head)
        ids = {
            name: cluster.add_node(num_cpus=1, object_store_memory=80_000_000, **_agent_ports() | settings).node_id
            for name, settings in nodes.items()
        }
        # Elsewhere than in the repository: Ray puts the driver's folder before all others on every node's path.
        with contextlib.chdir(folder):
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        stack.callback(ray.shutdown)
        yield FaultyCluster(full_disk, small_memory, closed_port, ids)


def _agent_ports() -> dict[str, Any]:
    """Known ahead, so that a raylet waits for less of its agents: it ends if they take more than 15 s to start."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    return {name: _free_port() for name in names}


def _old(folder: Path) -> dict[str, str]:
    """Another torch, another copy of our code and, for its Python processes, a clock that is five minutes ahead."""
    site = folder / "site"
    shutil.copytree(REPOSITORY / "jasper_ray", site / "jasper_ray", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "jasper_ray" / "errors.py").open("a").write("# changed on this node only\n")
    record = site / "torch-2.11.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0\n")
    (site / "sitecustomize.py").write_text("import time\n_now = time.time\ntime.time = lambda: _now() + 300\n")
    return {"PYTHONPATH": str(site)}


@contextlib.contextmanager
def _disk(folder: Path, *, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def _blocked(port: int) -> Iterator[None]:
    rule = ["INPUT", "-p", "tcp", "--dport", str(port), "-j", "REJECT", "--reject-with", "tcp-reset"]
    subprocess.run(["iptables", "-I", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run(["iptables", "-D", *rule], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing() -> str:
    """What this machine lacks for it; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root for small disks and a firewall rule"
    return "" if shutil.which("iptables") else "needs iptables"
