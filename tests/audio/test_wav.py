"""The quick reader of WAV beside libsndfile: the same samples, and nothing that libsndfile would have refused."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jasper_ray.audio import decode
from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.audio.wav import decode_wav, read_wav_header
from jasper_ray.errors import AudioError

Encode = Callable[..., bytes]


def by_libsndfile(encoded: bytes) -> tuple[np.ndarray, int]:
    """As `decode_audio` would without the quick reader."""
    return decode._read_all(encoded)


def wav(samples: bytes, *, channels: int = 1, rate_hz: int = 16000, before: bytes = b"", after: bytes = b"") -> bytes:
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate_hz, 2 * channels * rate_hz, 2 * channels, 16)
    body = b"WAVE" + kind + before + struct.pack("<4sI", b"data", len(samples)) + samples + after
    return struct.pack("<4sI", b"RIFF", len(body)) + body


@pytest.mark.parametrize(("num_samples", "rate_hz", "channels"), [(1, 16000, 1), (50_001, 8000, 1), (30_000, 48000, 2)])
def test_samples_and_header_are_those_of_libsndfile(
    encode: Encode, num_samples: int, rate_hz: int, channels: int
) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (num_samples, channels))
    encoded = encode(samples, rate_hz, "WAV", "PCM_16")
    found = decode_wav(memoryview(encoded))
    assert found is not None
    np.testing.assert_array_equal(found[0], np.squeeze(by_libsndfile(encoded)[0]).reshape(found[0].shape))
    info = audio_info(encoded)
    assert (info.num_samples, info.sample_rate_hz, info.channels) == (num_samples, rate_hz, channels)
    with decode._open(encoded) as file:
        assert (file.frames, file.samplerate, file.channels, file.format) == (num_samples, rate_hz, channels, "WAV")


def test_chunks_before_and_after_the_samples_are_passed_over() -> None:
    samples = np.arange(-20, 20, dtype="<i2").tobytes()
    about = struct.pack("<4sI", b"LIST", 5) + b"INFOx\0"  # odd: a byte fills it up
    encoded = wav(samples, before=about, after=struct.pack("<4sI", b"id3 ", 4) + b"tags")
    found = decode_wav(encoded)
    assert found is not None and found[0].shape == (40,)
    np.testing.assert_array_equal(found[0], by_libsndfile(encoded)[0])


OTHERS = [("PCM_24", "WAV"), ("FLOAT", "WAV"), ("ULAW", "WAV"), ("PCM_16", "WAVEX"), ("PCM_16", "AIFF")]


@pytest.mark.parametrize(("subtype", "container"), OTHERS)
def test_other_encodings_are_left_to_libsndfile(encode: Encode, subtype: str, container: str) -> None:
    encoded = encode(np.linspace(-0.5, 0.5, 200), 16000, container, subtype)
    assert decode_wav(encoded) is None
    assert audio_info(encoded).num_samples == 200 == len(decode_audio(encoded, sample_rate_hz=16000))


def test_files_that_were_cut_short_are_refused_as_before() -> None:
    encoded = wav(np.arange(1000, dtype="<i2").tobytes())
    with pytest.raises(AudioError, match="its header promises 200 more"):
        decode_audio(encoded[:-200], sample_rate_hz=16000)
    with pytest.raises(AudioError, match="holds no samples"):
        decode_audio(encoded[:44], sample_rate_hz=16000)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_of_damaged_headers_only_those_are_read_that_libsndfile_reads_alike(data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([1, 2, 3]))
    samples = np.arange(60 * channels, dtype="<i2").tobytes()
    before = data.draw(st.sampled_from([b"", struct.pack("<4sI", b"LIST", 6) + b"INFOab", b"JUNK\x02\0\0\0ab"]))
    encoded = bytearray(wav(samples, channels=channels, before=before))
    for _ in range(data.draw(st.integers(0, 3))):
        encoded[data.draw(st.integers(0, min(70, len(encoded) - 1)))] = data.draw(st.integers(0, 255))
    damaged = bytes(encoded[: data.draw(st.integers(10, len(encoded)))] if data.draw(st.booleans()) else encoded)
    quick = decode_wav(damaged)
    if quick is None:
        return
    slow, rate_hz = by_libsndfile(damaged)
    assert rate_hz == quick[1] and read_wav_header(damaged) is not None
    np.testing.assert_array_equal(quick[0], slow)
