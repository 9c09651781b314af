"""The latest time of each answer that an event loop waits for. One timer for all: one each costs as much as a queue."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

Answer = asyncio.Future[Any]


class Deadlines:
    """Those of one event loop; used by its thread only.

    Args:
        loop: Has the timer.
        expire: Called with each answer that is not there in time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[Answer], None]) -> None:
        self._loop, self._expire = loop, expire
        self._due_s: dict[Answer, float] = {}
        self._armed_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def add(self, answer: Answer, due_s: float) -> None:
        """Have an answer by `due_s` of `time.monotonic`."""
        self._due_s[answer] = due_s
        if due_s < self._armed_s:
            self._arm(due_s)

    def discard(self, answer: Answer) -> None:
        """It need not be watched any more. The timer is left as it is: early, it finds nothing to do."""
        self._due_s.pop(answer, None)

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_s = due_s
        self._timer = self._loop.call_later(max(due_s - time.monotonic(), 0.0), self._look)

    def _look(self) -> None:
        self._timer, self._armed_s = None, math.inf
        now_s = time.monotonic()
        for answer in [answer for answer, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[answer]
            self._expire(answer)
        if self._due_s:
            self._arm(min(self._due_s.values()))
