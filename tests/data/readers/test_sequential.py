import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from jasper_ray.data.readers.sequential import Sequential


class Source:
    def __init__(self, num_items: int) -> None:
        self.num_items, self.num_starts, self.num_made = num_items, 0, 0

    def __call__(self) -> Iterator[int]:
        self.num_starts += 1
        for number in range(self.num_items):
            self.num_made += 1
            yield number * number


def test_items_in_nearly_ascending_order_are_made_once() -> None:
    source = Source(100)
    items = Sequential(source, keep=4)
    assert [items[number] for number in (1, 0, 3, 2, 2, 6, 3, 99, 96)] == [1, 0, 9, 4, 4, 36, 9, 9801, 9216]
    assert (source.num_starts, source.num_made) == (1, 100)


def test_what_lies_further_back_is_made_again() -> None:
    source = Source(100)
    items = Sequential(source, keep=4)
    assert [items[number] for number in (10, 5, 6)] == [100, 25, 36]
    assert source.num_starts == 2


def test_a_number_beyond_the_end_is_an_error_and_the_others_stay() -> None:
    items = Sequential(Source(3), keep=4)
    with pytest.raises(IndexError, match="there are 3 items, asked for number 3"):
        items[3]
    assert items[2] == 4


def test_after_an_error_it_starts_anew() -> None:
    failures = iter([True, False])

    def broken() -> Iterator[int]:
        yield 0
        if next(failures):
            raise OSError("gone")
        yield 1

    items = Sequential(broken, keep=2)
    with pytest.raises(OSError, match="gone"):
        items[1]
    assert [items[0], items[1]] == [0, 1]


def test_threads_get_what_they_ask_for() -> None:
    items = Sequential(Source(2000), keep=64)
    barrier = threading.Barrier(4)

    def every_fourth(first: int) -> list[int]:
        barrier.wait()
        return [items[number] for number in range(first, 2000, 4)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(every_fourth, range(4)))
    assert found == [[number * number for number in range(first, 2000, 4)] for first in range(4)]
