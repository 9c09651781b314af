"""A transcript in the formats of OpenAI's transcription API."""

import json
import logging
import math
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.errors import AudioError
from jasper_ray.inference.transcriber import Transcript
from serve.errors import ApiError, error_body, overloaded
from serve.scheduler import OverloadedError
from serve.subtitles import Segment, segments_of, srt, vtt

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
FORMATS: tuple[Format, ...] = ("json", "text", "srt", "verbose_json", "vtt")
MEDIA_TYPES = {"text": "text/plain", "srt": "text/plain", "vtt": "text/vtt"}
FRAMES_PER_S = 50
"""Audio tokens of the `tokens` usage: encoder frames."""
SMALLEST_PROBABILITY = 1e-10

log = logging.getLogger(__name__)


def text_of(transcript: Transcript) -> str:
    """The words with single spaces; a model may write several."""
    return " ".join(transcript.text.split())


def plain_reply(transcript: Transcript, form: Format) -> str:
    """`text`, `srt` or `vtt`."""
    if form == "text":
        return text_of(transcript) + "\n"
    segments = segments_of(transcript.words)
    return srt(segments) if form == "srt" else vtt(segments)


def json_reply(transcript: Transcript, *, with_logprobs: bool) -> dict[str, Any]:
    """`json`: the text, and the seconds that were heard."""
    reply: dict[str, Any] = {"text": text_of(transcript), "usage": _duration_usage(transcript)}
    reply |= _alternatives(transcript)
    if with_logprobs:
        reply["logprobs"] = logprobs(transcript.words)
    return reply


def verbose_reply(transcript: Transcript, *, language: str, granularities: Sequence[str]) -> dict[str, Any]:
    """`verbose_json`: words, segments or both, with times; `confidence` is ours."""
    reply: dict[str, Any] = {
        "task": "transcribe",
        "language": language,
        "duration": transcript.duration_s,
        "text": text_of(transcript),
        "usage": _duration_usage(transcript),
        **_alternatives(transcript),
    }
    if "word" in granularities:
        reply["words"] = [_word(word) for word in transcript.words]
    if "segment" in granularities or not granularities:
        segments = segments_of(transcript.words)
        reply["segments"] = [_segment(number, segment) for number, segment in enumerate(segments)]
    return reply


async def event_stream(
    groups: AsyncIterator[Sequence[WordSpan]], *, duration_s: float, with_logprobs: bool
) -> AsyncIterator[str]:
    """Server-sent events: a delta per group of words as soon as it is there, and all of it at the end.

    An error on the way is an event too: the status has been sent long before.
    """
    words: list[WordSpan] = []
    try:
        async for group in groups:
            if group:
                yield _delta(group, begins=not words, with_logprobs=with_logprobs)
                words += group
    except (AudioError, OverloadedError) as error:
        said = error_body("", overloaded(error) if isinstance(error, OverloadedError) else ApiError(400, str(error)))
        yield _event(said)
        return
    except Exception as error:
        log.exception("a transcript failed on its way")
        yield _event(error_body("", ApiError(500, f"The server failed: {type(error).__name__}", code="internal_error")))
        return
    yield _done(words, duration_s=duration_s, with_logprobs=with_logprobs)
    yield "data: [DONE]\n\n"


async def groups_of(transcript: Transcript) -> AsyncIterator[Sequence[WordSpan]]:
    """The segments of a transcript that is there."""
    for segment in segments_of(transcript.words):
        yield segment.words


def _delta(words: Sequence[WordSpan], *, begins: bool, with_logprobs: bool) -> str:
    text = " ".join(word.word for word in words)
    data: dict[str, Any] = {"type": "transcript.text.delta", "delta": text if begins else " " + text}
    if with_logprobs:
        data["logprobs"] = logprobs(words, begins=begins)
    return _event(data)


def _done(words: Sequence[WordSpan], *, duration_s: float, with_logprobs: bool) -> str:
    text = " ".join(word.word for word in words)
    heard, written = round(duration_s * FRAMES_PER_S), len(text)
    done: dict[str, Any] = {
        "type": "transcript.text.done",
        "text": text,
        "usage": {
            "type": "tokens",
            "input_tokens": heard,
            "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
            "output_tokens": written,
            "total_tokens": heard + written,
        },
    }
    if with_logprobs:
        done["logprobs"] = logprobs(words)
    return _event(done)


def logprobs(words: Sequence[WordSpan], *, begins: bool = True) -> list[dict[str, Any]]:
    """A token per word, with the space before it unless it begins the text; their tokens joined are the text."""
    tokens = [word.word if begins and not number else " " + word.word for number, word in enumerate(words)]
    return [
        {"token": token, "bytes": list(token.encode()), "logprob": _log(word.confidence)}
        for token, word in zip(tokens, words, strict=True)
    ]


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _alternatives(transcript: Transcript) -> dict[str, Any]:
    """What a search with `num_best` found, best first; natural logs."""
    if not transcript.alternatives:
        return {}
    rows = [
        {"text": one.text, "score": round(one.score, 4), "lm_score": round(one.lm_score, 4)}
        for one in transcript.alternatives
    ]
    return {"alternatives": rows}


def _duration_usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": transcript.duration_s}


def _word(word: WordSpan) -> dict[str, Any]:
    return {
        "word": word.word,
        "start": round(word.start_s, 3),
        "end": round(word.end_s, 3),
        "confidence": round(word.confidence, 4),
    }


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    text = segment.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": sum(_log(word.confidence) for word in segment.words) / len(segment.words),
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": 0.0,
        "confidence": round(segment.confidence, 4),
    }


def _log(probability: float) -> float:
    return math.log(max(probability, SMALLEST_PROBABILITY))
