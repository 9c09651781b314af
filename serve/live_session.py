"""A stream of speech to transcripts: partial ones while somebody speaks, final ones at pauses.

Every look at the open segment is an ordinary utterance for the recogniser, so live sessions share their batches with
uploads and with each other. What a session holds is bounded by its longest segment.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import numpy as np

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.errors import JasperRayError
from jasper_ray.inference.transcriber import Transcript
from serve.recognizer import Recognizer
from serve.scheduler import ClosedError, OverloadedError
from serve.segmenter import Segment, Segmenter, SegmentRules
from serve.stable_words import StableWords

LOOK_S = 0.4
"""New audio between two looks at the open segment."""
LOOK_SHARE = 0.5
"""Looks that take long are made less often: they may take this share of the stream's time."""
MIN_LOOK_S = 0.2
"""A segment shorter than this is not looked at yet."""


class SegmentError(JasperRayError):
    """A finished segment has no transcript."""


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody speaks."""

    start_s: float
    """Beginning of the segment, from the beginning of the stream."""


@dataclass(frozen=True)
class Partial:
    """What the open segment says so far; times are from the beginning of the stream."""

    new: tuple[WordSpan, ...]
    """Words that became stable just now."""
    stable: tuple[WordSpan, ...]
    """All stable words of the segment: they do not change any more."""
    tail: tuple[WordSpan, ...]
    """Words behind them that may change."""

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(word.word for word in (*self.stable, *self.tail))


@dataclass(frozen=True)
class Final:
    """A segment that is finished; times are from the beginning of the stream."""

    transcript: Transcript
    """That of the segment's samples, as of a file with them."""
    start_s: float
    at_pause: bool
    rest: tuple[WordSpan, ...] | None
    """What it adds to the stable words of the partial transcripts; None if it contradicts them."""

    @property
    def end_s(self) -> float:
        """Where the segment ends."""
        return self.start_s + self.transcript.duration_s


Event = SpeechStarted | Partial | Final


class LiveSession:
    """One stream. Not for several tasks at a time.

    Args:
        recognizer: Transcribes looks and segments.
        rate_hz: Rate of the samples.
        rules: When a segment ends.
        timeout_s: How long a finished segment may wait for a service that is busy.
    """

    def __init__(self, recognizer: Recognizer, rate_hz: int, rules: SegmentRules, *, timeout_s: float = 60.0) -> None:
        self._recognizer, self._rate_hz, self._timeout_s = recognizer, rate_hz, timeout_s
        self._segmenter = Segmenter(rate_hz, rules)
        self._words = StableWords()
        self._looked_s = 0.0  # length of the open segment at the last look
        self._look_took_s = 0.0
        self._said_started = False
        self._num_finals = 0

    @property
    def held_s(self) -> float:
        """Audio that waits for the end of its segment."""
        return self._segmenter.held_s

    @property
    def rules(self) -> SegmentRules:
        """When a segment ends; may be exchanged between two."""
        return self._segmenter.rules

    @rules.setter
    def rules(self, rules: SegmentRules) -> None:
        self._segmenter.rules = rules

    async def feed(self, samples: np.ndarray, *, look: bool = True) -> AsyncIterator[Event]:
        """Take `(N,)` more samples.

        Args:
            samples: At the session's rate.
            look: Whether a partial transcript is of use: not when more audio waits already.

        Yields:
            What happened, in order.

        Raises:
            OverloadedError: A finished segment could not be transcribed in time.
            SegmentError: The model failed on it.
        """
        for segment in self._segmenter.feed(samples):
            async for event in self._finish(segment):
                yield event
        if self._segmenter.has_speech and not self._said_started:
            self._said_started = True
            yield SpeechStarted(self._segmenter.start_s)
        if look and self._is_due():
            partial = await self._look()
            if partial is not None:
                yield partial

    async def finish(self) -> AsyncIterator[Event]:
        """End the open segment here.

        Yields:
            Its final transcript, unless nothing is held; or only the silence behind the last pause.

        Raises:
            OverloadedError: It could not be transcribed in time.
            SegmentError: The model failed on it.
        """
        segment = self._segmenter.cut()
        if segment is None or not (segment.has_speech or self.rules.pause_s is None or not self._num_finals):
            self._next_segment()
            return
        async for event in self._finish(segment):
            yield event

    def drop(self) -> None:
        """Forget the open segment."""
        self._segmenter.drop()
        self._next_segment()

    def _is_due(self) -> bool:
        held_s = self._segmenter.held_s
        if held_s < MIN_LOOK_S or (self.rules.pause_s is not None and not self._segmenter.has_speech):
            return False
        return held_s - self._looked_s >= max(LOOK_S, self._look_took_s / LOOK_SHARE)

    async def _look(self) -> Partial | None:
        waveform, started = self._segmenter.held(), time.monotonic()
        self._looked_s = len(waveform) / self._rate_hz
        try:
            transcript = await self._recognizer.transcribe(waveform)
        except ClosedError:
            raise
        except Exception:  # a look is a luxury: if something is wrong, the finished segment says it
            return None
        finally:
            self._look_took_s = time.monotonic() - started
        new = self._words.look(transcript.words, transcript.duration_s)
        start_s = self._segmenter.start_s
        return Partial(shifted(new, start_s), shifted(self._words.stable, start_s), shifted(self._words.tail, start_s))

    async def _finish(self, segment: Segment) -> AsyncIterator[Event]:
        if segment.has_speech and not self._said_started:
            yield SpeechStarted(segment.start_s)
        words = self._words
        self._next_segment()  # whatever becomes of this one
        transcript = await self._transcribe(segment.waveform)
        rest = words.rest(transcript.words)
        self._num_finals += 1
        yield Final(
            replace(transcript, words=shifted(transcript.words, segment.start_s)),
            segment.start_s,
            segment.at_pause,
            None if rest is None else shifted(rest, segment.start_s),
        )

    async def _transcribe(self, waveform: np.ndarray) -> Transcript:
        """As the recogniser; while it is busy, again and again until the deadline."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return await self._recognizer.transcribe(waveform)
            except OverloadedError as error:
                if time.monotonic() + error.retry_after_s > deadline:
                    raise
                await asyncio.sleep(error.retry_after_s)
            except ClosedError:
                raise
            except Exception as error:
                raise SegmentError(f"the model failed on {len(waveform) / self._rate_hz:.1f} s of audio") from error

    def _next_segment(self) -> None:
        self._words = StableWords()
        self._looked_s, self._said_started = 0.0, False


def shifted(words: tuple[WordSpan, ...], by_s: float) -> tuple[WordSpan, ...]:
    """Words later by so many seconds."""
    return tuple(replace(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s) for word in words)
