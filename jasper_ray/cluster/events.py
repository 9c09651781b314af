"""How events travel from the workers to the terminal of whoever started the job."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jasper_ray.cluster.standstill import Beat, describe, held_up_by
from jasper_ray.training.report import EventKind, Reporter

POLL_S = 0.5
WARNED_S = 30.0
"""A worker that holds up the others for so long is named."""
JUDGED_EVERY_S = 0.5


class EventBoard:
    """Holds events until the driver fetches them, and knows where each worker stands; it survives their restarts.

    Args:
        ended_s: A worker that holds up the others for so long is told to end itself.
    """

    def __init__(self, *, ended_s: float) -> None:
        self._events: list[tuple[EventKind, dict[str, Any]]] = []
        self._ended_s = ended_s
        self._last_step = 0
        self._group = ""
        self._beats: dict[int, Beat] = {}
        self._hung: list[int] = []
        self._told: list[tuple[str, list[int]]] = []
        self._judged_s = -JUDGED_EVERY_S

    def push(self, kind: EventKind, values: dict[str, Any]) -> None:
        """Take an event."""
        self._last_step = values.get("global_step", self._last_step)
        self._events.append((kind, values))

    def beat(self, group: str, rank: int, beat: Beat) -> bool:
        """Take what a worker says of itself; returns whether it is to end itself, since the others wait for it."""
        if group != self._group:
            self._group, self._beats, self._hung, self._told = group, {}, [], []
        self._beats[rank] = beat
        if time.monotonic() - self._judged_s > JUDGED_EVERY_S:
            self._judge()
        return rank in self._hung

    def leave(self, group: str, rank: int) -> None:
        """A worker is done."""
        if group == self._group:
            self._beats.pop(rank, None)

    def _judge(self) -> None:
        self._judged_s = time.monotonic()
        self._hung = held_up_by(self._beats, after_s=self._ended_s)
        slow = held_up_by(self._beats, after_s=min(WARNED_S, self._ended_s / 2))
        if self._hung:
            self._tell("ended, to start again from the last checkpoint: ", self._hung)
        elif slow:
            self._tell("", slow)
        else:
            self._told = []

    def _tell(self, what: str, ranks: list[int]) -> None:
        if (what, ranks) not in self._told:
            self._told.append((what, ranks))
            message = f"{what}{describe(self._beats, ranks)}"
            self.push("warning", {"global_step": self._last_step, "message": message, "utterances": []})

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
def shown_on(reporter: Reporter, *, ended_s: float) -> Iterator[Any]:
    """A board whose events are passed to `reporter` in this process until the block ends."""
    # Beside the driver: on a node that dies it would take the run's events, and the run, with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(EventBoard).remote(ended_s=ended_s)
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
