"""A transcript in the formats of OpenAI's transcription API."""

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.inference.transcriber import Transcript
from serve.subtitles import Segment, segments_of, srt, vtt

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
FORMATS: tuple[Format, ...] = ("json", "text", "srt", "verbose_json", "vtt")
MEDIA_TYPES = {"text": "text/plain", "srt": "text/plain", "vtt": "text/vtt"}
FRAMES_PER_S = 50
"""Audio tokens of the `tokens` usage: encoder frames."""
SMALLEST_PROBABILITY = 1e-10


def plain_reply(transcript: Transcript, form: Format) -> str:
    """`text`, `srt` or `vtt`."""
    if form == "text":
        return transcript.text + "\n"
    segments = segments_of(transcript.words)
    return srt(segments) if form == "srt" else vtt(segments)


def json_reply(transcript: Transcript, *, with_logprobs: bool) -> dict[str, Any]:
    """`json`: the text, and the seconds that were heard."""
    reply: dict[str, Any] = {"text": transcript.text, "usage": _duration_usage(transcript)}
    if with_logprobs:
        reply["logprobs"] = logprobs(transcript.words)
    return reply


def verbose_reply(transcript: Transcript, *, language: str, granularities: Sequence[str]) -> dict[str, Any]:
    """`verbose_json`: words, segments or both, with times; `confidence` is ours."""
    reply: dict[str, Any] = {
        "task": "transcribe",
        "language": language,
        "duration": transcript.duration_s,
        "text": transcript.text,
        "usage": _duration_usage(transcript),
    }
    if "word" in granularities:
        reply["words"] = [_word(word) for word in transcript.words]
    if "segment" in granularities or not granularities:
        segments = segments_of(transcript.words)
        reply["segments"] = [_segment(number, segment) for number, segment in enumerate(segments)]
    return reply


def event_stream(transcript: Transcript, *, with_logprobs: bool) -> Iterator[str]:
    """Server-sent events: a delta per segment, and all of it at the end."""
    first = True
    for segment in segments_of(transcript.words):
        delta = segment.text if first else " " + segment.text
        data: dict[str, Any] = {"type": "transcript.text.delta", "delta": delta}
        if with_logprobs:
            data["logprobs"] = logprobs(segment.words, begins=first)
        first = False
        yield _event(data)
    heard, written = round(transcript.duration_s * FRAMES_PER_S), len(transcript.text)
    done: dict[str, Any] = {
        "type": "transcript.text.done",
        "text": transcript.text,
        "usage": {
            "type": "tokens",
            "input_tokens": heard,
            "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
            "output_tokens": written,
            "total_tokens": heard + written,
        },
    }
    if with_logprobs:
        done["logprobs"] = logprobs(transcript.words)
    yield _event(done)
    yield "data: [DONE]\n\n"


def logprobs(words: Sequence[WordSpan], *, begins: bool = True) -> list[dict[str, Any]]:
    """A token per word, with the space before it unless it begins the text; their tokens joined are the text."""
    tokens = [word.word if begins and not number else " " + word.word for number, word in enumerate(words)]
    return [
        {"token": token, "bytes": list(token.encode()), "logprob": _log(word.confidence)}
        for token, word in zip(tokens, words, strict=True)
    ]


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


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
