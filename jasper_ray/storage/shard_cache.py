"""Shards of an object store on this node's disk: fetched once for all processes, whole, oldest out first."""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jasper_ray.storage import object_store

logger = logging.getLogger(__name__)

SHARD_SUFFIX = ".shard"


class ShardCache:
    """A folder shared by the processes of a node.

    Locks are the kernel's (`flock`), so those of a killed process are gone with it; unfinished downloads have another
    name than finished ones and are cleaned up by the next fetch of the same shard.

    Args:
        folder: Where shards are kept.
        max_bytes: Size limit of the folder; the shard in use now is kept even if it alone is larger.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def fetch(self, uri: str) -> Path:
        """The shard as a local file. A local URI is returned as it is; another is downloaded if it is not there yet.

        Raises:
            StorageError: It cannot be downloaded.
        """
        if object_store.is_local(uri):
            return object_store.local_path(uri)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / (hashlib.sha256(uri.encode()).hexdigest()[:32] + SHARD_SUFFIX)
        with self._locked(path.with_suffix(".lock")):
            if not path.exists():
                for leftover in self._folder.glob(f".{path.name}.*.partial"):
                    leftover.unlink(missing_ok=True)
                object_store.download_file(uri, path)
            os.utime(path)  # the time of use decides what goes first
        self._evict(keep=path)
        return path

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _evict(self, *, keep: Path) -> None:
        with self._locked(self._folder / "evict.lock"):
            shards = sorted(self._folder.glob(f"*{SHARD_SUFFIX}"), key=lambda path: path.stat().st_mtime)
            total = sum(path.stat().st_size for path in shards)
            for path in shards:
                if total <= self._max_bytes:
                    return
                if path != keep:
                    total -= path.stat().st_size
                    path.unlink()  # who has it mapped keeps it until they let go
                    logger.info("shard cache over %d bytes: dropped %s", self._max_bytes, path.name)
