import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from serve.deadlines import Answer, Deadlines

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    def run_on_loop(scenario: Any) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(scenario)

    return run_on_loop


async def watched(delays_s: list[float], discarded: set[int], for_s: float) -> dict[int, float]:
    """Which of the answers expired, and how long after their time."""
    loop = asyncio.get_running_loop()
    expired: dict[int, float] = {}

    def expire(answer: Answer) -> None:
        number = answers.index(answer)
        expired[number] = time.monotonic() - due_s[number]

    deadlines = Deadlines(loop, expire)
    answers = [loop.create_future() for _ in delays_s]
    due_s = [time.monotonic() + delay_s for delay_s in delays_s]
    for number, answer in enumerate(answers):
        deadlines.add(answer, due_s[number])
    for number in discarded:
        deadlines.discard(answers[number])
    await asyncio.sleep(for_s)
    return expired


def test_each_expires_once_at_its_time_in_whatever_order_they_came(run: Callable[[Any], None]) -> None:
    async def scenario() -> None:
        expired = await watched([0.1, 0.05, 5.0, 0.15, 0.05], set(), 0.4)
        assert list(expired) == [1, 4, 0, 3]
        assert all(0 <= late_s < 0.1 for late_s in expired.values())

    run(scenario())


def test_what_was_discarded_does_not_expire_and_the_others_do(run: Callable[[Any], None]) -> None:
    async def scenario() -> None:
        assert list(await watched([0.05, 0.1, 0.15], {0, 2}, 0.3)) == [1]

    run(scenario())


def test_a_time_that_is_over_expires_at_once(run: Callable[[Any], None]) -> None:
    async def scenario() -> None:
        assert list(await watched([-1.0], set(), 0.05)) == [0]

    run(scenario())


def test_one_timer_is_enough_for_requests_that_are_answered_in_time() -> None:
    class CountingLoop(asyncio.SelectorEventLoop):
        timers = 0

        def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            self.timers += 1
            return super().call_later(*args, **kwargs)

    loop = CountingLoop()
    deadlines = Deadlines(loop, lambda answer: None)
    for number in range(1000):
        answer: Answer = loop.create_future()
        deadlines.add(answer, time.monotonic() + 60 + number)
        deadlines.discard(answer)
    assert loop.timers == 1
    loop.close()
