"""A file from the internet, whole and verified: mirrors, parallel ranges, resumed after anything, MD5 at the end."""

import errno
import fcntl
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jasper_ray.data.part_file import PartFile
from jasper_ray.data.transfer import DownloadOptions, Transfer
from jasper_ray.errors import StorageError

logger = logging.getLogger(__name__)

PART_SUFFIX = ".part"
HASHED_BYTES = 1 << 20
# Two downloads with a wrong sum are no accident of the net.
MAX_DOWNLOADS = 2

DEFAULT_OPTIONS = DownloadOptions()

Progress = Callable[[str, int, int], None]
"""Told a file's name, how many of its bytes are there, and how many it has."""


class LoggedProgress:
    """A line in the log at the beginning and for every tenth of a file."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        """Log, if there is something new."""
        tenth = 10 * done // max(1, total)
        if tenth >= self._next.get(name, 0):
            self._next[name] = tenth + 1
            logger.info("%s: %.2f of %.2f GB", name, done / 1e9, total / 1e9)


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    name: str
    num_bytes: int
    md5: str
    urls: tuple[str, ...]
    """The same file at several places, the preferred first."""


def download(file: RemoteFile, folder: Path, *, progress: Progress, options: DownloadOptions = DEFAULT_OPTIONS) -> Path:
    """The file in the folder, fetched if it is not there yet; a process that was killed is gone on from.

    Args:
        file: What to fetch, and from where.
        folder: Made if it is not there. Processes that fetch the same file into it wait for one another.
        progress: Told several times a second how far it is.
        options: Patience and speed.

    Raises:
        StorageError: No mirror gives it, its MD5 is wrong twice, or the disk is full; names the mirrors or the folder
            and what to do.
    """
    target = folder / file.name
    with disk_errors(folder, file.num_bytes):
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(folder / f".{file.name}.lock"):
            if target.exists():
                if _md5(target) == file.md5:
                    return target
                logger.warning("%s is there, but its MD5 is not %s: it is fetched anew", target, file.md5)
            _fetch(file, target, options, progress)
    return target


def _fetch(file: RemoteFile, target: Path, options: DownloadOptions, progress: Progress) -> None:
    path, urls, found = target.with_name(target.name + PART_SUFFIX), file.urls, ""
    for _ in range(MAX_DOWNLOADS):
        with PartFile(path, num_bytes=file.num_bytes, chunk_bytes=options.chunk_bytes) as part:
            check_space(target.parent, file.num_bytes - part.num_done, file.name)
            Transfer(part, urls, options).run(lambda done, total: progress(file.name, done, total))
        logger.info("%s has come, its MD5 is checked", file.name)
        found = _md5(path)
        if found == file.md5:
            path.replace(target)
            part.delete_state()
            return
        path.unlink()
        part.delete_state()
        logger.warning("%s came with MD5 %s instead of %s", file.name, found, file.md5)
        # The one that sent wrong bytes comes last now.
        urls = (*urls[1:], *urls[:1])
    raise StorageError(
        f"{file.name} came with MD5 {found}, published is {file.md5}: {MAX_DOWNLOADS} downloads from {', '.join(urls)} "
        "were wrong. Something on the way changes it, or the mirror has another file: name another mirror"
    )


def check_space(folder: Path, num_bytes: int, name: str) -> None:
    """Refuse to begin what cannot end.

    Raises:
        StorageError: The disk of the folder has fewer free bytes.
    """
    free_bytes = shutil.disk_usage(folder).free
    if num_bytes > free_bytes:
        raise StorageError(
            f"{folder}: {name} needs {num_bytes / 1e9:.2f} GB more, there are {free_bytes / 1e9:.2f} GB free. Make "
            "room, or name a folder on a larger disk with --download-dir"
        )


@contextmanager
def disk_errors(folder: Path, num_bytes: int) -> Iterator[None]:
    """What the disk refuses as a `StorageError` that says what to do."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{folder}: the disk is full ({num_bytes / 1e9:.2f} GB were to be written). What has come so far is "
                "kept: make room and run it again, or name a folder on a larger disk with --download-dir"
            ) from error
        raise StorageError(f"{folder}: cannot be written to: {error}") from error


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Let one process in at a time, by a lock on this file; that of a process that was killed is free."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest()
