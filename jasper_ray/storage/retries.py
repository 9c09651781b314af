"""Which failures of a store pass by themselves, how often and how long to try again, and what to say when they stay."""

import itertools
import logging
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from jasper_ray.errors import ConfigError, StorageError
from jasper_ray.storage.request_counts import counted

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

MAX_PAUSE_S = 20.0
# As pyarrow spells them: by name where the answer had a body, by status where it had none (HEAD).
PASSING_FAULTS = (
    "timeout",
    "timed out",
    "HTTP status 408",
    "HTTP status 429",
    "HTTP status 500",
    "HTTP status 502",
    "HTTP status 503",
    "HTTP status 504",
    "SLOW_DOWN",
    "SlowDown",
    "THROTTLING",
    "SERVICE_UNAVAILABLE",
    "INTERNAL_FAILURE",
    "NETWORK_CONNECTION",
    "connection reset",
    "curlCode",
    # Google's client
    "UNAVAILABLE",
    "Could not connect",
    "PerformWork",
    # ours
    "short answer",
    "changed while",
)
REFUSALS = ("ACCESS_DENIED", "SIGNATURE", "INVALID_ACCESS_KEY", "HTTP status 403", "HTTP status 401", "redential")


@dataclass(frozen=True)
class Limits:
    """How long to wait for a store and how often to ask again; each from an environment variable."""

    attempts: int = 5
    """JASPER_STORE_ATTEMPTS: tries of one request; the S3 client makes up to `CLIENT_ATTEMPTS` in each."""
    first_pause_s: float = 0.2
    """JASPER_STORE_FIRST_PAUSE_S: before the second try; twice that before the next and so on, ±50 %."""
    connect_timeout_s: float = 10.0
    """JASPER_STORE_CONNECT_TIMEOUT_S: for a connection."""
    request_timeout_s: float = 30.0
    """JASPER_STORE_REQUEST_TIMEOUT_S: without a byte in either direction; whole seconds, at least 1."""

    patience_s: float = 0.0
    """JASPER_STORE_PATIENCE_S: an outage of so many seconds is waited for even when all tries are used up."""

    def pause_s(self, attempt: int) -> float:
        """Seconds between this attempt, from 1, and the next."""
        return min(MAX_PAUSE_S, self.first_pause_s * 2.0 ** min(attempt - 1, 30)) * random.uniform(0.5, 1.5)


VARIABLES = {
    "attempts": ("JASPER_STORE_ATTEMPTS", 1.0),
    "first_pause_s": ("JASPER_STORE_FIRST_PAUSE_S", 0.0),
    "connect_timeout_s": ("JASPER_STORE_CONNECT_TIMEOUT_S", 0.1),
    "request_timeout_s": ("JASPER_STORE_REQUEST_TIMEOUT_S", 1.0),
    "patience_s": ("JASPER_STORE_PATIENCE_S", 0.0),
}


def limits() -> Limits:
    """The limits that this process's environment sets.

    Raises:
        ConfigError: A variable is no number, or too small; names it.
    """
    values: dict[str, float] = {}
    for name, (variable, lowest) in VARIABLES.items():
        text = os.environ.get(variable, "")
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (lowest <= value < math.inf) or (name == "attempts" and value != int(value)):
            kind = "a whole number" if name == "attempts" else "seconds"
            raise ConfigError(f"{variable} must be {kind}, at least {lowest:g}, got {text!r}")
        values[name] = value
    attempts = int(values.pop("attempts", Limits.attempts))
    return Limits(attempts=attempts, **values)


def retried(uri: str, store: str, work: Callable[[], Value]) -> Value:
    """Run one request; again after a pause if its failure may pass by itself.

    Args:
        uri: What the request is about, for messages.
        store: Which store answers it, for messages.
        work: The request; must be right when it is repeated.

    Raises:
        StorageError: It failed for good: names object, store, number of attempts, what was said and what to do.
    """
    allowed = limits()
    started_s = time.monotonic()
    with counted() as request:
        for attempt in itertools.count(1):
            request.attempts = attempt
            try:
                return work()
            except StorageError:
                raise
            except FileNotFoundError as error:
                raise StorageError(f"{uri}: there is no such object (store: {store})") from error
            except OSError as error:
                used_up = attempt >= allowed.attempts and time.monotonic() - started_s >= allowed.patience_s
                if not passes(error) or used_up:
                    tried = f" after {attempt} attempts" if attempt > 1 else ""
                    raise StorageError(f"{uri}: failed{tried} (store: {store}): {error}{advice(str(error))}") from error
                pause_s = allowed.pause_s(attempt)
                logger.warning("%s: attempt %d failed, trying again in %.1f s: %s", uri, attempt, pause_s, error)
                time.sleep(pause_s)
    raise AssertionError("unreachable")


def passes(error: OSError) -> bool:
    """Whether a failure may be gone at the next try."""
    return any(fault.lower() in str(error).lower() for fault in PASSING_FAULTS)


def advice(message: str) -> str:
    """What to do about a store's message; empty where we know nothing."""
    if any(sign in message for sign in REFUSALS):
        return (
            ". The store refuses these credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the node's "
            "instance role, and what they may do there"
        )
    if "NO_SUCH_BUCKET" in message:
        return ". Create the bucket first"
    if "HTTP status 411" in message or "MISSING_CONTENT_LENGTH" in message:
        return ". Set AWS_REQUEST_CHECKSUM_CALCULATION=when_required in the environment before Python starts"
    if "SLOW_DOWN" in message or "HTTP status 503" in message or "SlowDown" in message:
        return ". The store is overloaded: use fewer workers or downloads at a time, or raise JASPER_STORE_ATTEMPTS"
    if "timeout" in message.lower() or "timed out" in message.lower() or "curlCode: 28" in message:
        return ". No answer in time: check the store, or raise JASPER_STORE_REQUEST_TIMEOUT_S"
    if "curlCode" in message or "NETWORK_CONNECTION" in message:
        return ". Check that this endpoint can be reached from here (AWS_ENDPOINT_URL, network, proxy variables)"
    return ""
