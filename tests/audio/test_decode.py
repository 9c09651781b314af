import struct
from collections.abc import Callable

import numpy as np
import pytest

from jasper_ray.audio.decode import audio_info, decode_audio, resampled_length
from jasper_ray.errors import AudioError

Encode = Callable[..., bytes]
RATE_HZ = 16000


def tone(hz: float, *, seconds: float = 1.0, sample_rate_hz: int = RATE_HZ) -> np.ndarray:
    times_s = np.arange(int(seconds * sample_rate_hz)) / sample_rate_hz
    return (0.5 * np.sin(2 * np.pi * hz * times_s)).astype(np.float32)


def loudest_hz(waveform: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(waveform))) * RATE_HZ / len(waveform))


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "FLOAT", 0.0),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.1),
        ("MP3", None, 0.1),
    ],
)
def test_formats_decode_to_the_waveform_that_was_written(
    encode: Encode, container: str, subtype: str | None, tolerance: float
) -> None:
    waveform = tone(440)
    decoded = decode_audio(encode(waveform, RATE_HZ, container, subtype), sample_rate_hz=RATE_HZ)
    assert decoded.dtype == np.float32
    assert decoded.shape == waveform.shape
    assert np.abs(decoded - waveform).max() <= tolerance


def test_a_memoryview_decodes_like_bytes(encode: Encode) -> None:
    encoded = encode(tone(440))
    from_view = decode_audio(memoryview(encoded), sample_rate_hz=8000)
    np.testing.assert_array_equal(from_view, decode_audio(encoded, sample_rate_hz=8000))


def test_stereo_becomes_the_mean_of_its_channels(encode: Encode) -> None:
    left, right = tone(440), tone(1000)
    decoded = decode_audio(encode(np.stack([left, right], axis=1), RATE_HZ, "WAV", "FLOAT"), sample_rate_hz=RATE_HZ)
    np.testing.assert_allclose(decoded, (left + right) / 2, atol=1e-7)


