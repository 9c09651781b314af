import threading
import time
from collections.abc import Iterator

import pytest

from jasper_ray.data.prefetch import Prefetcher


def counted(seen: list[int], *, count: int = 100) -> Iterator[int]:
    for number in range(count):
        seen.append(number)
        yield number


def wait_until_quiet(seen: list[int]) -> None:
    length = -1
    while length != len(seen):
        length = len(seen)
        time.sleep(0.05)


def thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_items_come_in_order_and_the_thread_ends_with_them() -> None:
    assert list(Prefetcher(iter(range(50)), depth=3, name="p-order")) == list(range(50))
    assert "p-order" not in thread_names()


def test_no_more_than_depth_items_are_made_ahead() -> None:
    seen: list[int] = []
    prefetcher = Prefetcher(counted(seen), depth=3, name="p-depth")
    wait_until_quiet(seen)
    assert len(seen) == 3
    next(prefetcher)
    wait_until_quiet(seen)
    assert len(seen) == 4
    prefetcher.close()


def test_closing_early_stops_the_thread_and_ends_the_iteration() -> None:
    seen: list[int] = []
    prefetcher = Prefetcher(counted(seen), depth=2, name="p-close")
    assert next(prefetcher) == 0
    prefetcher.close()
    prefetcher.close()
    assert "p-close" not in thread_names()
    assert len(seen) < 100
    assert list(prefetcher) == []


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    prefetcher = Prefetcher(items(), depth=5, name="p-error")
    assert next(prefetcher) == 1
    with pytest.raises(KeyError, match=r"broken"):
        next(prefetcher)
    assert list(prefetcher) == []


def test_closing_wakes_a_consumer_that_waits_in_another_thread() -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        release.wait(10)
        yield 1

    prefetcher = Prefetcher(items(), depth=1, name="p-wake")
    received: list[int] = []
    consumer = threading.Thread(target=lambda: received.extend(prefetcher))
    consumer.start()
    closer = threading.Thread(target=prefetcher.close)
    closer.start()
    consumer.join(5)
    assert not consumer.is_alive()
    release.set()
    closer.join(5)
    assert not closer.is_alive()
