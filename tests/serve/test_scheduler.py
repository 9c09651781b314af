import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.batches import BatchLimits
from serve.scheduler import ClosedError, Load, OverloadedError, QueueLimits, Scheduler


class Model:
    """Doubles numbers; steps wait at a gate; says which batches it was given."""

    def __init__(self, fails: Callable[[list[Any]], BaseException | None] = lambda items: None) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[Any]] = []
        self._fails = fails

    def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(list(items))
        assert self.gate.wait(20)
        if error := self._fails(items):
            raise error
        return [2 * item for item in items]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def held(model: Model, scheduler: Scheduler[Any, Any]) -> "asyncio.Task[Any]":
    """A first request that keeps the model busy until the gate opens."""
    model.gate.clear()
    task = asyncio.create_task(scheduler.submit(0, duration_s=1))
    await until(lambda: bool(model.batches))
    return task


def queue_up(scheduler: Scheduler[Any, Any], items: list[Any]) -> "list[asyncio.Task[Any]]":
    return [asyncio.create_task(scheduler.submit(item, duration_s=1)) for item in items]


def test_what_arrives_during_a_step_is_the_next_step() -> None:
    async def scenario() -> None:
        model = Model()
        scheduler = Scheduler(model)
        first = await held(model, scheduler)
        tasks = queue_up(scheduler, [1, 2, 3])
        await until(lambda: scheduler.load().waiting == 3)
        model.gate.set()
        assert await asyncio.gather(first, *tasks) == [0, 2, 4, 6]
        assert model.batches == [[0], [1, 2, 3]]
        load = scheduler.load()
        assert (load.num_steps, load.num_items, load.waiting, load.waiting_s, load.step_age_s) == (2, 4, 0, 0, 0)

    asyncio.run(scenario())


def test_one_bad_item_fails_alone() -> None:
    def fails(items: list[Any]) -> Exception | None:
        return ValueError("13 is bad") if 13 in items else None

    async def scenario() -> None:
        model = Model(fails)
        scheduler = Scheduler(model)
        first = await held(model, scheduler)
        tasks = queue_up(scheduler, [1, 2, 13, 4, 5])
        await until(lambda: scheduler.load().waiting == 5)
        model.gate.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [result for result in results if isinstance(result, int)] == [0, 2, 4, 8, 10]
        assert isinstance(results[3], ValueError)
        assert await scheduler.submit(7, duration_s=1) == 14
        assert scheduler.load().num_failed == 1

    asyncio.run(scenario())


def test_an_exception_among_the_results_is_the_answer_to_its_item() -> None:
    async def scenario() -> None:
        scheduler: Scheduler[int, int] = Scheduler(lambda items: [KeyError("x")] * len(items))
        with pytest.raises(KeyError):
            await scheduler.submit(1, duration_s=1)

    asyncio.run(scenario())


@pytest.mark.parametrize("work", [lambda items: [], lambda items: None, lambda items: exec("raise SystemExit(3)")])
def test_a_model_that_breaks_every_rule_is_an_error_and_no_hang(work: Any) -> None:
    async def scenario() -> None:
        scheduler: Scheduler[int, int] = Scheduler(work)
        for _ in range(3):
            with pytest.raises((RuntimeError, TypeError)):
                await asyncio.wait_for(scheduler.submit(1, duration_s=1), 5)

    asyncio.run(scenario())


def test_out_of_memory_halves_the_step_and_later_ones() -> None:
    def fails(items: list[Any]) -> Exception | None:
        return MemoryError() if len(items) > 4 else None

    async def scenario() -> None:
        model = Model(fails)
        scheduler = Scheduler(model)
        for round_number in range(2):
            model.batches.clear()
            first = await held(model, scheduler)
            tasks = queue_up(scheduler, list(range(1, 9)))
            await until(lambda: scheduler.load().waiting == 8)
            model.gate.set()
            assert await asyncio.gather(first, *tasks) == [2 * item for item in range(9)]
            sizes = [len(batch) for batch in model.batches]
            assert sizes == ([1, 8, 4, 4] if round_number == 0 else [1, 4, 4])
        scheduler.reconfigure(BatchLimits(), QueueLimits())
        model.batches.clear()
        first = await held(model, scheduler)
        tasks = queue_up(scheduler, list(range(1, 9)))
        await until(lambda: scheduler.load().waiting == 8)
        model.gate.set()
        await asyncio.gather(first, *tasks)
        assert len(model.batches[1]) == 8

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def scenario() -> None:
        model = Model()
        scheduler = Scheduler(model, queue=QueueLimits(max_count=3, max_seconds=10))
        first = await held(model, scheduler)
        tasks = queue_up(scheduler, [1, 2])
        await until(lambda: scheduler.load().waiting == 2)
        with pytest.raises(OverloadedError, match=r"2 requests with 2.0 s of audio wait already"):
            await scheduler.submit(9, duration_s=9)
        tasks += queue_up(scheduler, [3])
        await until(lambda: scheduler.load().waiting == 3)
        with pytest.raises(OverloadedError) as refused:
            await scheduler.submit(9, duration_s=0.1)
        assert 0.1 <= refused.value.retry_after_s <= 30
        urgent = asyncio.create_task(scheduler.submit(5, duration_s=1, urgent=True))
        await until(lambda: scheduler.load().waiting == 4)
        model.gate.set()
        assert await asyncio.gather(first, *tasks, urgent) == [0, 2, 4, 6, 10]
        assert model.batches[1][0] == 5
        assert scheduler.load().num_refused == 2
        assert await scheduler.submit(8, duration_s=99) == 16  # an empty queue takes any length

    asyncio.run(scenario())


