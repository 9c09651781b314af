"""One queue and one worker thread for a model: each step computes what arrived during the step before.

No fixed wait, no task per batch, no Ray: awaited from an event loop, computed in a thread. It cannot wedge: whatever a
step raises is an answer to the requests of that step, and each request is answered by its deadline.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from operator import attrgetter
from queue import SimpleQueue
from typing import Generic, TypeVar

from serve.batches import LOOK_AHEAD, BatchLimits, choose_batch, padded_seconds
from serve.deadlines import Answer, Deadlines

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_RETRY_AFTER_S = 0.1
MAX_RETRY_AFTER_S = 30.0
SPEED_MEMORY = 0.2
"""Share of the newest step in the running mean of the speed."""

log = logging.getLogger(__name__)


class OverloadedError(Exception):
    """The request cannot be taken, or was not computed in time: try again after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClosedError(Exception):
    """The scheduler was closed."""


@dataclass(frozen=True)
class QueueLimits:
    """How much may wait, and how long."""

    max_count: int = 256
    """Requests that wait; one more is refused."""
    max_seconds: float = 3600.0
    """Seconds of audio that wait; an empty queue takes any request."""
    timeout_s: float = 60.0
    """A request that is not answered in this time is given up."""

    def __post_init__(self) -> None:
        if self.max_count < 1 or self.max_seconds <= 0 or self.timeout_s <= 0:
            raise ValueError(f"{self}: max_count must be at least 1, max_seconds and timeout_s above 0")


@dataclass(frozen=True)
class Load:
    """What a scheduler does at the moment, and did so far."""

    waiting: int
    waiting_s: float
    """Seconds of audio."""
    step_age_s: float
    """How long the step that is computed has been going on; 0 if there is none."""
    num_steps: int
    num_items: int
    audio_s: float
    """Seconds of audio computed."""
    padded_s: float
    """The same with padding."""
    num_failed: int
    num_refused: int
    busy_s: float = 0.0
    """Seconds spent in steps."""
    queued_s: float = 0.0
    """Seconds that items waited for their step, added up."""


@dataclass(slots=True, eq=False)
class _Request(Generic[Item, Result]):
    item: Item
    duration_s: float
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Result]"
    since_s: float


# Not comprehensions: a few milliseconds after the last request the processor has forgotten this code, and each piece of
# it costs a lone request ten times what it costs in a loop.
_ITEM, _DURATION_S, _LOOP = attrgetter("item"), attrgetter("duration_s"), attrgetter("loop")


