import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="the extra [demo] is not installed")

from jasper_ray.data.espeak import Espeak
from jasper_ray.errors import DataError

REQUEST: dict[str, Any] = {"text": "one two three", "voice": "en-us", "pitch": 50, "range": 50, "rate": 175}


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """A process that does not answer is a failure, not a test that never ends."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("no answer from eSpeak within 20 s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_the_same_request_gives_the_same_samples_whatever_was_spoken_before() -> None:
    other = REQUEST | {"text": "a good morning", "voice": "en+m1", "pitch": 20}
    with Espeak() as espeak:
        first, _, again = espeak.speak_all([REQUEST, other, REQUEST])
        assert espeak.sample_rate_hz == 22050
    assert np.array_equal(first, again) and len(first) > 10_000


def test_a_voice_that_does_not_exist_is_named() -> None:
    with Espeak() as espeak, pytest.raises(DataError, match="no-such-voice"):
        list(espeak.speak_all([REQUEST | {"voice": "no-such-voice"}]))


def test_a_request_that_makes_it_crash_is_named_and_does_not_hang() -> None:
    with Espeak() as espeak, pytest.raises(DataError, match="'pitch': 'high'"):
        list(espeak.speak_all([REQUEST, REQUEST | {"pitch": "high"}, REQUEST]))


def test_a_text_that_is_not_heard_is_an_error() -> None:
    with Espeak() as espeak, pytest.raises(DataError, match="'text': ' '"):
        list(espeak.speak_all([REQUEST | {"text": " "}]))


def test_leaving_in_the_middle_ends_the_process_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    with Espeak() as espeak:
        next(espeak.speak_all([REQUEST] * 50))
    assert espeak._process.returncode is not None
    assert capfd.readouterr().err == ""


def test_the_library_is_never_loaded_into_the_process_that_asks() -> None:
    with Espeak() as espeak:
        list(espeak.speak_all([REQUEST]))
    with open("/proc/self/maps") as maps:
        assert "espeak" not in maps.read()
