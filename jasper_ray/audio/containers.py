"""M4A, WebM and other files that libsndfile does not read, turned into FLAC by PyAV (extra `containers`)."""

import io

import numpy as np
import soundfile

from jasper_ray.audio.decode import audio_info
from jasper_ray.errors import AudioError

INSTALL = "pip install 'jasper-ray[containers]' reads M4A, MP4, WebM and AAC too"


def readable_audio(encoded: bytes) -> bytes:
    """The file itself if libsndfile reads it, else its first audio stream as FLAC: same rate and channels, 16 bits.

    Raises:
        AudioError: It is no audio, or PyAV is needed and not installed.
    """
    try:
        audio_info(encoded)
    except AudioError as error:
        if not looks_like_container(encoded):
            raise
        try:
            import av
        except ImportError:
            raise AudioError(f"{error}; {INSTALL}") from None
        try:
            return _transcoded(av, encoded)
        except (av.FFmpegError, ValueError, IndexError) as av_error:
            raise AudioError(f"{error}; PyAV says: {av_error}") from av_error
    return encoded


def looks_like_container(encoded: bytes) -> bool:
    """Whether bytes begin as MP4/M4A, WebM/Matroska or bare AAC do."""
    return encoded[4:8] == b"ftyp" or encoded[:4] == b"\x1a\x45\xdf\xa3" or encoded[:2] in (b"\xff\xf1", b"\xff\xf9")


def _transcoded(av: object, encoded: bytes) -> bytes:
    with av.open(io.BytesIO(encoded)) as container:  # type: ignore[attr-defined]
        if not container.streams.audio:
            raise ValueError("there is no audio stream in it")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16")  # type: ignore[attr-defined]
        blocks = [
            block.to_ndarray().reshape(-1, len(block.layout.channels))
            for frame in (*container.decode(stream), None)
            for block in resampler.resample(frame)
        ]
        rate_hz = stream.rate
    if not blocks:
        raise ValueError("its audio stream is empty")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate(blocks), rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
