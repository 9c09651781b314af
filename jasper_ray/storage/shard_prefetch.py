"""Shards fetched ahead of their use, by a few threads, in the order in which they will be needed."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import CacheCounts, ShardCache

logger = logging.getLogger(__name__)

CLOSE_WAIT_S = 10.0
"""How long `close` waits for downloads under way; what they have begun is cleaned up later if they are killed."""


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
        max_held: Shards on the disk at a time; `fetch` gets one more rather than wait for ever.
        num_threads: Downloads at a time.
    """

    def __init__(self, cache: ShardCache, *, max_held: int | None = None, num_threads: int = 3) -> None:
        self._cache = cache
        self.max_held = max_held
        self._num_threads = num_threads
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
        return self._cache.counts

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Fetch these next, in this order, as far as there is room; replaces what an earlier call asked for."""
        with self._changed:
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
        """See `ShardCache.fetch`; waits for a download under way, and raises what went wrong with it."""
        shard = Shard(uri, checksum)
        if object_store.is_local(uri):
            return self._cache.fetch(uri)
        with self._changed:
            self._changed.wait_for(lambda: shard not in self._busy)
            if shard in self._errors:
                raise self._errors.pop(shard)
            if shard in self._wanted:
                self._wanted.remove(shard)
            self._held.add(shard)
        return self._cache.fetch(uri, checksum=checksum, hold=True)

    def release(self, shard: Shard, *, drop: bool) -> None:
        """A shard is not needed any more, or not soon; with `drop` it leaves the disk."""
        with self._changed:
            if shard in self._busy:  # it finds out when it is done
                self._held.discard(shard)
                return
            self._held.discard(shard)
            self._errors.pop(shard, None)
        self._cache.release(shard.uri, checksum=shard.checksum, drop=drop)
        with self._changed:
            self._changed.notify_all()

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
            self.release(shard, drop=False)

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
                size = self._cache.fetch(shard.uri, checksum=shard.checksum, hold=True).stat().st_size
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
                self.release(shard, drop=self.max_held is not None)

    def _has_room(self) -> bool:
        """Whether one more fits without pushing out what was fetched and is not used up yet."""
        if not self._wanted:
            return False
        if self.max_held is not None and len(self._held) >= self.max_held:
            return False
        # All as large as the largest: who is being fetched, here or by `fetch`, has no size yet.
        return not self._held or (len(self._held) + 1) * self._largest_bytes <= self._cache.max_bytes
