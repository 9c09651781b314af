"""The shards of a dataset that are open at the moment, for reading single rows from any thread."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

from jasper_ray.data.fetch_ahead import FetchAhead, ShardFetcher
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.shards import ShardReader
from jasper_ray.errors import DataError
from jasper_ray.storage import object_store

# Each open shard holds a memory map and maybe a file descriptor, of which a process often has no more than 1024.
MAX_OPEN_SHARDS = 256
NUM_FETCHES = 5
"""Of a shard that other processes drop from the cache before it is open."""


class OpenShards:
    """Opens shards when they are needed; the one unused for longest is let go when there are too many."""

    def __init__(self, manifest: Manifest, cache: ShardFetcher) -> None:
        self._cache = cache
        self._checksums = {uri: manifest.checksum(shard) for shard, uri in enumerate(manifest.shards)}
        self._shards: OrderedDict[str, ShardReader] = OrderedDict()
        self._lock = threading.Lock()

    def ahead(self, uris: Iterable[str]) -> FetchAhead:
        """Begin to fetch these, which will be needed in this order."""
        return FetchAhead(self._cache, [(uri, self._checksums[uri]) for uri in uris])

    def shard(self, uri: str) -> ShardReader:
        """An open shard.

        Raises:
            DataError: It is damaged.
            StorageError: It cannot be fetched.
        """
        with self._lock:
            if uri not in self._shards:
                self._shards[uri] = self._open(uri)
                if len(self._shards) > MAX_OPEN_SHARDS:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(uri)
            return self._shards[uri]

    def forget(self, uri: str) -> None:
        """Let go of an open shard, so that its file can leave the disk; audio handed out before stays readable."""
        with self._lock:
            self._shards.pop(uri, None)

    def _open(self, uri: str) -> ShardReader:
        for _ in range(NUM_FETCHES - 1):
            path = self._cache.fetch(uri, checksum=self._checksums[uri])
            try:
                return ShardReader(path)
            except DataError:
                if path.exists() or object_store.is_local(uri):
                    raise
                # Another process dropped it just now: fetch it again.
        return ShardReader(self._cache.fetch(uri, checksum=self._checksums[uri]))