def test_a_cancelled_request_leaves_the_queue() -> None:
    async def scenario() -> None:
        model = Model()
        scheduler = Scheduler(model)
        first = await held(model, scheduler)
        tasks = queue_up(scheduler, [1, 2, 3])
        await until(lambda: scheduler.load().waiting == 3)
        tasks[1].cancel()
        await until(lambda: scheduler.load().waiting == 2)
        model.gate.set()
        with suppress(asyncio.CancelledError):
            await tasks[1]
        assert await asyncio.gather(first, tasks[0], tasks[2]) == [0, 2, 6]
        assert model.batches == [[0], [1, 3]]

    asyncio.run(scenario())


def test_a_deadline_holds_for_those_that_wait_and_those_that_are_computed() -> None:
    async def scenario() -> None:
        model = Model()
        scheduler = Scheduler(model, queue=QueueLimits(timeout_s=0.05))
        model.gate.clear()
        tasks = queue_up(scheduler, [1])
        await until(lambda: bool(model.batches))
        tasks += queue_up(scheduler, [2])
        for task in tasks:
            with pytest.raises(OverloadedError, match=r"no result within 0.05 s"):
                await task
        load: Load = scheduler.load()
        assert load.waiting == 0 and load.waiting_s == 0 and load.step_age_s > 0.04
        model.gate.set()
        assert await scheduler.submit(4, duration_s=1) == 8

    asyncio.run(scenario())


def test_a_shorter_deadline_holds_for_what_comes_after_it_was_set() -> None:
    async def scenario() -> None:
        model = Model()
        scheduler = Scheduler(model)
        first = await held(model, scheduler)
        scheduler.reconfigure(BatchLimits(), QueueLimits(timeout_s=0.05))
        with pytest.raises(OverloadedError, match=r"no result within 0.05 s"):
            await scheduler.submit(1, duration_s=1)
        model.gate.set()
        assert await first == 0

    asyncio.run(scenario())


def test_a_step_for_two_loops_answers_each_in_its_own() -> None:
    model = Model()
    scheduler: Scheduler[int, int] = Scheduler(model)
    model.gate.clear()
    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(asyncio.run, scheduler.submit(0, duration_s=1))]
        asyncio.run(until(lambda: bool(model.batches)))  # else the first step could take two of them
        answers += [threads.submit(asyncio.run, scheduler.submit(item, duration_s=1)) for item in (1, 2)]
        asyncio.run(until(lambda: scheduler.load().waiting == 2))
        model.gate.set()
        assert [answer.result(5) for answer in answers] == [0, 2, 4]
    assert len(model.batches) == 2 and len(model.batches[1]) == 2


def test_limits_change_between_two_steps() -> None:
    async def scenario() -> None:
        model = Model()
        scheduler = Scheduler(model)
        first = await held(model, scheduler)
        tasks = queue_up(scheduler, [1, 2, 3, 4])
        await until(lambda: scheduler.load().waiting == 4)
        scheduler.reconfigure(BatchLimits(max_count=2), QueueLimits())
        model.gate.set()
        await asyncio.gather(first, *tasks)
        assert model.batches == [[0], [1, 2], [3, 4]]

    asyncio.run(scenario())


def test_a_closed_scheduler_answers_those_that_wait_and_refuses_new_ones() -> None:
    async def scenario() -> None:
        model = Model()
        scheduler = Scheduler(model)
        first = await held(model, scheduler)
        tasks = queue_up(scheduler, [1])
        await until(lambda: scheduler.load().waiting == 1)
        scheduler.close()
        with pytest.raises(ClosedError):
            await scheduler.submit(2, duration_s=1)
        model.gate.set()
        assert await asyncio.gather(first, *tasks) == [0, 2]
        assert await asyncio.to_thread(scheduler.join, 5)

    asyncio.run(scenario())


def test_a_loop_that_has_ended_does_not_stop_the_worker() -> None:
    model = Model()
    scheduler: Scheduler[int, int] = Scheduler(model)

    async def leave() -> None:
        await held(model, scheduler)  # its task dies with this loop

    asyncio.run(leave())
    model.gate.set()
    assert asyncio.run(scheduler.submit(3, duration_s=1)) == 6


ARRIVAL = st.tuples(
    st.sampled_from(["good", "bad", "memory", "cancelled"]), st.floats(0.05, 30), st.sampled_from([0, 0, 0, 1, 3])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ARRIVAL, min_size=1, max_size=40), st.integers(1, 9), st.floats(5, 100))
def test_every_request_gets_its_own_answer_whatever_the_others_do(
    arrivals: list[tuple[str, float, int]], max_count: int, max_seconds: float
) -> None:
    def work(items: list[tuple[int, str]]) -> list[int]:
        if any(kind == "bad" for _, kind in items):
            raise ValueError("bad")
        if len(items) > 2 and any(kind == "memory" for _, kind in items):
            raise MemoryError
        return [number for number, _ in items]

    async def scenario() -> None:
        scheduler = Scheduler(work, BatchLimits(max_count, max_seconds))
        tasks = []
        for number, (kind, duration_s, pause) in enumerate(arrivals):
            tasks.append(asyncio.create_task(scheduler.submit((number, kind), duration_s=duration_s)))
            for _ in range(pause):
                await asyncio.sleep(0)
            if kind == "cancelled":
                tasks[-1].cancel()
        async with asyncio.timeout(10):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for number, ((kind, _, _), result) in enumerate(zip(arrivals, results, strict=True)):
            if kind == "bad":
                assert isinstance(result, ValueError)
            elif kind == "cancelled":
                assert isinstance(result, asyncio.CancelledError)
            else:
                assert result == number
        load = scheduler.load()
        assert load.waiting == 0 and load.waiting_s < 1e-6
        scheduler.close()
        assert await asyncio.to_thread(scheduler.join, 5)

    asyncio.run(scenario())
