"""Shards fetched before a reader gets to them, where nobody else sees to that: evaluation and transcription."""

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from jasper_ray.storage import object_store

NUM_AHEAD = 6
"""Shards that the reader has not come to yet."""
NUM_THREADS = 3
CLOSE_WAIT_S = 10.0


class ShardFetcher(Protocol):
    """Where shards come from: a cache, or one that fetches them ahead."""

    def fetch(self, uri: str, *, checksum: str = "") -> Path:
        """The shard as a local file."""


class FetchAhead:
    """Fetches remote shards in a few threads; what goes wrong is left for the reader to meet.

    Args:
        cache: Where they are fetched to.
        shards: URI and checksum of each, in the order of first use.
    """

    def __init__(self, cache: ShardFetcher, shards: Sequence[tuple[str, str]]) -> None:
        self._cache = cache
        self._wanted = deque(shard for shard in shards if not object_store.is_local(shard[0]))
        self._room = threading.Semaphore(NUM_AHEAD)
        self._threads = [
            threading.Thread(target=self._run, name=f"shards-ahead-{number}", daemon=True)
            for number in range(min(NUM_THREADS, len(self._wanted)))
        ]
        for thread in self._threads:
            thread.start()

    def reach(self) -> None:
        """The reader has come to another shard."""
        self._room.release()

    def close(self) -> None:
        """Begin no more downloads, and wait a while for those under way."""
        self._wanted.clear()
        for _ in self._threads:
            self._room.release()
        for thread in self._threads:
            thread.join(CLOSE_WAIT_S)

    def _run(self) -> None:
        while True:
            self._room.acquire()
            try:
                uri, checksum = self._wanted.popleft()
            except IndexError:
                return
            with contextlib.suppress(Exception):
                self._cache.fetch(uri, checksum=checksum)
