"""Uploaded audio to waveforms, within limits."""

import asyncio
from dataclasses import dataclass

import numpy as np

from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.errors import AudioError
from serve.errors import ApiError
from serve.recognizer import Recognizer

READABLE = "WAV, FLAC, MP3, Ogg Vorbis or Opus, at any rate and with any number of channels"


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_upload_bytes: int
    max_duration_s: float


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
    if len(content) > limits.max_upload_bytes:
        raise too_large(limits)

    def decode() -> np.ndarray:
        duration_s = audio_info(content).duration_s
        require_duration(name, duration_s, limits)
        recognizer.admit(duration_s)
        return decode_audio(content, sample_rate_hz=sample_rate_hz)

    try:
        return await asyncio.to_thread(decode)
    except AudioError as error:
        message = f"{name} cannot be read as audio: {error}. Send {READABLE}."
        raise ApiError(400, message, param="file", code="invalid_audio") from error


def require_duration(name: str, duration_s: float, limits: Limits) -> None:
    """Refuse audio that is too long.

    Raises:
        ApiError: It is.
    """
    if duration_s > limits.max_duration_s:
        message = f"{name} lasts {duration_s:.1f} s, the limit is {limits.max_duration_s:g} s: send it in pieces"
        raise ApiError(400, message, param="file", code="audio_too_long")


def too_large(limits: Limits) -> ApiError:
    """413 in OpenAI's words."""
    message = f"Maximum content size limit ({limits.max_upload_bytes}) exceeded"
    return ApiError(413, message, param="file", code="content_too_large")
