"""How many trials a cluster holds at once: so many, and no more, that each finds room for all of its workers."""

from collections.abc import Sequence

import ray

from jasper_ray.cluster.room import worker_resources, workers_that_fit
from jasper_ray.config.schema import ClusterConfig

DRIVER_RESOURCES = {"memory": 256 * 1024**2}
"""What the process that looks after a trial of several workers asks for. No CPU: where workers want all of them it
would take the last one, and sweep and trial would wait for each other for ever."""


def trial_resources(config: ClusterConfig) -> dict[str, float]:
    """What the process of each trial asks for: it is the trial's worker itself where there is one only."""
    if config.min_workers > 1:
        return dict(DRIVER_RESOURCES)
    return worker_resources(config)


def trials_at_once(nodes: Sequence[dict[str, float]], config: ClusterConfig) -> int:
    """How many trials fit on these nodes side by side.

    Args:
        nodes: Resources of each node.
        config: What each trial asks for.
    """
    rooms = [workers_that_fit(resources, config) for resources in nodes]
    wanted = config.min_workers
    if config.placement == "STRICT_PACK":
        return sum(room // wanted for room in rooms)
    if config.placement == "STRICT_SPREAD":
        count = sum(rooms) // wanted
        while count and sum(min(room, count) for room in rooms) < count * wanted:
            count -= 1
        return count
    return sum(rooms) // wanted


def room_on_the_cluster(config: ClusterConfig) -> int:
    """How many trials the connected cluster holds now, with the nodes that are alive."""
    return trials_at_once([node["Resources"] for node in ray.nodes() if node["Alive"]], config)
