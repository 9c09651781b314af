"""How many workers a cluster's nodes can hold."""

import math
import time
from collections.abc import Callable, Mapping

import ray
from ray.autoscaler.sdk import request_resources

from jasper_ray.config.schema import ClusterConfig
from jasper_ray.errors import CapacityError

POLL_S = 1.0


def require_capacity(config: ClusterConfig) -> None:
    """Compare what a run asks with what the cluster's nodes have, instead of waiting for ever.

    Raises:
        CapacityError: Says what was asked for, what each node has, and what to do.
    """
    wait_for_room(
        lambda: missing_room(config),
        wait_s=config.wait_for_nodes_s,
        bundles=[worker_resources(config)] * config.min_workers,
    )


def wait_for_room(missing_room: Callable[[], str | None], *, wait_s: float, bundles: list[Mapping[str, float]]) -> None:
    """Until nothing is missing any more.

    Args:
        missing_room: What is missing, in words; None if nothing is.
        wait_s: How long to wait for an autoscaler; 0 does not wait.
        bundles: What it is asked for, in Ray's names.

    Raises:
        CapacityError: It is still missing.
    """
    deadline_s = time.monotonic() + wait_s
    missing = missing_room()
    if missing is None:
        return
    # An autoscaler adds nodes for what somebody asks for, and so far nobody has.
    if wait_s > 0:
        request_resources(bundles=bundles)
    try:
        while missing is not None:
            if time.monotonic() >= deadline_s:
                raise CapacityError(missing)
            time.sleep(POLL_S)
            missing = missing_room()
    finally:
        if wait_s > 0:
            request_resources(bundles=[])


def worker_resources(config: ClusterConfig) -> dict[str, float]:
    """What each worker of a run holds, in Ray's names."""
    return {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if config.use_gpu else {})}


def missing_room(config: ClusterConfig) -> str | None:
    """What is missing for the fewest workers that a run asks for, and what to do; None if there is room."""
    fitting, have = cluster_room(config)
    if fitting >= config.min_workers:
        return None
    asked = f"{config.min_workers}" if config.min_workers == config.max_workers else f"at least {config.min_workers}"
    per_worker = f"{config.cpus_per_worker:g} CPU" + (" and 1 GPU" if config.use_gpu else "")
    return (
        f"the run asks for {asked} workers of {per_worker} each, the cluster holds {fitting} of them "
        f"(nodes: {have}). Lower cluster.num_workers or cluster.cpus_per_worker, add nodes, "
        "or let an autoscaler add them with cluster.wait_for_nodes_s"
    )


def cluster_room(config: ClusterConfig) -> tuple[int, str]:
    """How many workers the connected cluster's nodes can hold, and what each node has, in words."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have = "; ".join(f"{r.get('CPU', 0):g} CPU, {r.get('GPU', 0):g} GPU" for r in nodes) or "no node"
    rooms = [workers_that_fit(resources, config) for resources in nodes]
    if config.placement == "STRICT_SPREAD":
        return sum(room > 0 for room in rooms), have
    return max(rooms, default=0) if config.placement == "STRICT_PACK" else sum(rooms), have


def workers_that_fit(resources: dict[str, float], config: ClusterConfig) -> int:
    """How many workers one node can hold."""
    by_cpu = math.floor(resources.get("CPU", 0.0) / config.cpus_per_worker + 1e-9)
    return min(by_cpu, int(resources.get("GPU", 0.0))) if config.use_gpu else by_cpu
