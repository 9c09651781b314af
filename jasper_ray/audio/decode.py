"""Encoded audio in memory -> mono float waveform at the rate and speed that is asked for.

Reads what libsndfile reads: WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF and older ones; undamaged FLAC and WAV of 16 bits
faster than it. One soxr pass changes rate and speed together.
"""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import soundfile
import soxr

from jasper_ray.audio.flac import decode_flac
from jasper_ray.audio.wav import decode_wav, read_wav_header
from jasper_ray.errors import AudioError

Lengths = TypeVar("Lengths", int, np.ndarray)

# Most samples that a byte may stand for: FLAC of digital silence comes to 5,461 (one 65,535-sample frame in 12 bytes).
MAX_SAMPLES_PER_BYTE = 8192
# Writers that cannot seek back (pipes) leave a size from here up in a WAV header: the data then goes to the end.
STREAMED_WAV_BYTES = 0x7FFFF000
# A header of 27 bytes, 255 segment lengths, 255 segments of 255 bytes.
MAX_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
# An MP3 states its length in frames of up to 1152 samples, and a decoder may hold back the first and last ones.
MP3_SLACK_SAMPLES = 2 * 1152
BLOCK_S = 10.0
"""Of `decode_blocks`."""

SIGNATURES = (
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (4, b"ftyp", "MP4 or M4A"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"PK\x03\x04", "a zip file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"ARROW1", "an Arrow file"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x30\x26\xb2\x75", "Windows Media"),
    (0, b"RIFF", "a damaged or truncated WAV"),
    (0, b"fLaC", "a damaged or truncated FLAC"),
    (0, b"OggS", "a damaged or truncated Ogg, or one with another codec than Vorbis, Opus and FLAC"),
    (0, b"ID3", "a damaged or truncated MP3"),
    (0, b"\xff\xf1", "bare AAC"),
    (0, b"\xff\xf9", "bare AAC"),
)


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    num_samples: int
    """Per channel, at the file's own rate."""
    sample_rate_hz: int
    channels: int
    container: str = ""
    """Format as libsndfile names it, e.g. FLAC."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate_hz


def resampled_length(
    num_samples: Lengths, from_hz: int | np.ndarray, to_hz: int, speed: float | np.ndarray = 1.0
) -> Lengths:
    """Exact number of samples that `decode_audio` gives; scalars or arrays that broadcast.

    Args:
        num_samples: Samples per channel in the file.
        from_hz: The file's rate.
        to_hz: Rate asked for.
        speed: Playing speed; above 1 is shorter.

    Returns:
        `floor(num_samples * to_hz / (from_hz * speed) + 1/2)`, at least 1 unless there are no samples.
    """
    exact = np.asarray(num_samples) * (to_hz / (np.asarray(from_hz) * np.asarray(speed)))
    # A ratio such as 16000/16000 is exactly 1; one such as 8000/22050 may be off in the last place, which is far
    # below the half sample that decides.
    lengths: np.ndarray = np.maximum(np.floor(exact + 0.5), np.minimum(num_samples, 1)).astype(np.int64)
    return lengths if isinstance(num_samples, np.ndarray) else int(lengths)


def audio_info(encoded: bytes | memoryview) -> AudioInfo:
    """Read the header of an audio file.

    Raises:
        AudioError: The bytes are not audio, or are plainly cut short.
    """
    wav = read_wav_header(encoded)
    if wav is not None:
        return AudioInfo(wav.num_samples, wav.sample_rate_hz, wav.channels, "WAV")
    with _open(encoded) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels, file.format)


def decode_audio(encoded: bytes | memoryview, *, sample_rate_hz: int, speed: float = 1.0) -> np.ndarray:
    """Decode a whole audio file to one channel at a rate and playing speed.

    Args:
        encoded: The file's bytes.
        sample_rate_hz: Rate of the result; other rates are converted by soxr's HQ band-limited filter.
        speed: Above 1 the result is shorter and higher in pitch, as when a tape runs faster.

    Returns:
        `(N,)` float32, full scale 1, mean of the channels; N is `resampled_length(...)` exactly.

    Raises:
        AudioError: The bytes are not audio (says what they look like), hold no sample, are cut short, or have samples
            that are not finite numbers.
    """
    decoded = decode_wav(encoded) or decode_flac(encoded, max_samples=_most_samples(encoded))
    waveform, source_hz = decoded or _read_all(encoded)
    if waveform.ndim == 2:
        waveform = waveform.mean(axis=1, dtype=np.float32)
    if decoded is None:  # samples that were whole numbers are finite
        _check_finite(waveform)
    return _resample(waveform, source_hz, sample_rate_hz, speed)


def decode_blocks(encoded: bytes | memoryview, *, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Decode an audio file block by block, so that a long one is never in memory as samples.

    Args:
        encoded: The file's bytes.
        sample_rate_hz: Rate of the result.

    Yields:
        `(n,)` float32; one behind the other what `decode_audio` gives.

    Raises:
        AudioError: As `decode_audio`, on the way.
    """
    with _open(encoded) as file:
        source_hz, num_read, num_given = file.samplerate, 0, 0
        resampler = soxr.ResampleStream(source_hz, sample_rate_hz, 1, dtype="float32", quality="HQ")
        for block in file.blocks(blocksize=round(BLOCK_S * source_hz), dtype="float32", always_2d=True):
            num_read += len(block)
            mixed = block.mean(axis=1, dtype=np.float32) if block.shape[1] > 1 else block[:, 0].copy()
            _check_finite(mixed)
            given = mixed if source_hz == sample_rate_hz else resampler.resample_chunk(mixed)
            num_given += len(given)
            yield given
        _check_complete(file, num_read)
    left = resampled_length(num_read, source_hz, sample_rate_hz) - num_given
    if left > 0:
        rest: np.ndarray = resampler.resample_chunk(np.empty(0, np.float32), last=True)[:left]
        yield np.pad(rest, (0, left - len(rest)))


