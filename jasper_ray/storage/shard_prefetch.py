"""Shards fetched ahead of their use, by a few threads, in the order in which they will be needed."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jasper_ray.errors import StorageError
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import CacheCounts, ShardCache

logger = logging.getLogger(__name__)

CLOSE_WAIT_S = 10.0
"""How long `close` waits for downloads under way; what they have begun is cleaned up later if they are killed."""

WARN_AFTER_S = 60.0
"""Seconds that a reader waits for its turn, then it says so."""


@dataclass(frozen=True)
class Shard:
    """A shard in a store."""

    uri: str
    checksum: str = ""
    """SHA-256 of the file in hexadecimal; empty for a dataset that has none."""


class ShardPrefetcher:
    """A cache whose shards come before they are asked for. Safe to use from several threads.

    A shard is held from its download, or from `fetch`, until `release`.

    Args:
        cache: Where shards are kept.
        exact: Only shards that the last `prefetch` named are fetched: who asks for another waits until it is named.
        num_threads: Downloads at a time.
    """

    def __init__(self, cache: ShardCache, *, exact: bool = False, num_threads: int = 3) -> None:
        self.cache = cache
        self._exact = exact
        self._num_threads = num_threads
        self._named: set[Shard] = set()
        self._wanted: deque[Shard] = deque()
        self._busy: set[Shard] = set()
        self._held: set[Shard] = set()
        self._errors: dict[Shard, BaseException] = {}
        self._largest_bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    @property
    def counts(self) -> CacheCounts:
        """Of the cache."""
        return self.cache.counts

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Fetch these next, in this order, as far as there is room; replaces what an earlier call asked for."""
        with self._changed:
            self._named = set(shards)
            known = self._held | self._busy
            self._wanted = deque(
                shard for shard in shards if shard not in known and not object_store.is_local(shard.uri)
            )
            if self._wanted and not self._threads and not self._is_closed:
                self._threads = [
                    threading.Thread(target=self._run, name=f"shards-{number}", daemon=True)
                    for number in range(self._num_threads)
                ]
                for thread in self._threads:
                    thread.start()
            self._changed.notify_all()

    def fetch(self, uri: str, *, checksum: str = "") -> Path:
        """See `ShardCache.fetch`; waits for a download under way, and raises what went wrong with it.

        Raises:
            StorageError: It cannot be fetched, or `close` was called.
        """
        shard = Shard(uri, checksum)
        if object_store.is_local(uri):
            return self.cache.fetch(uri)
        with self._changed:
            self._wait_for_turn(shard)
            if shard in self._errors:
                raise self._errors.pop(shard)
            if shard in self._wanted:
                self._wanted.remove(shard)
            self._held.add(shard)
        return self.cache.fetch(uri, checksum=checksum, hold=True)

    def release(self, shard: Shard) -> None:
        """A shard is not needed any more, or not soon."""
        with self._changed:
            self._errors.pop(shard, None)
            self._held.discard(shard)
            if shard in self._busy:  # it finds out when it is done
                return
        self.cache.release(shard.uri, checksum=shard.checksum)
        with self._changed:
            self._changed.notify_all()

    def let_go(self, shard: Shard) -> None:
        """`release`, and this shard is not being fetched any more when this returns, nor will be unless it is named."""
        with self._changed:
            if shard in self._wanted:
                self._wanted.remove(shard)
            self._changed.wait_for(lambda: shard not in self._busy)
        self.release(shard)

    def close(self) -> None:
        """Fetch nothing more, wait for what is under way, release everything; may be called twice."""
        with self._changed:
            self._is_closed = True
            self._wanted.clear()
            self._changed.notify_all()
        deadline_s = time.monotonic() + CLOSE_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                logger.warning("a download of shards is still under way after %.0f s: left behind", CLOSE_WAIT_S)
        for shard in list(self._held):
            self.release(shard)

    def _wait_for_turn(self, shard: Shard) -> None:
        while self._exact and not self._changed.wait_for(
            lambda: self._is_closed or shard in self._named, timeout=WARN_AFTER_S
        ):
            logger.warning("%s: waits until slower workers of this node are done with other shards", shard.uri)
        self._changed.wait_for(lambda: self._is_closed or shard not in self._busy)
        if self._is_closed:
            raise StorageError(f"{shard.uri}: not fetched, because reading has ended")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._has_room())
                if self._is_closed:
                    return
                shard = self._wanted.popleft()
                self._busy.add(shard)
                self._held.add(shard)
            error: BaseException | None = None
            size = 0
            try:
                size = self.cache.fetch(shard.uri, checksum=shard.checksum, hold=True).stat().st_size
            except BaseException as failure:
                error = failure
            with self._changed:
                self._busy.discard(shard)
                self._largest_bytes = max(self._largest_bytes, size)
                released = shard not in self._held
                if error is not None:
                    self._errors[shard] = error
                    self._held.discard(shard)
                self._changed.notify_all()
            if released:
                self.release(shard)

    def _has_room(self) -> bool:
        """Whether one more fits without pushing out what was fetched and is not used up yet."""
        if not self._wanted:
            return False
        # All as large as the largest: who is being fetched, here or by `fetch`, has no size yet.
        return not self._held or (len(self._held) + 1) * self._largest_bytes <= self.cache.max_bytes
