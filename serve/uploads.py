"""Uploaded audio to waveforms, within limits."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.audio.wav import read_wav_header
from jasper_ray.errors import AudioError
from jasper_ray.inference.long_audio import LONG_AUDIO_S, Source, encoded_source
from serve.errors import ApiError
from serve.recognizer import Recognizer

Value = TypeVar("Value")
AT_ONCE_BYTES = 2**20
"""Plain WAV up to this size is read in the event loop: it takes no longer than another thread needs to begin."""
READABLE = "WAV, FLAC, MP3, Ogg Vorbis or Opus, at any rate and with any number of channels"


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_upload_bytes: int
    max_duration_s: float
    max_whole_s: float = 600.0
    """Longest audio where it is not read in windows: KServe's tensors and files."""


@dataclass(frozen=True)
class LongUpload:
    """A recording that is decoded while it is transcribed."""

    source: Source
    duration_s: float


async def read_upload(
    content: bytes, name: str, *, recognizer: Recognizer, sample_rate_hz: int, limits: Limits
) -> np.ndarray | LongUpload:
    """As `read_waveform`; what lasts more than `LONG_AUDIO_S` is not decoded yet.

    Raises:
        ApiError: Too large, too long, or no audio.
        OverloadedError: Too much waits already; nothing was decoded.
    """

    def read(duration_s: float) -> np.ndarray | LongUpload:
        require_duration(name, duration_s, limits.max_duration_s)
        if duration_s > LONG_AUDIO_S:
            return LongUpload(encoded_source(content, sample_rate_hz), duration_s)
        recognizer.admit(duration_s)
        return decode_audio(content, sample_rate_hz=sample_rate_hz)

    return await _read(content, name, limits, read, sample_rate_hz)


async def read_waveform(
    content: bytes, name: str, *, recognizer: Recognizer, sample_rate_hz: int, limits: Limits
) -> np.ndarray:
    """Decode an upload before it meets any other request, so that a bad one can harm none.

    Returns:
        `(N,)` float32 at the model's rate.

    Raises:
        ApiError: Too large, too long, or no audio.
        OverloadedError: Too much waits already; nothing was decoded.
    """

    def read(duration_s: float) -> np.ndarray:
        require_duration(name, duration_s, min(limits.max_duration_s, limits.max_whole_s))
        recognizer.admit(duration_s)
        return decode_audio(content, sample_rate_hz=sample_rate_hz)

    return await _read(content, name, limits, read, sample_rate_hz)


async def _read(
    content: bytes, name: str, limits: Limits, read: Callable[[float], Value], sample_rate_hz: int
) -> Value:
    """What `read` makes of the duration, in a thread unless it takes no time."""
    if len(content) > limits.max_upload_bytes:
        raise too_large(limits)
    try:
        plain = read_wav_header(content) if len(content) <= AT_ONCE_BYTES else None
        if plain is not None and plain.sample_rate_hz == sample_rate_hz:
            return read(plain.num_samples / sample_rate_hz)
        return await asyncio.to_thread(lambda: read(audio_info(content).duration_s))
    except AudioError as error:
        raise not_audio(name, error) from error


def not_audio(name: str, error: AudioError) -> ApiError:
    """400, with what is readable."""
    message = f"{name} cannot be read as audio: {error}. Send {READABLE}."
    return ApiError(400, message, param="file", code="invalid_audio")


def require_duration(name: str, duration_s: float, limit_s: float) -> None:
    """Refuse audio that is too long.

    Raises:
        ApiError: It is.
    """
    if duration_s > limit_s:
        message = f"{name} lasts {duration_s:.1f} s, the limit is {limit_s:g} s: send it in pieces"
        raise ApiError(400, message, param="file", code="audio_too_long")


def too_large(limits: Limits) -> ApiError:
    """413 in OpenAI's words."""
    message = f"Maximum content size limit ({limits.max_upload_bytes}) exceeded"
    return ApiError(413, message, param="file", code="content_too_large")
