"""A Ray cluster whose nodes are processes of this machine, for tests that lose some of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.cluster_utils import Cluster

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
"""What each node has but the head, and one that is added later."""


@contextmanager
def local_nodes(count: int, *, head_cpus: int) -> Iterator[Cluster]:
    """A head and so many nodes of one CPU each; this process is connected."""
    head = {**NODE, "num_cpus": head_cpus, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(count):
        cluster.add_node(**NODE)
    ray.init(address=cluster.address, logging_level="WARNING")
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
