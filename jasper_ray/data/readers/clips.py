"""A piece of a longer recording as a file of its own."""

import io

import soundfile

from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.errors import AudioError, DataError


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
    first, last = round(start_s * rate_hz), round((start_s + duration_s) * rate_hz)
    if not 0 <= first < last <= len(waveform):
        raise DataError(
            f"{where}: the piece from {start_s:g} s to {start_s + duration_s:g} s does not lie in the recording, "
            f"which lasts {len(waveform) / rate_hz:g} s"
        )
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform[first:last], rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
