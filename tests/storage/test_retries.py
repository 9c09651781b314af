import os
import time

import pytest

from jasper_ray.errors import ConfigError, StorageError
from jasper_ray.storage import retries
from jasper_ray.storage.retries import Limits, limits, retried


@pytest.fixture
def pauses_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def failing(*errors: OSError) -> tuple[list[OSError], object]:
    left = list(errors)

    def work() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return left, work


def test_a_store_that_recovers_is_not_an_error(pauses_s: list[float]) -> None:
    _, work = failing(*[OSError("AWS Error SLOW_DOWN during GetObject operation: slow")] * 3)
    assert retried("s3://b/k", "there", work) == "done"  # type: ignore[arg-type]
    assert len(pauses_s) == 3 and all(0.5 <= pause_s / (0.2 * 2**n) <= 1.5 for n, pause_s in enumerate(pauses_s))


def test_pauses_differ_between_processes_and_do_not_grow_without_end() -> None:
    drawn = [Limits().pause_s(3) for _ in range(50)]
    assert len(set(drawn)) > 40 and 0.4 <= min(drawn) < 0.6 < 1.0 < max(drawn) <= 1.2
    assert max(Limits().pause_s(100) for _ in range(50)) <= 30


def test_a_failure_that_stays_says_object_store_attempts_and_advice(pauses_s: list[float]) -> None:
    left, work = failing(*[OSError("AWS Error SLOW_DOWN during GetObject operation: slow")] * 9)
    with pytest.raises(StorageError, match=r"s3://b/k: failed after 5 attempts \(store: there\).*slow.*fewer workers"):
        retried("s3://b/k", "there", work)  # type: ignore[arg-type]
    assert len(left) == 4 and len(pauses_s) == 4


@pytest.mark.parametrize(
    ("message", "advised"),
    [
        ("AWS Error ACCESS_DENIED during PutObject operation: No", "AWS_ACCESS_KEY_ID"),
        ("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation", "AWS_ACCESS_KEY_ID"),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation", "Create the bucket"),
        ("AWS Error UNKNOWN (HTTP status 411) during PutObject operation", "AWS_REQUEST_CHECKSUM_CALCULATION=when"),
        ("AWS Error INVALID_ARGUMENT", ""),
    ],
)
def test_a_failure_that_stays_is_not_tried_again_and_comes_with_advice(
    pauses_s: list[float], message: str, advised: str
) -> None:
    _, work = failing(OSError(message))
    with pytest.raises(StorageError) as error:
        retried("s3://b/k", "there", work)  # type: ignore[arg-type]
    assert (
        not pauses_s and advised in str(error.value) and str(error.value).startswith("s3://b/k: failed (store: there)")
    )


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits() == Limits()
    for name, (variable, _) in retries.VARIABLES.items():
        monkeypatch.setenv(variable, {"attempts": "2"}.get(name, "1.5"))
    assert limits() == Limits(
        attempts=2, first_pause_s=1.5, connect_timeout_s=1.5, request_timeout_s=1.5, patience_s=1.5
    )


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf", "1.5"])
def test_a_limit_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("JASPER_STORE_ATTEMPTS", value)
    with pytest.raises(ConfigError, match=rf"JASPER_STORE_ATTEMPTS must be a whole number, at least 1, got '{value}'"):
        limits()
    assert "JASPER_STORE_ATTEMPTS" in os.environ


def test_an_outage_is_waited_for_as_long_as_patience_says_however_many_tries_that_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0

    def sleep(pause_s: float) -> None:
        nonlocal now_s
        now_s += pause_s

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setenv("JASPER_STORE_PATIENCE_S", "60")
    left, work = failing(*[OSError("AWS Error NETWORK_CONNECTION: refused")] * 99)
    with pytest.raises(StorageError, match="refused"):
        retried("s3://b/k", "there", work)  # type: ignore[arg-type]
    assert 60 <= now_s <= 90 and 99 - len(left) > 5
    left, work = failing(*[OSError("AWS Error NETWORK_CONNECTION: refused")] * 7)
    assert retried("s3://b/k", "there", work) == "done"  # type: ignore[arg-type]