def decode_stretch(encoded: bytes | memoryview, *, sample_rate_hz: int, start: float, num_samples: int) -> np.ndarray:
    """A stretch of an audio file at a rate; where the file ends, it goes on from the beginning.

    Args:
        encoded: The file's bytes.
        sample_rate_hz: Rate of the result.
        start: Where the stretch begins, as a share of the file's length, in [0, 1).
        num_samples: Length of the result.

    Returns:
        `(num_samples,)` float32, mean of the channels. Of a file longer than the stretch only that is decoded.

    Raises:
        AudioError: As `decode_audio`.
    """
    with _open(encoded) as file:
        # One more for rounding: the resampled stretch must not be shorter than what is asked for.
        needed = -(-num_samples * file.samplerate // sample_rate_hz) + 1
        is_long = file.frames >= needed
        first = int(start * file.frames) if is_long else 0
        pieces = [(first, min(needed, file.frames - first)), (0, max(0, first + needed - file.frames))]
        waveform = np.concatenate([_read_piece(file, *piece) for piece in pieces[: 2 if is_long else 1]])
        source_hz = file.samplerate
    _check_finite(waveform)
    resampled = _resample(waveform, source_hz, sample_rate_hz, 1.0)
    begin = 0 if is_long else int(start * len(resampled))
    return np.resize(np.roll(resampled, -begin), num_samples)


def _read_all(encoded: bytes | memoryview) -> tuple[np.ndarray, int]:
    """All samples `(N,)` or `(N, channels)` by libsndfile, and their rate."""
    with _open(encoded) as file:
        waveform: np.ndarray = file.read(dtype="float32")
        _check_complete(file, len(waveform))
        return waveform, file.samplerate


def _read_piece(file: soundfile.SoundFile, first: int, num_samples: int) -> np.ndarray:
    """Mean of the channels over a piece of a file, float32."""
    file.seek(first)
    piece: np.ndarray = file.read(num_samples, dtype="float32", always_2d=True)
    if len(piece) < num_samples and (file.format != "MP3" or len(piece) == 0):
        raise AudioError(f"{file.format} audio is truncated: {first + len(piece)} of {file.frames} samples can be read")
    mixed: np.ndarray = piece.mean(axis=1, dtype=np.float32)
    return mixed


def _resample(waveform: np.ndarray, from_hz: int, to_hz: int, speed: float) -> np.ndarray:
    if from_hz * speed == to_hz:
        return waveform
    length: int = resampled_length(len(waveform), from_hz, to_hz, speed)
    resampled: np.ndarray = soxr.resample(waveform, from_hz * speed, to_hz, quality="HQ")
    if len(resampled) >= length:
        return resampled[:length]
    return np.pad(resampled, (0, length - len(resampled)))


@contextmanager
def _open(encoded: bytes | memoryview) -> Iterator[soundfile.SoundFile]:
    """A libsndfile reader over the bytes; its errors, and those of reading from it, become `AudioError`."""
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            _check_header(file, encoded)
            yield file
    except soundfile.SoundFileError as error:
        said = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise AudioError(
            f"cannot decode {len(encoded)} bytes as audio: they look like {_guess(encoded)} (libsndfile: {said}). "
            "Readable are WAV, FLAC, Ogg Vorbis, Ogg Opus, MP3 and AIFF"
        ) from error


def _most_samples(encoded: bytes | memoryview) -> int:
    """Most samples per channel that so many bytes can hold."""
    return MAX_SAMPLES_PER_BYTE * (len(encoded) + 1)


def _check_header(file: soundfile.SoundFile, encoded: bytes | memoryview) -> None:
    if file.frames > _most_samples(encoded):
        raise AudioError(
            f"the {file.format} header does not state a length that {len(encoded)} bytes can hold (it was written to a "
            "pipe, or is damaged): write it to a file or convert it to WAV first"
        )
    if file.frames == 0:
        raise AudioError(f"{file.format} audio of {len(encoded)} bytes holds no samples: it is empty or was cut short")
    missing_bytes = _missing_wav_bytes(encoded) or _missing_ogg_bytes(encoded)
    if missing_bytes:
        raise AudioError(
            f"{file.format} audio is truncated: there are {len(encoded)} bytes, its header promises "
            f"{missing_bytes} more"
        )


def _check_complete(file: soundfile.SoundFile, num_read: int) -> None:
    slack = MP3_SLACK_SAMPLES if file.format == "MP3" else 0
    if num_read == 0 or num_read < file.frames - slack:
        raise AudioError(f"{file.format} audio is truncated: {num_read} of {file.frames} samples could be read")


def _check_finite(waveform: np.ndarray) -> None:
    """One pass in the good case: the energy is finite only if every sample is, and none is absurdly large."""
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(float(waveform.dot(waveform))):
            return
    num_bad = int(np.count_nonzero(~np.isfinite(waveform)))
    if num_bad:
        raise AudioError(f"{num_bad} of {len(waveform)} samples are NaN or infinite: the file is damaged")
    raise AudioError(f"samples reach {float(np.abs(waveform).max()):.3g}, full scale is 1: the file is damaged")


def _missing_wav_bytes(encoded: bytes | memoryview) -> int:
    """How many bytes of its data chunk a RIFF WAV lacks; libsndfile would pass over them in silence."""
    if bytes(encoded[:4]) != b"RIFF" or bytes(encoded[8:12]) != b"WAVE":
        return 0
    position = 12
    while position + 8 <= len(encoded):
        name, size = struct.unpack_from("<4sI", encoded, position)
        position += 8
        if name == b"data":
            return 0 if size >= STREAMED_WAV_BYTES else max(0, position + size - len(encoded))
        position += size + size % 2  # chunks start at even positions
    return 0


def _missing_ogg_bytes(encoded: bytes | memoryview) -> int:
    """How many bytes the last page of an Ogg file lacks; libsndfile would end with the page before it."""
    if bytes(encoded[:4]) != b"OggS":
        return 0
    tail = bytes(encoded[-MAX_OGG_PAGE_BYTES:])
    page = tail[max(0, tail.rfind(b"OggS")) :]
    num_segments = page[26] if len(page) > 26 else 0
    segment_bytes = page[27 : 27 + num_segments]
    return max(0, 27 + num_segments + sum(segment_bytes) - len(page))


def _guess(encoded: bytes | memoryview) -> str:
    """What bytes that are not readable audio look like, in words."""
    head = bytes(encoded[:512])
    if not head:
        return "an empty file"
    for position, signature, name in SIGNATURES:
        if head[position : position + len(signature)] == signature:
            return name
    text = head.decode("ascii", errors="replace").strip()
    if text and all(character.isprintable() or character.isspace() for character in text) and "\ufffd" not in text:
        kind = "HTML or XML" if text.startswith("<") else "JSON" if text.startswith(("{", "[")) else "text"
        return f"{kind} beginning {text[:40]!r}"
    return f"unknown data or headerless samples, beginning {head[:8].hex(' ')}"
