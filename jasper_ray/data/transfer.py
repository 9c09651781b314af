"""A file of known size from HTTP mirrors: parallel ranges, retries; whole where a server has no ranges."""

import http.client
import logging
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jasper_ray.data.part_file import PartFile
from jasper_ray.errors import StorageError

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 18
# A connection that brought this much was a good one: the count of failures begins anew.
PROGRESS_BYTES = 1 << 16
PASSING_STATUSES = (408, 425, 429)
# A status such as 404 may come from one of several machines behind a name, but not for long.
MAX_REFUSALS = 2
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class DownloadOptions:
    """How patiently and how fast a file is fetched."""

    num_connections: int = 4
    chunk_bytes: int = 16 << 20
    timeout_s: float = 30.0
    """A connection that says nothing for so long has hung."""
    min_bytes_per_s: float = 1000.0
    """One that brings less than this, over that time, is as good as hung."""
    max_attempts: int = 8
    """Failures in a row, without progress, after which a mirror is given up."""
    backoff_s: float = 1.0
    """Wait after the first failure; doubled by each further one."""
    max_backoff_s: float = 60.0


@dataclass
class _Mirror:
    url: str
    has_ranges: bool = True
    given_up: str = ""
    """Why, if it is."""


class _Failure(Exception):
    """A request that did not bring what it should; trying again may help."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _Refusal(_Failure):
    """An answer that will not change soon."""


class _NoRangesError(Exception):
    """A server sends the whole file whatever range it is asked for."""


@dataclass
class Transfer:
    """Fetches what a part file lacks. Mirrors are used in their order: the next one when one is given up."""

    part: PartFile
    urls: Sequence[str]
    options: DownloadOptions
    jitter: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._mirrors = [_Mirror(url) for url in self.urls]
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._chunks: deque[int] = deque()
        self._error: BaseException | None = None

    def run(self, progress: Callable[[int, int], None]) -> None:
        """Fetch all; `progress` is told the bytes that are there and their number in all.

        Raises:
            StorageError: Every mirror was given up; names each with its reason.
            OSError: The disk took no more.
        """
        missing = [chunk for chunk in range(self.part.num_chunks) if self._lacks(chunk)]
        self._chunks.extend(missing)
        self._run_threads(self._fetch_chunks, min(self.options.num_connections, len(missing)), progress)
        if any(map(self._lacks, missing)):  # no mirror that is left has ranges
            self.part.forget()
            self._run_threads(self._fetch_whole, 1, progress)
        progress(self.part.num_done, self.part.num_bytes)

    def _lacks(self, chunk: int) -> bool:
        first, last = self.part.missing(chunk)
        return first < last

    def _run_threads(self, work: Callable[[], None], count: int, progress: Callable[[int, int], None]) -> None:
        # Daemons: whoever interrupts the program does not wait for a read that hangs.
        threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and self._error is None:
                    thread.join(0.1)
                    progress(self.part.num_done, self.part.num_bytes)
        finally:
            if any(thread.is_alive() for thread in threads):
                self._stopped.set()
        if self._error is not None:
            raise self._error

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised again by the thread that waits for this one
            self._error = self._error or error
            self._stopped.set()

    def _fetch_chunks(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                if not self._chunks:
                    return
                chunk = self._chunks.popleft()
            if not self._persist(partial(self._fetch_chunk, chunk), needs_ranges=True):
                return

    def _persist(self, attempt: Callable[[_Mirror], None], *, needs_ranges: bool) -> bool:
        """Try until it works, mirror after mirror; False if what is left are mirrors without ranges."""
        while True:
            mirror = self._usable_mirror(needs_ranges)
            if mirror is None:
                return False
            try:
                if self._try_mirror(mirror, attempt):
                    return True
            except _NoRangesError:
                mirror.has_ranges = False
            except _Failure as error:
                if not mirror.given_up:
                    logger.warning("%s is given up: %s", mirror.url, error)
                mirror.given_up = str(error)

    def _usable_mirror(self, needs_ranges: bool) -> _Mirror | None:
        alive = [mirror for mirror in self._mirrors if not mirror.given_up]
        if not alive:
            reasons = "; ".join(f"{mirror.url}: {mirror.given_up}" for mirror in self._mirrors)
            raise StorageError(
                f"{self.part.path.name} cannot be fetched: {reasons}. What has come so far is kept: run it again to go "
                "on, or name another mirror"
            )
        return next((mirror for mirror in alive if mirror.has_ranges or not needs_ranges), None)

    def _try_mirror(self, mirror: _Mirror, attempt: Callable[[_Mirror], None]) -> bool:
        """Attempts at one mirror, until it works (or there is no more need) or another thread gives the mirror up.

        Raises:
            _Failure: The last one, when there were too many without progress.
        """
        num_failures, seen = 0, self.part.num_done
        while not mirror.given_up:
            if self._stopped.is_set():
                return True
            try:
                attempt(mirror)
                return True
            except _Failure as error:
                # What other threads got since the last one counts as well: the mirror is alive.
                num_failures = 1 if self.part.num_done - seen >= PROGRESS_BYTES else num_failures + 1
                seen = self.part.num_done
                if num_failures >= (MAX_REFUSALS if isinstance(error, _Refusal) else self.options.max_attempts):
                    raise
                wait_s = min(self.options.max_backoff_s, self.options.backoff_s * 2 ** (num_failures - 1))
                wait_s = max(wait_s * self.jitter.uniform(0.5, 1), min(error.retry_after_s, self.options.max_backoff_s))
                logger.info("%s: %s; next attempt in %.1f s", mirror.url, error, wait_s)
                self._stopped.wait(wait_s)
        return False

    def _fetch_chunk(self, chunk: int, mirror: _Mirror) -> None:
        first, last = self.part.missing(chunk)
        if first == last:
            return
        with _answer(mirror.url, self.options.timeout_s, {"Range": f"bytes={first}-{last - 1}"}) as response:
            if response.status != 206:
                raise _NoRangesError
            found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != first or found[3] not in ("*", str(self.part.num_bytes)):
                raise _Refusal(
                    f"answers bytes {first}-{last - 1} of {self.part.num_bytes} with "
                    f"{response.headers.get('Content-Range')!r}"
                )
            self._take(response, chunk)

    def _fetch_whole(self) -> None:
        self._persist(self._fetch_all_chunks, needs_ranges=False)

    def _fetch_all_chunks(self, mirror: _Mirror) -> None:
        self.part.forget()
        with _answer(mirror.url, self.options.timeout_s, {}) as response:
            length = response.headers.get("Content-Length")
            if length is not None and length != str(self.part.num_bytes):
                raise _Refusal(f"offers {length} bytes instead of {self.part.num_bytes}")
            for chunk in range(self.part.num_chunks):
                self._take(response, chunk)

    def _take(self, response: Any, chunk: int) -> None:
        """Write what comes until the chunk is full."""
        first, last = self.part.missing(chunk)
        timed_s, timed_from = time.monotonic(), first
        while first < last and not self._stopped.is_set():
            content = _read(response, min(READ_BYTES, last - first))
            if not content:
                raise _Failure(f"the connection was cut at byte {first}")
            self.part.write(chunk, content)
            first += len(content)
            passed_s = time.monotonic() - timed_s
            if passed_s > self.options.timeout_s:
                if first - timed_from < self.options.min_bytes_per_s * passed_s:
                    raise _Failure(f"the connection crawls: {first - timed_from} bytes in {passed_s:.0f} s")
                timed_s, timed_from = time.monotonic(), first


def _read(response: Any, num_bytes: int) -> bytes:
    try:
        content: bytes = response.read1(num_bytes)
    except TimeoutError as error:
        raise _Failure("the connection hung") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Failure(f"the connection broke: {error}") from error
    return content


def _answer(url: str, timeout_s: float, headers: dict[str, str]) -> Any:
    """The open answer to a GET; what is not 200 or 206 is a failure."""
    request = urllib.request.Request(url, headers={"User-Agent": "jasper_ray", "Accept-Encoding": "identity"} | headers)
    try:
        return urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            said = f"status {error.code} {error.reason}"
            retry_after = error.headers.get("Retry-After", "")
        if error.code >= 500 or error.code in PASSING_STATUSES:
            raise _Failure(said, retry_after_s=float(retry_after) if retry_after.isdigit() else 0.0) from error
        raise _Refusal(said) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _Failure("no answer in time" if isinstance(reason, TimeoutError) else f"no answer: {reason}") from error
