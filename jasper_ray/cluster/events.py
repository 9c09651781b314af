"""How events travel from the workers to the terminal of whoever started the job."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jasper_ray.training.report import EventKind, Reporter

POLL_S = 0.5


class EventBoard:
    """Holds events until the driver fetches them; it survives restarts of the workers."""

    def __init__(self) -> None:
        self._events: list[tuple[EventKind, dict[str, Any]]] = []

    def push(self, kind: EventKind, values: dict[str, Any]) -> None:
        """Take an event."""
        self._events.append((kind, values))

    def drain(self) -> list[tuple[EventKind, dict[str, Any]]]:
        """Hand over all events since the last call."""
        events, self._events = self._events, []
        return events


class BoardReporter:
    """Sends a worker's events to the board without waiting."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event."""
        self._board.push.remote(kind, dict(values))


@contextmanager
def shown_on(reporter: Reporter) -> Iterator[Any]:
    """A board whose events are passed to `reporter` in this process until the block ends."""
    # Beside the driver: on a node that dies it would take the run's events, and the run, with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(EventBoard).remote()
    stopped = threading.Event()

    def pump() -> None:
        while not stopped.wait(POLL_S):
            _pass_on(board, reporter)

    thread = threading.Thread(target=pump, name="event-board", daemon=True)
    thread.start()
    try:
        yield board
    finally:
        stopped.set()
        thread.join()
        _pass_on(board, reporter)
        ray.kill(board)


def _pass_on(board: Any, reporter: Reporter) -> None:
    for kind, values in ray.get(board.drain.remote()):
        reporter.report(kind, values)
