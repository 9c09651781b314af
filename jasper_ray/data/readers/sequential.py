"""Items that can only be had one after another, asked for by number."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Sequential(Generic[Item]):
    """Gives item `n` of an iterator, whose last few items stay at hand; what lies further back starts it anew.

    So threads may ask in nearly ascending order. Whoever asks for far back pays for the way there again.
    """

    def __init__(self, start: Callable[[], Iterator[Item]], *, keep: int) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._kept: deque[Item] = deque(maxlen=keep)
        self._iterator: Iterator[Item] | None = None
        self._next = 0

    def __getitem__(self, number: int) -> Item:
        """Item of this number.

        Raises:
            IndexError: There are fewer.
        """
        with self._lock:
            if self._iterator is None or number < self._next - len(self._kept):
                self._iterator, self._next = self._start(), 0
                self._kept.clear()
            try:
                for item in islice(self._iterator, max(0, number + 1 - self._next)):
                    self._kept.append(item)
                    self._next += 1
            except BaseException:
                self._iterator = None
                raise
            if number >= self._next:
                raise IndexError(f"there are {self._next} items, asked for number {number}")
            return self._kept[number - self._next]
