"""One writer to a folder at a time, on any store: a lease that is written, read back and renewed.

Nothing is asked of the store but that a reader sees what was written last: `If-None-Match` lets several writers win on
some. Clocks are not compared: a lease is given up when it has not changed for `EXPIRES_S` as its reader counts. Of two
that begin in the same moment on a store that is slow for one of them, the one that wrote first may learn only with its
first renewal, a second or so later, that it has lost.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from jasper_ray.errors import LeaseError, StorageError
from jasper_ray.storage import object_store

logger = logging.getLogger(__name__)

LEASE_FILE = "LEASE.json"
RENEWED_S = 10.0
EXPIRES_S = 30.0
SETTLES_S = 1.0
"""Between a write and its reading back: longer than another one may take from finding no lease to writing its own."""
LOCALLY_SETTLES_S = 0.2


class Lease:
    """Held as long as the block lasts; renewed by a thread of its own.

    Args:
        folder: Local or on a store.
        renewed_s: How often it is written anew.
        expires_s: How long it must stay unchanged until it counts as given up.
        on_lost: Called, by that thread, when another one has taken it.
    """

    def __init__(
        self,
        folder: str,
        *,
        renewed_s: float = RENEWED_S,
        expires_s: float = EXPIRES_S,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_lost = on_lost
        self._folder = folder
        self._uri = object_store.join(folder, LEASE_FILE)
        self._renewed_s, self._expires_s = renewed_s, expires_s
        self._settles_s = LOCALLY_SETTLES_S if object_store.is_local(folder) else SETTLES_S
        self._mine = {
            "owner": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": _process(os.getpid()),
            "boot": _boot(),
        }
        self._count = 0
        self._lost: LeaseError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        """Take it.

        Raises:
            LeaseError: Another one holds it, or took it at the same time.
        """
        given_up = self._wait_until_free()
        started_s = time.monotonic()
        self._check(besides=given_up)
        self._write()
        # Longer than another one may take from finding none to writing its own: the store may be slow for it as well.
        time.sleep(max(self._settles_s, 4 * (time.monotonic() - started_s)))
        self._check()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if self._lost is None:
            try:
                self._check()
                object_store.delete_file(self._uri)
            except (LeaseError, StorageError) as problem:  # it expires by itself
                logger.warning("%s", problem)

    def still_ours(self) -> None:
        """Nothing, as long as it is.

        Raises:
            LeaseError: Another one has taken it.
        """
        if self._lost is not None:
            raise self._lost

    def _wait_until_free(self) -> str:
        """Watch a lease that is there until it has expired, or changes; returns the owner that has given it up."""
        found = self._read()
        if found is None:
            return ""
        if _is_over(found):
            return str(found["owner"])
        logger.info("%s: waiting up to %.0f s to see whether its run is still there", self._uri, self._expires_s)
        deadline_s = time.monotonic() + self._expires_s
        while time.monotonic() < deadline_s:
            time.sleep(min(1.0, self._expires_s / 10))
            now = self._read()
            if now is None:
                return ""
            if now != found:
                raise self._taken_by(now)
        logger.warning("%s: taken over from a run that has gone: %s", self._uri, _words(found))
        return str(found["owner"])

    def _keep(self) -> None:
        pause_s = self._settles_s  # soon once more: another one may have begun in the moment before ours was read back
        while not self._stopped.wait(pause_s):
            pause_s = self._renewed_s
            try:
                self._check()
                self._write()
            except LeaseError as error:
                self._lost = error
                self._on_lost()
                return
            except StorageError as error:
                logger.warning("the lease could not be renewed: %s", error)

    def _check(self, besides: str = "") -> None:
        found = self._read()
        if found is not None and found["owner"] not in (self._mine["owner"], besides):
            raise self._taken_by(found)

    def _read(self) -> dict[str, Any] | None:
        try:
            if not object_store.exists(self._uri):
                return None
            found: dict[str, Any] = json.loads(object_store.read_bytes(self._uri))
        except ValueError:
            return None
        return found if isinstance(found, dict) and "owner" in found else None

    def _write(self) -> None:
        self._count += 1
        object_store.write_bytes(self._uri, json.dumps({**self._mine, "count": self._count}).encode())

    def _taken_by(self, found: dict[str, Any]) -> LeaseError:
        return LeaseError(
            f"{self._folder} is written by another run, {_words(found)}: two runs would damage each other's "
            f"checkpoints. End that one, or choose another output. If it is gone, its lease expires after "
            f"{self._expires_s:g} s"
        )


def _words(found: dict[str, Any]) -> str:
    return f"process {found.get('pid')} on {found.get('host')}"


def _is_over(found: dict[str, Any]) -> bool:
    """Whether its process ran on this machine, since it was switched on, and is gone."""
    return found.get("boot") == _boot() != "" and found.get("process") != _process(int(found.get("pid") or 0))


def _boot() -> str:
    """This machine, since it was switched on; empty where that is not known. Containers see different processes."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process(pid: int) -> str:
    """When a process was started; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
