"""After a failure Ray Train asks who is left: the answer must not be one from before the failure."""

import logging
from collections.abc import Callable
from typing import Any

import ray
from ray.train import UserCallback

ANSWER_S = 5.0

log = logging.getLogger(__name__)


class ForgetLostNodes(UserCallback):  # type: ignore[misc]
    """Has Ray look at its nodes anew before an elastic run decides with how many workers it starts again.

    Ray 2.60 looks every 20 s. Until then a run that has lost a node starts with a worker for that node, and waits for
    it until `cluster.startup_timeout_s`. Runs in Ray Train's controller.

    Args:
        look_anew: How; by default Ray's own coordinator is told to.
    """

    def __init__(self, look_anew: Callable[[], None] | None = None) -> None:
        self._look_anew = look_anew or look_at_nodes_anew

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Called with every failure of the workers."""
        try:
            self._look_anew()
        except Exception as error:  # it costs the run a wait, as without this
            log.warning("Ray's coordinator of resources does not answer (%s): lost nodes may be waited for", error)


def look_at_nodes_anew() -> None:
    """Have Ray's coordinator of resources leave out nodes that are known to be dead."""
    # Not public: there is no other way to it in Ray 2.60, and without it there is only the wait.
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    coordinator: Any = get_or_create_autoscaling_coordinator()
    ray.get(coordinator.get_reserved_resources.remote("", recompute=True), timeout=ANSWER_S)
