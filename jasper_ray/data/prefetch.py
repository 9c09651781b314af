"""An iterator run ahead of its consumer in a thread of its own."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _End:
    pass


class Prefetcher(Generic[Item]):
    """Items of an iterator in its order, up to `depth` of them made before they are asked for.

    An error in the iterator is raised where its item would have come. The iterator runs in one thread, which ends with
    the iterator or after `close`.
    """

    def __init__(self, items: Iterator[Item], *, depth: int, name: str) -> None:
        self._items = items
        self._ready: queue.SimpleQueue[Item | _Failure | _End] = queue.SimpleQueue()
        self._free = threading.Semaphore(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._closed.is_set():
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, _End):
            self._ready.put(item)  # also for the next call
            raise StopIteration
        if isinstance(item, _Failure):
            self._ready.put(_End())
            raise item.error
        self._free.release()
        return item

    def close(self) -> None:
        """Let the thread finish the item it is at and wait for it; may be called twice."""
        self._closed.set()
        self._free.release()
        self._ready.put(_End())  # wakes a consumer in another thread
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                # Room first, then the item: nothing is read that nobody may want.
                self._free.acquire()
                if self._closed.is_set():
                    break
                try:
                    item = next(self._items)
                except StopIteration:
                    break
                self._ready.put(item)
        except BaseException as error:
            self._ready.put(_Failure(error))
        else:
            self._ready.put(_End())