class Scheduler(Generic[Item, Result]):
    """Batches requests for a function that computes several at once.

    Args:
        work: Results of items, in their order; an exception among them is the answer to its item alone. What it
            raises is tried again in halves, so that only those items fail that cannot be helped.
        batch: How large a step may be.
        queue: How much may wait.
        out_of_memory: Whether an exception means that the step was too large; later ones are then half as large.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result | Exception]],
        batch: BatchLimits | None = None,
        queue: QueueLimits | None = None,
        *,
        out_of_memory: Callable[[BaseException], bool] = lambda error: isinstance(error, MemoryError),
    ) -> None:
        self._work = work
        self._out_of_memory = out_of_memory
        self._mutex = threading.Lock()
        self._sleeps = False
        self._bell: SimpleQueue[None] = SimpleQueue()  # rung by whoever finds the thread asleep; a Condition costs more
        self._waiting: dict[int, _Request[Item, Result]] = {}  # oldest first
        self._deadlines: dict[asyncio.AbstractEventLoop, Deadlines] = {}
        self._numbers = count()
        self._urgent_numbers = count(-1, -1)
        self._closed = False
        self._step_started: float | None = None
        self._speed = math.nan  # seconds of audio per second
        self._num_steps = self._num_items = self._num_failed = self._num_refused = 0
        self._audio_s = self._padded_s = self._waiting_s = self._busy_s = self._queued_s = 0.0
        self.reconfigure(batch or BatchLimits(), queue or QueueLimits())
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def reconfigure(self, batch: BatchLimits, queue: QueueLimits) -> None:
        """Other limits from the next step on; what was learnt about memory is forgotten."""
        with self._mutex:
            self._batch, self._queue, self._memory_s = batch, queue, math.inf

    async def submit(self, item: Item, *, duration_s: float, urgent: bool = False) -> Result:
        """The result of an item.

        Args:
            item: For `work`.
            duration_s: Seconds of audio in it.
            urgent: Goes before all others and is never refused: for health checks.

        Raises:
            OverloadedError: Too much waits already, or there was no result by the deadline.
            ClosedError: The scheduler was closed.
            Exception: What `work` raised or returned for this item.
        """
        loop = asyncio.get_running_loop()
        deadlines = self._deadlines.get(loop) or self._new_deadlines(loop)
        answer: asyncio.Future[Result] = loop.create_future()
        now_s = time.monotonic()
        deadlines.add(answer, now_s + self._queue.timeout_s)
        try:
            # Last of all: whatever came after it, the thread would wait for until this one gives up the interpreter.
            number = self._enqueue(_Request(item, duration_s, loop, answer, now_s), urgent)
            try:
                return await answer
            finally:  # also when the caller was cancelled: the item leaves the queue
                if number in self._waiting:
                    self._leave(number)
        finally:
            deadlines.discard(answer)

    def refuse_overload(self, duration_s: float) -> None:
        """Whether there is room for a request of such a length, before work is put into it.

        Raises:
            OverloadedError: Too much waits already.
        """
        with self._mutex:
            self._require_room(duration_s)

    def load(self) -> Load:
        """What goes on."""
        with self._mutex:
            age_s = 0.0 if self._step_started is None else time.monotonic() - self._step_started
            return Load(
                len(self._waiting),
                max(self._waiting_s, 0.0),
                age_s,
                self._num_steps,
                self._num_items,
                self._audio_s,
                self._padded_s,
                self._num_failed,
                self._num_refused,
                self._busy_s,
                self._queued_s,
            )

    def close(self) -> None:
        """Take no more requests; those that wait are still answered. Does not wait for them."""
        with self._mutex:
            self._closed = True
            self._wake()

    def join(self, timeout_s: float) -> bool:
        """Wait until the last step has ended; whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _new_deadlines(self, loop: asyncio.AbstractEventLoop) -> Deadlines:
        with self._mutex:
            mine = {other: known for other, known in self._deadlines.items() if not other.is_closed()}
            mine[loop] = Deadlines(loop, self._give_up)
            self._deadlines = mine
            return mine[loop]

    def _leave(self, number: int) -> None:
        with self._mutex:
            request = self._waiting.pop(number, None)
            if request is not None:
                self._waiting_s -= request.duration_s

    def _enqueue(self, request: "_Request[Item, Result]", urgent: bool) -> int:
        with self._mutex:
            if self._closed:
                raise ClosedError("the service is shutting down")
            if self._waiting and not urgent:
                self._require_room(request.duration_s)
            if urgent:
                number = next(self._urgent_numbers)
                self._waiting = {number: request, **self._waiting}
            else:
                number = next(self._numbers)
                self._waiting[number] = request
            self._waiting_s += request.duration_s
            self._wake()
        return number

    def _wake(self) -> None:
        if self._sleeps:
            self._sleeps = False
            self._bell.put(None)

    def _require_room(self, duration_s: float) -> None:
        full = len(self._waiting) >= self._queue.max_count
        if full or (self._waiting and self._waiting_s + duration_s > self._queue.max_seconds):
            self._num_refused += 1
            raise OverloadedError(
                f"{len(self._waiting)} requests with {self._waiting_s:.1f} s of audio wait already",
                self._retry_after_s(),
            )

    def _retry_after_s(self) -> float:
        """About how long it takes to compute half of what waits."""
        if not self._speed > 0:
            return 1.0
        return min(max(self._waiting_s / 2 / self._speed, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)

    def _give_up(self, answer: Answer) -> None:
        if not answer.done():
            message = f"there was no result within {self._queue.timeout_s:g} s"
            answer.set_exception(OverloadedError(message, self._retry_after_s()))

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                results: Sequence[Result | Exception] = self._compute(batch)
            except BaseException as error:  # SystemExit or such from the depths of a library: an answer, and on we go
                results = [RuntimeError(f"{type(error).__name__} in the model: {error}")] * len(batch)
            self._finish(batch, results)

    def _next_batch(self) -> "list[_Request[Item, Result]]":
        """Wait for requests and take the next batch; empty once closed and done."""
        while True:
            with self._mutex:
                if self._waiting:
                    return self._take_batch()
                if self._closed:
                    return []
                self._sleeps = True
            self._bell.get()

    def _take_batch(self) -> "list[_Request[Item, Result]]":
        batch = [self._waiting.popitem()[1]] if len(self._waiting) == 1 else self._chosen()
        self._step_started = now_s = time.monotonic()
        for request in batch:
            self._waiting_s -= request.duration_s
            self._queued_s += now_s - request.since_s
        return batch

    def _chosen(self) -> "list[_Request[Item, Result]]":
        limits = self._batch
        if self._memory_s < limits.max_seconds:
            limits = BatchLimits(limits.max_count, self._memory_s, limits.max_padding, limits.short_s)
        oldest = list(islice(self._waiting, LOOK_AHEAD * limits.max_count))
        chosen = choose_batch([self._waiting[number].duration_s for number in oldest], limits)
        return [self._waiting.pop(oldest[index]) for index in chosen]

    def _compute(self, batch: "list[_Request[Item, Result]]") -> "list[Result | Exception]":
        failure: Exception
        try:
            results = list(self._work(list(map(_ITEM, batch))))
            if len(results) != len(batch):
                raise RuntimeError(f"the model gave {len(results)} results for {len(batch)} items")
            return results
        except Exception as error:
            # Without the traceback: its frames hold the tensors of the step, and the halves need that memory.
            failure = error.with_traceback(None)
        if self._out_of_memory(failure):
            self._lower_memory_bound([request.duration_s for request in batch])
        if len(batch) == 1:
            return [failure]
        middle = len(batch) // 2
        return self._compute(batch[:middle]) + self._compute(batch[middle:])

    def _lower_memory_bound(self, durations_s: list[float]) -> None:
        padded_s = padded_seconds(durations_s)
        with self._mutex:
            if len(durations_s) > 1 and padded_s / 2 < self._memory_s:
                self._memory_s = padded_s / 2
                log.warning("out of memory at %.1f padded seconds: steps hold at most %.1f", padded_s, padded_s / 2)

    def _finish(self, batch: "list[_Request[Item, Result]]", results: "Sequence[Result | Exception]") -> None:
        durations_s = list(map(_DURATION_S, batch))
        audio_s = sum(durations_s)
        with self._mutex:
            ended_s = time.monotonic()
            _deliver(batch, results)  # first, and yet whoever has an answer and asks for `load` finds it counted
            took_s = max(ended_s - (self._step_started or 0.0), 1e-6)
            speed = audio_s / took_s
            known = not math.isnan(self._speed)
            self._speed = SPEED_MEMORY * speed + (1 - SPEED_MEMORY) * self._speed if known else speed
            self._step_started = None
            self._num_steps += 1
            self._num_items += len(batch)
            self._audio_s += audio_s
            self._padded_s += padded_seconds(durations_s)
            self._busy_s += took_s
            for result in results:
                if isinstance(result, Exception):
                    self._num_failed += 1


def _deliver(batch: list[_Request[Item, Result]], results: Sequence[Result | Exception]) -> None:
    """Hand results to the loops that wait for them: one call for each loop, however large the batch."""
    for loop in set(map(_LOOP, batch)):
        try:
            loop.call_soon_threadsafe(_answer, loop, batch, results)
        except RuntimeError:  # the loop was closed: nobody waits there any more
            log.warning("results came after their event loop had been closed")


def _answer(
    loop: asyncio.AbstractEventLoop, batch: list[_Request[Item, Result]], results: Sequence[Result | Exception]
) -> None:
    for request, result in zip(batch, results, strict=True):
        if request.loop is not loop or request.answer.done():  # another's; cancelled, or past its deadline
            continue
        if isinstance(result, Exception):
            request.answer.set_exception(result)
        else:
            request.answer.set_result(result)
