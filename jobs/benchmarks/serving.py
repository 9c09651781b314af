"""What batching costs: the scheduler of a replica around a model that only waits."""

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from serve.batches import BatchLimits
from serve.scheduler import QueueLimits, Scheduler

ALONE_REQUESTS = 200


@dataclass(frozen=True)
class SchedulerBenchmark:
    """What is measured."""

    step_ms: float = 3.0
    """What the stub model takes for a batch."""
    batch_size: int = 16
    concurrency: int = 32
    seconds: float = 3.0
    """Length of a closed-loop round."""
    rounds: int = 5


def measure_scheduler(benchmark: SchedulerBenchmark) -> Mapping[str, Any]:
    """Overhead of a request alone, and requests per second of a closed loop beside what the model could do.

    Returns:
        Medians over rounds. The overhead is that over calling the model directly, measured in turn with it, and so is
        that of a bare thread which does nothing but wake up, call the model and wake the event loop.
    """
    rounds = []
    for _ in range(benchmark.rounds):
        with asyncio.Runner(loop_factory=_replicas_loop) as runner:
            rounds.append(runner.run(_round(benchmark)))
    ideal = benchmark.batch_size / benchmark.step_ms * 1000
    rate = statistics.median(one["requests_per_s"] for one in rounds)
    return {
        "step_ms": benchmark.step_ms,
        "batch_size": benchmark.batch_size,
        "concurrency": benchmark.concurrency,
        "direct_p50_ms": round(statistics.median(one["direct_ms"] for one in rounds), 3),
        "alone_p50_ms": round(statistics.median(one["alone_ms"] for one in rounds), 3),
        "overhead_p50_ms": round(statistics.median(one["alone_ms"] - one["direct_ms"] for one in rounds), 3),
        "bare_thread_overhead_p50_ms": round(
            statistics.median(one["thread_ms"] - one["direct_ms"] for one in rounds), 3
        ),
        "loaded_p50_ms": round(statistics.median(one["loaded_ms"] for one in rounds), 3),
        "requests_per_s": round(rate),
        "ideal_requests_per_s": round(ideal),
        "share_of_ideal": round(rate / ideal, 3),
    }


def _replicas_loop() -> asyncio.AbstractEventLoop:
    """The kind of event loop that Ray's workers have."""
    try:
        import uvloop  # comes with Ray Serve
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _round(benchmark: SchedulerBenchmark) -> dict[str, float]:
    def model(items: list[int]) -> list[int]:
        time.sleep(benchmark.step_ms / 1000)
        return items

    scheduler = Scheduler(model, BatchLimits(max_count=benchmark.batch_size, max_seconds=1e9), QueueLimits())
    thread = _BareThread(lambda: model([0]))
    direct, alone, threaded = [], [], []
    for _ in range(ALONE_REQUESTS):
        direct.append(_milliseconds(lambda: model([0])))
        started = time.perf_counter()
        await thread.call()
        threaded.append((time.perf_counter() - started) * 1000)
        started = time.perf_counter()
        await scheduler.submit(0, duration_s=7)
        alone.append((time.perf_counter() - started) * 1000)
    thread.close()
    loaded: list[float] = []
    until = time.perf_counter() + benchmark.seconds

    async def client() -> None:
        while (started := time.perf_counter()) < until:
            await scheduler.submit(0, duration_s=7)
            loaded.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(client() for _ in range(benchmark.concurrency)))
    scheduler.close()
    return {
        "direct_ms": statistics.median(direct),
        "alone_ms": statistics.median(alone),
        "thread_ms": statistics.median(threaded),
        "loaded_ms": statistics.median(loaded),
        "requests_per_s": len(loaded) / benchmark.seconds,
    }


class _BareThread:
    """What two wake-ups cost: no scheduler can do with less."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._loop = work, asyncio.get_running_loop()
        self._bell: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def call(self) -> "asyncio.Future[None]":
        answer: asyncio.Future[None] = self._loop.create_future()
        self._bell.put(answer)
        return answer

    def close(self) -> None:
        self._bell.put(None)

    def _run(self) -> None:
        while (answer := self._bell.get()) is not None:
            self._work()
            self._loop.call_soon_threadsafe(answer.set_result, None)


def _milliseconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
