"""Work handed out to all nodes as Ray tasks: how many at a time, what survives, which errors come back as they were."""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import ray
from ray.exceptions import RayTaskError

from jasper_ray.cluster.room import wait_for_room
from jasper_ray.errors import JasperRayError

Item = TypeVar("Item")
Result = TypeVar("Result")

TASKS_PER_ROOM = 2
"""Tasks handed out ahead of time, so that no core waits for the driver."""
MAX_RETRIES = 20
"""Deaths of workers and nodes that one task survives; errors of its own are not tried again."""


class HandingOut(Generic[Item, Result]):
    """Calls a function on all nodes.

    Args:
        function: What is called. A process that has run a task runs the next one too, so a model that it keeps is
            loaded once.
        name: As Ray shows its tasks.
        what: The same in a sentence, with its article: `a shard`.
        num_cpus: CPUs that a call holds.
        num_gpus: GPUs that a call holds.
        wait_for_nodes_s: How long to wait for an autoscaler to add the first node that can hold a call.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        *,
        name: str,
        what: str,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        wait_for_nodes_s: float = 0.0,
    ) -> None:
        self._needs = {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {})}
        self._what = what
        self._wait_for_nodes_s = wait_for_nodes_s
        self._function = function
        # GPUs by `options`: in `ray.remote` they would end a process after each task, and its model with it.
        self._call = ray.remote(_call).options(name=name, max_retries=MAX_RETRIES, num_cpus=num_cpus, num_gpus=num_gpus)

    def __call__(self, items: Iterable[Item]) -> Iterator[Result]:
        """Results in any order, taken in as they come; items are asked for as there is room.

        Raises:
            CapacityError: No node has what a call holds.
            JasperRayError: A call's own error, as it was raised; calls under way are given up.
        """
        wait_for_room(self._missing_room, wait_s=self._wait_for_nodes_s, bundles=[self._needs])
        pending: list[ray.ObjectRef] = []
        try:
            for item in items:
                while len(pending) >= self._num_ahead():
                    yield self._next(pending)
                pending.append(self._call.remote(self._function, item))
            while pending:
                yield self._next(pending)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def _missing_room(self) -> str | None:
        """What a call asks for that no node has; None if one has it."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(self._fitting(node) >= 1 for node in nodes):
            return None
        asked = " and ".join(f"{amount:g} {kind}s" for kind, amount in self._needs.items())
        have = ", ".join(" and ".join(f"{node.get(kind, 0):g}" for kind in self._needs) for node in nodes) or "none"
        return f"{self._what} asks for {asked}, the cluster's nodes have {have}. Ask for fewer threads, or add nodes"

    def _fitting(self, resources: dict[str, float]) -> float:
        return min(resources.get(kind, 0) / amount for kind, amount in self._needs.items())

    def _num_ahead(self) -> int:
        """Grows and shrinks with the cluster."""
        return max(2, int(self._fitting(ray.cluster_resources()) * TASKS_PER_ROOM))

    def _next(self, pending: list[ray.ObjectRef]) -> Result:
        (done,), pending[:] = ray.wait(pending, num_returns=1)
        try:
            result: Result = ray.get(done)
        except RayTaskError as error:
            if isinstance(error.cause, JasperRayError):
                raise error.cause from None
            raise
        return result


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)
