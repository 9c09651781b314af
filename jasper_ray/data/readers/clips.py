"""A piece of a longer recording as a file of its own."""

import io
import math

import soundfile

from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.errors import AudioError, DataError

OVERSHOOT_S = 0.01
"""A piece may end this much behind the recording's end: manifests state seconds rounded to a hundredth."""


def cut_audio(content: bytes, start_s: float, duration_s: float, *, where: str) -> bytes:
    """Mono 16-bit FLAC of `[start_s, start_s + duration_s)` at the recording's own rate.

    Args:
        content: The encoded recording.
        start_s: First second; samples are rounded to the nearest.
        duration_s: Length in seconds.
        where: File and line that ask for it, for messages.

    Raises:
        DataError: The recording cannot be decoded, or the piece does not lie in it.
    """
    try:
        rate_hz = audio_info(content).sample_rate_hz
        waveform = decode_audio(content, sample_rate_hz=rate_hz)
    except AudioError as error:
        raise DataError(f"{where}: {error}") from error
    if not (math.isfinite(start_s) and math.isfinite(duration_s)):
        raise DataError(f"{where}: a piece of {duration_s} s from {start_s} s is not possible")
    first, last = round(start_s * rate_hz), round((start_s + duration_s) * rate_hz)
    if len(waveform) < last <= len(waveform) + round(OVERSHOOT_S * rate_hz):
        last = len(waveform)
    if not 0 <= first < last <= len(waveform):
        raise DataError(
            f"{where}: the piece from {start_s:g} s to {start_s + duration_s:g} s does not lie in the recording, "
            f"which lasts {len(waveform) / rate_hz:g} s"
        )
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform[first:last], rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