def test_the_right_rate_at_normal_speed_is_not_touched(encode: Encode) -> None:
    waveform = np.random.default_rng(0).uniform(-1, 1, 777).astype(np.float32)
    decoded = decode_audio(encode(waveform, RATE_HZ, "WAV", "FLOAT"), sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(decoded, waveform)


@pytest.mark.parametrize("from_hz", [8000, 11025, 22050, 44100, 48000])
def test_another_rate_keeps_pitch_and_duration(encode: Encode, from_hz: int) -> None:
    decoded = decode_audio(encode(tone(1000, sample_rate_hz=from_hz), from_hz), sample_rate_hz=RATE_HZ)
    assert len(decoded) == RATE_HZ
    np.testing.assert_allclose(decoded[500:-500], tone(1000)[500:-500], atol=2e-3)


def test_sound_above_the_new_half_rate_does_not_come_back_as_an_alias(encode: Encode) -> None:
    decoded = decode_audio(encode(tone(10_000, sample_rate_hz=44_100), 44_100), sample_rate_hz=RATE_HZ)
    assert np.abs(decoded[500:-500]).max() < 1e-4


@pytest.mark.parametrize("speed", [0.85, 0.9, 1.1, 1.15])
@pytest.mark.parametrize("from_hz", [8000, 16000])
def test_higher_speed_is_shorter_and_higher_in_pitch(encode: Encode, speed: float, from_hz: int) -> None:
    encoded = encode(tone(1000, sample_rate_hz=from_hz), from_hz)
    decoded = decode_audio(encoded, sample_rate_hz=RATE_HZ, speed=speed)
    assert len(decoded) == round(RATE_HZ / speed)
    assert loudest_hz(decoded) == pytest.approx(1000 * speed, abs=2)


def test_resampled_length_is_exact_for_every_length_rate_and_speed(encode: Encode) -> None:
    random = np.random.default_rng(1)
    for num_samples in [1, 2, 3, 5, 10, 159, 160, 161, 1000, *random.integers(1, 20_000, 12).tolist()]:
        for from_hz in (8000, 16000, 22050, 44100):
            speed = float(random.choice([0.9, 1.0, 1.1, random.uniform(0.85, 1.15)]))
            encoded = encode(np.ones(num_samples, np.float32) * 0.1, from_hz)
            decoded = decode_audio(encoded, sample_rate_hz=RATE_HZ, speed=speed)
            assert len(decoded) == resampled_length(num_samples, from_hz, RATE_HZ, speed), (num_samples, from_hz, speed)


def test_resampled_length_of_arrays_is_that_of_their_elements() -> None:
    num_samples = np.array([0, 1, 100, 16_085, 160_960])
    rates_hz = np.array([16_000, 48_000, 8_000, 22_050, 44_100])
    speeds = np.array([1.0, 1.15, 0.9, 1.1, 0.85])
    lengths = resampled_length(num_samples, rates_hz, RATE_HZ, speeds)
    assert lengths.dtype == np.int64
    one_by_one = zip(num_samples.tolist(), rates_hz.tolist(), speeds.tolist(), strict=True)
    assert lengths.tolist() == [resampled_length(n, hz, RATE_HZ, speed) for n, hz, speed in one_by_one]
    assert lengths.tolist()[:2] == [0, 1]  # never nothing from something


def test_audio_info_tells_what_decoding_will_give(encode: Encode) -> None:
    info = audio_info(encode(np.zeros((1000, 2), np.float32), 8000))
    assert (info.num_samples, info.sample_rate_hz, info.channels) == (1000, 8000, 2)
    assert info.duration_s == 0.125


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (b"", "an empty file"),
        (b"<html><body>403 Forbidden</body></html>", "HTML or XML beginning '<html>"),
        (b'{"error": "no such key"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "WebM"),
        (b"\x00\x00\x00\x20ftypM4A " + bytes(100), "MP4 or M4A"),
        (bytes(range(1, 200)), "unknown data"),
        (b"fLaC" + bytes(50), "a damaged or truncated FLAC"),
    ],
)
def test_bytes_that_are_not_audio_are_refused_with_what_they_look_like(encoded: bytes, said: str) -> None:
    with pytest.raises(AudioError, match=said):
        decode_audio(encoded, sample_rate_hz=RATE_HZ)
    with pytest.raises(AudioError, match=said):
        audio_info(encoded)


def test_audio_without_samples_is_refused(encode: Encode) -> None:
    with pytest.raises(AudioError, match=r"no samples"):
        decode_audio(encode(np.zeros(0, np.float32)), sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_audio_is_refused(encode: Encode, container: str, share: float) -> None:
    waveform = np.random.default_rng(2).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    encoded = encode(waveform, RATE_HZ, container)
    with pytest.raises(AudioError):
        decode_audio(encoded[: int(share * len(encoded))], sample_rate_hz=RATE_HZ)


def test_a_wav_written_to_a_pipe_without_its_size_is_read_to_the_end(encode: Encode) -> None:
    encoded = bytearray(encode(tone(440)))
    size_at = encoded.index(b"data") + 4
    encoded[size_at : size_at + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert len(decode_audio(bytes(encoded), sample_rate_hz=RATE_HZ)) == RATE_HZ


def test_a_flac_that_does_not_state_its_length_is_refused_and_says_why(encode: Encode) -> None:
    encoded = bytearray(encode(tone(440), RATE_HZ, "FLAC"))
    total_samples = int.from_bytes(encoded[18:26], "big") & ~((1 << 36) - 1)
    encoded[18:26] = total_samples.to_bytes(8, "big")
    with pytest.raises(AudioError, match=r"pipe"):
        decode_audio(bytes(encoded), sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize(
    ("bad", "said"), [(np.nan, "1 of 100 samples are NaN"), (-np.inf, "infinite"), (1e30, "reach 1e")]
)
def test_samples_that_are_not_sensible_numbers_are_refused(encode: Encode, bad: float, said: str) -> None:
    waveform = np.zeros(100, np.float32)
    waveform[7] = bad
    with pytest.raises(AudioError, match=said):
        decode_audio(encode(waveform, RATE_HZ, "WAV", "FLOAT"), sample_rate_hz=RATE_HZ)
