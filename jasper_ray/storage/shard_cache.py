"""Shards of an object store on this node's disk: fetched once for all processes, verified, oldest out first."""

import fcntl
import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jasper_ray.errors import StorageError
from jasper_ray.storage import object_store

logger = logging.getLogger(__name__)

SHARD_SUFFIX = ".shard"


@dataclass
class CacheCounts:
    """What a process got from its cache so far."""

    hits: int = 0
    """Shards that were there."""
    misses: int = 0
    """Shards that were downloaded."""
    num_bytes: int = 0
    """Downloaded."""
    seconds: float = 0.0
    """Spent in downloads, of all threads together."""


class ShardCache:
    """A folder shared by the processes of a node.

    Locks are the kernel's (`flock`), so those of a killed process are gone with it; unfinished downloads have another
    name than finished ones and are cleaned up by the next process that uses the folder. A shard that is held is dropped
    by no other process, and by this one only if nothing else is left to drop.

    Args:
        folder: Where shards are kept.
        max_bytes: Size limit of the folder; the shard in use now is kept even if it alone is larger.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.counts = CacheCounts()
        self.max_bytes = max_bytes
        self._folder = folder
        self._held: OrderedDict[Path, IO[str]] = OrderedDict()
        self._lock = threading.Lock()
        self._is_clean = False

    def fetch(self, uri: str, *, checksum: str = "", hold: bool = False) -> Path:
        """The shard as a local file. A local URI is returned as it is; another is downloaded if it is not there yet.

        Args:
            uri: Where the shard is stored.
            checksum: SHA-256 of the file in hexadecimal; empty for a dataset that has none.
            hold: Keep it until `release`.

        Raises:
            StorageError: It cannot be downloaded, or is not what the dataset was prepared with.
        """
        if object_store.is_local(uri):
            return object_store.local_path(uri)
        self._clean_up()
        path = self.path(uri, checksum)
        # Held meanwhile in any case: nobody may drop it between the look and the return.
        user, is_kept = _shared(path.with_suffix(".use")), False
        try:
            with _exclusive(path.with_suffix(".lock")):
                is_there = path.exists()
                if not is_there:
                    self._download(uri, path, checksum)
            os.utime(path)  # the time of use decides what goes first
            with self._lock:
                self.counts.hits += is_there
                if hold and path not in self._held:
                    self._held[path] = user
                    is_kept = True
        finally:
            if not is_kept:
                user.close()
        self._evict(keep=path)
        return path

    def release(self, uri: str, *, checksum: str = "") -> None:
        """Let go of a held shard."""
        with self._lock:
            user = self._held.pop(self.path(uri, checksum), None)
        if user is not None:
            user.close()

    def files(self) -> list[Path]:
        """Shards that lie here, of any dataset."""
        return list(self._folder.glob(f"*{SHARD_SUFFIX}"))

    def drop(self, path: Path) -> None:
        """Delete a shard, unless somebody holds it."""
        _drop(path)

    def path(self, uri: str, checksum: str = "") -> Path:
        """Where a remote shard lies once it is fetched."""
        # With the checksum in it: a dataset that was prepared anew at the same place has other shards.
        name = hashlib.sha256(f"{uri}\n{checksum}".encode()).hexdigest()[:32]
        return self._folder / (name + SHARD_SUFFIX)

    def _download(self, uri: str, path: Path, checksum: str) -> None:
        started_s = time.monotonic()
        found = ""
        for attempt in (1, 2):
            object_store.download_file(uri, path)
            found = _sha256(path) if checksum else ""
            if found == checksum:
                break
            path.unlink()
            logger.warning("%s: download %d has SHA-256 %s instead of %s", uri, attempt, found, checksum)
        else:
            raise StorageError(
                f"{uri}: its content has SHA-256 {found}, the dataset was prepared with {checksum} (downloaded twice). "
                "Its file was changed or damaged in the store: prepare the dataset again, or put the right file back"
            )
        with self._lock:
            self.counts.misses += 1
            self.counts.num_bytes += path.stat().st_size
            self.counts.seconds += time.monotonic() - started_s

    def _clean_up(self) -> None:
        """Once: remove what killed processes left unfinished."""
        with self._lock:
            if self._is_clean:
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            for leftover in self._folder.glob(f".*{SHARD_SUFFIX}.*.partial"):
                name = leftover.name[1:].partition(".")[0]
                with _if_free(self._folder / f"{name}.lock") as is_free:
                    if is_free:
                        leftover.unlink(missing_ok=True)
            self._is_clean = True

    def _evict(self, *, keep: Path) -> None:
        with _exclusive(self._folder / "evict.lock"):
            shards = sorted(self._folder.glob(f"*{SHARD_SUFFIX}"), key=_age)
            total = sum(_size(path) for path in shards)
            for path in shards:
                if total <= self.max_bytes:
                    return
                size = _size(path)
                if path != keep and _drop(path):
                    total -= size
            total = self._evict_held(total, keep=keep)
        if total > self.max_bytes:
            logger.warning(
                "shard cache %s holds %d bytes, more than its limit of %d: other processes hold the rest",
                self._folder,
                total,
                self.max_bytes,
            )

    def _evict_held(self, total: int, *, keep: Path) -> int:
        """Drop this process's own, the one taken last first: it is the one that is needed last."""
        with self._lock:
            candidates = [path for path in reversed(self._held) if path != keep]
        for path in candidates:
            if total <= self.max_bytes:
                break
            with self._lock:
                user = self._held.pop(path, None)
            if user is None:
                continue
            user.close()
            size = _size(path)
            if _drop(path):
                total -= size
        return total


def _age(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _drop(path: Path) -> bool:
    """Delete a shard unless somebody holds it; who has it mapped keeps it until they let go."""
    with _if_free(path.with_suffix(".use")) as is_free:
        if is_free:
            path.unlink(missing_ok=True)
        return is_free


def _shared(path: Path) -> IO[str]:
    file = path.open("a")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _if_free(path: Path) -> Iterator[bool]:
    """Whether nobody has the lock; taken for the time of the block if so."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
