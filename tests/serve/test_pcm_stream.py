import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import pcm16, tones

from jasper_ray.audio.decode import decode_audio
from serve.pcm_stream import PcmStream


def in_pieces(stream: PcmStream, data: bytes, sizes: list[int]) -> np.ndarray:
    parts, place, number = [], 0, 0
    while place < len(data):
        size = sizes[number % len(sizes)]
        parts.append(stream.feed(data[place : place + size]))
        place, number = place + size, number + 1
    return np.concatenate([*parts, stream.flush()])


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 24000, 44100, 48000])
@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 9999), min_size=1, max_size=5))
def test_a_stream_in_pieces_of_any_size_is_the_file(rate_hz: int, sizes: list[int]) -> None:
    waveform = tones(["one", "four"], rate_hz)
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate_hz, format="WAV", subtype="PCM_16")
    file = decode_audio(buffer.getvalue(), sample_rate_hz=16000)
    data = soundfile.read(io.BytesIO(buffer.getvalue()), dtype="int16")[0].astype("<i2").tobytes()
    streamed = in_pieces(PcmStream(rate_hz, 16000), data, [size + 400 for size in sizes] if rate_hz > 16000 else sizes)
    assert len(streamed) == len(file)
    np.testing.assert_allclose(streamed, file, atol=2e-6)


def test_a_stream_begins_anew_after_a_flush() -> None:
    stream, data = PcmStream(24000, 16000), pcm16(tones(["two"], 24000))
    first = in_pieces(stream, data + b"\x01", [1000])
    np.testing.assert_array_equal(in_pieces(stream, data, [1000]), first)


@pytest.mark.parametrize(("encoding", "subtype"), [("pcmu", "ULAW"), ("pcma", "ALAW")])
def test_g711_is_read_as_libsndfile_reads_it(encoding: str, subtype: str) -> None:
    codes = bytes(range(256))
    theirs, _ = soundfile.read(
        io.BytesIO(codes), format="RAW", subtype=subtype, channels=1, samplerate=8000, dtype="float32"
    )
    np.testing.assert_array_equal(PcmStream(8000, 8000, encoding).feed(codes), theirs)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate_hz", [0, 3999, 192_001])
def test_rates_out_of_range_are_refused(rate_hz: int) -> None:
    with pytest.raises(ValueError, match="use 4000 to 192000 Hz"):
        PcmStream(rate_hz, 16000)
