import asyncio

import numpy as np
import pytest
from subjects import ToneTranscriber, tones

from jasper_ray.inference.transcriber import Transcript
from serve.live_session import Event, Final, LiveSession, Partial, SpeechStarted
from serve.recognizer import LocalRecognizer
from serve.scheduler import OverloadedError
from serve.segmenter import SegmentRules

RULES = SegmentRules(0.8, 10.0)


class Recorder(LocalRecognizer):
    """Notes the lengths that it was given; is busy at first if told so."""

    def __init__(self, num_busy: int = 0, busy_from_s: float = 0.0) -> None:
        super().__init__(ToneTranscriber())
        self.lengths_s: list[float] = []
        self._num_busy, self._busy_from_s = num_busy, busy_from_s

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        self.lengths_s.append(len(waveform) / 16000)
        if self._num_busy and self.lengths_s[-1] >= self._busy_from_s:
            self._num_busy -= 1
            raise OverloadedError("full", 0.02)
        return await super().transcribe(waveform)


def listen(
    samples: np.ndarray, recognizer: LocalRecognizer | None = None, piece: int = 1600, **options: float
) -> list[Event]:
    async def scenario() -> list[Event]:
        session = LiveSession(recognizer or Recorder(), 16000, RULES, **options)  # type: ignore[arg-type]
        events = []
        for start in range(0, len(samples), piece):
            events += [event async for event in session.feed(samples[start : start + piece])]
        return events + [event async for event in session.finish()]

    return asyncio.run(scenario())


def text(final: Final) -> str:
    return final.transcript.text


def test_words_come_while_they_are_said_and_the_final_ones_are_those_of_the_file() -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    samples = tones(words)
    events = listen(samples)
    assert isinstance(events[0], SpeechStarted)
    partials = [event for event in events if isinstance(event, Partial)]
    assert len(partials) >= 8 and len({partial.text for partial in partials}) >= 7
    (final,) = [event for event in events if isinstance(event, Final)]
    assert final.transcript == ToneTranscriber().transcribe([samples])[0]
    stable = [word for partial in partials for word in partial.new]
    assert [word.word for word in (*stable, *(final.rest or ()))] == words
    assert 3 <= len(stable) < 7


def test_stable_words_never_change_until_their_utterance_ends() -> None:
    events = listen(tones(["one", "nine", "two", "eight", 2.0, "three", "seven", "four"]))
    before: tuple[str, ...] = ()
    for event in events:
        if isinstance(event, Partial):
            stable = tuple(word.word for word in event.stable)
            assert stable[: len(before)] == before
            before = stable
        elif isinstance(event, Final):
            assert tuple(event.transcript.text.split())[: len(before)] == before
            before = ()


def test_times_are_those_of_the_stream_and_silence_says_nothing() -> None:
    events = listen(tones([10.0, "one", 5.0, "two", 3.0]))
    first, second = [event for event in events if isinstance(event, Final)]
    assert (text(first), text(second)) == ("one", "two")
    assert first.transcript.words[0].start_s == pytest.approx(10.5, abs=0.3)
    assert second.transcript.words[0].start_s == pytest.approx(16.0, abs=0.3)
    assert all(event.start_s > 8 for event in events if isinstance(event, SpeechStarted))


def test_an_hour_of_silence_is_never_transcribed_and_not_kept() -> None:
    async def scenario() -> None:
        recognizer = Recorder()
        session = LiveSession(recognizer, 16000, RULES)
        for _ in range(360):
            assert [event async for event in session.feed(np.zeros(160_000, np.float32))] == []
            assert session.held_s < 3
        assert recognizer.lengths_s == []

    asyncio.run(scenario())


def test_a_busy_service_costs_looks_but_no_words() -> None:
    samples = tones(["one", "two", "three"])
    looks = Recorder(num_busy=10**6, busy_from_s=0.0)
    with pytest.raises(OverloadedError):
        listen(samples, looks, timeout_s=0.1)
    events = listen(samples, Recorder(num_busy=4))
    (final,) = [event for event in events if isinstance(event, Final)]
    assert text(final) == "one two three"


def test_looks_that_take_long_are_made_less_often() -> None:
    class Slow(Recorder):
        async def transcribe(self, waveform: np.ndarray) -> Transcript:
            await asyncio.sleep(0.5)
            return await super().transcribe(waveform)

    slow = Slow()
    listen(tones(["one", "two", "three", "four", "five", "six"]), slow)
    assert len(slow.lengths_s) <= 6
