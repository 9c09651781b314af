"""The quick reader of FLAC beside libsndfile: the same samples, and no sample that was not written."""

import io
import struct
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from jasper_ray.audio import flac
from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.audio.flac import decode_flac, read_flac_header
from jasper_ray.errors import AudioError

pytest.importorskip("miniaudio", reason="the extra [flac] is not installed")

Encode = Callable[..., bytes]
MANY = 10**9


def babble(num_samples: int, channels: int = 1) -> np.ndarray:
    """Noise that swells and falls, full scale at its loudest: `(N,)` or `(N, channels)`."""
    noise = np.random.default_rng(num_samples).uniform(-1, 1, (num_samples, channels))
    swell = np.abs(np.sin(np.linspace(0, 9, num_samples)))[:, None]
    return np.squeeze(noise * swell, axis=1) if channels == 1 else noise * swell


def decode_or_error(encoded: bytes) -> np.ndarray | str:
    try:
        return decode_audio(encoded, sample_rate_hz=16000)
    except AudioError as error:
        return str(error)


@pytest.mark.parametrize(("num_samples", "rate_hz", "channels"), [(1, 16000, 1), (50_001, 8000, 1), (30_000, 48000, 2)])
def test_samples_are_those_of_libsndfile(encode: Encode, num_samples: int, rate_hz: int, channels: int) -> None:
    encoded = encode(babble(num_samples, channels), rate_hz, "FLAC", "PCM_16")

    quick = decode_flac(encoded, max_samples=MANY)
    assert quick is not None
    assert quick[1] == rate_hz
    assert quick[0].shape == ((num_samples,) if channels == 1 else (num_samples, channels))
    with patch.object(flac, "miniaudio", None):
        assert decode_flac(bytes(encoded), max_samples=MANY) is None
        slow = decode_audio(encoded, sample_rate_hz=rate_hz)
    np.testing.assert_array_equal(decode_audio(encoded, sample_rate_hz=rate_hz), slow)


def test_the_header_is_what_libsndfile_says(encode: Encode) -> None:
    encoded = encode(babble(4567, 2), 44100, "FLAC", "PCM_24")

    header = read_flac_header(memoryview(encoded))
    info = audio_info(encoded)
    assert header == (44100, 2, 24, 4567)
    assert (*header[:2], header.num_samples) == (info.sample_rate_hz, info.channels, info.num_samples)
    assert read_flac_header(encode(babble(100), 16000, "WAV")) is None
    assert read_flac_header(encoded[:30]) is None


def test_other_depths_and_lengths_that_cannot_be_are_left_to_libsndfile(encode: Encode) -> None:
    assert decode_flac(encode(babble(100), 16000, "FLAC", "PCM_24"), max_samples=MANY) is None
    encoded = bytearray(encode(babble(100), 16000, "FLAC", "PCM_16"))
    assert decode_flac(bytes(encoded), max_samples=99) is None
    (packed,) = struct.unpack_from(">Q", encoded, 18)
    for stated in (0, 99, 101):  # unknown, and not what is there
        struct.pack_into(">Q", encoded, 18, packed >> 36 << 36 | stated)
        assert decode_flac(bytes(encoded), max_samples=MANY) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_give_no_other_samples_than_with_libsndfile(data: st.DataObject) -> None:
    file = io.BytesIO()
    soundfile.write(file, babble(20_000), 16000, format="FLAC", subtype="PCM_16")
    encoded = bytearray(file.getvalue())
    whole = decode_audio(bytes(encoded), sample_rate_hz=16000)
    if data.draw(st.booleans(), label="cut"):
        del encoded[data.draw(st.integers(0, len(encoded) - 1), label="at") :]
    for _ in range(data.draw(st.integers(0, 3), label="flips") if encoded else 0):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    ours = decode_or_error(bytes(encoded))
    with patch.object(flac, "miniaudio", None):
        theirs = decode_or_error(bytes(encoded))

    if isinstance(theirs, str) and not isinstance(ours, str):
        theirs = whole  # only what is beside the sound is damaged, such as a comment: the sound is all there
    assert type(ours) is type(theirs)
    np.testing.assert_array_equal(ours, theirs)
