"""What this process asked of object stores so far, for metrics."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace


@dataclass
class RequestCounts:
    """Of all threads together."""

    requests: int = 0
    """That succeeded, or failed for good."""
    retries: int = 0
    """Tries beyond the first."""
    failures: int = 0
    """That failed for good; an object that is not there is an answer, not a failure."""
    seconds: float = 0.0
    """Spent in requests, pauses between tries included."""


@dataclass
class Request:
    """One request while it goes on."""

    attempts: int = 1


_counts, _lock = RequestCounts(), threading.Lock()


def request_counts() -> RequestCounts:
    """A copy of what was counted so far."""
    with _lock:
        return replace(_counts)


@contextmanager
def counted() -> Iterator[Request]:
    """Count the block as a request; whoever tries again says so in `attempts`."""
    request, started_s, has_failed = Request(), time.monotonic(), False
    try:
        yield request
    except BaseException as error:
        has_failed = not isinstance(error.__cause__, FileNotFoundError)
        raise
    finally:
        with _lock:
            _counts.requests += 1
            _counts.retries += request.attempts - 1
            _counts.failures += has_failed
            _counts.seconds += time.monotonic() - started_s
