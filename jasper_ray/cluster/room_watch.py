"""Ends a run that its cluster can no longer hold, instead of letting it wait for ever."""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from ray.exceptions import RayError

from jasper_ray.cluster.room import missing_room
from jasper_ray.config.schema import ClusterConfig
from jasper_ray.errors import CapacityError

logger = logging.getLogger(__name__)

LOOK_S = 2.0
PATIENCE_S = 30.0
"""How long a run may be without room before it is ended, unless `cluster.wait_for_nodes_s` is longer."""
NUM_ENDINGS, AGAIN_S = 3, 3.0
"""While it waits for nodes Ray Train's controller (2.60) hears no request to end; its third one ends the driver."""


class RoomWatch:
    """Asks, as long as the block lasts, whether the nodes can hold the fewest workers of a run.

    Args:
        config: What the run asks of the cluster.
        end_run: Called, by the watch's own thread, when there has been no room for too long; up to `NUM_ENDINGS` times,
            as long as the block goes on.
        look: What is missing, in words; None if nothing is.
        look_s: How often it is asked.
        patience_s: How long it waits, unless `wait_for_nodes_s` is longer.
        again_s: Between two calls of `end_run`.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        end_run: Callable[[], None],
        look: Callable[[ClusterConfig], str | None] = missing_room,
        look_s: float = LOOK_S,
        patience_s: float = PATIENCE_S,
        again_s: float = AGAIN_S,
    ) -> None:
        self._config, self._end_run, self._look, self._look_s = config, end_run, look, look_s
        self._patience_s, self._again_s = max(patience_s, config.wait_for_nodes_s), again_s
        self._reason: CapacityError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="room-watch", daemon=True)

    def __enter__(self) -> "RoomWatch":
        # Only a main thread hears the signal that ends a run. A trial of Ray Tune is in another one: there Ray Train's
        # own limit, twice `cluster.startup_timeout_s`, ends it.
        if threading.current_thread() is threading.main_thread():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def still_room(self) -> None:
        """Nothing, as long as the run was not ended for lack of it.

        Raises:
            CapacityError: It was; says what is missing.
        """
        if self._reason is not None:
            raise self._reason

    def _run(self) -> None:
        since_s: float | None = None
        while not self._stopped.wait(self._look_s):
            try:
                missing = self._look(self._config)
            except RayError as error:  # nothing is known of the nodes: nothing is concluded
                logger.warning("the cluster does not say which nodes it has: %s", error)
                continue
            if missing is None:
                since_s = None
                continue
            if since_s is None:
                since_s = time.monotonic()
                logger.warning("nodes were lost; waiting %.0f s for others: %s", self._patience_s, missing)
            if time.monotonic() - since_s >= self._patience_s:
                self._reason = CapacityError(f"nodes were lost and none came in {self._patience_s:.0f} s: {missing}")
                self._end()
                return

    def _end(self) -> None:
        for _ in range(NUM_ENDINGS):
            self._end_run()
            if self._stopped.wait(self._again_s):
                return
