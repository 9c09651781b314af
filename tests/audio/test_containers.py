import io
import sys

import numpy as np
import pytest

from jasper_ray.audio.containers import readable_audio
from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.errors import AudioError

FAKE_M4A = b"\x00\x00\x00\x20ftypM4A " + bytes(100)


@pytest.mark.parametrize(("form", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("adts", "aac")])
def test_other_containers_become_flac_of_the_same_sound(form: str, codec: str) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'jasper-ray[containers]'")
    tone = (np.sin(np.arange(48000) * 440 * 2 * np.pi / 48000) * 16000).astype(np.int16)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=48000, layout="stereo")
        resampler = av.AudioResampler(stream.format, stream.layout, 48000, stream.frame_size or None)
        frame = av.AudioFrame.from_ndarray(np.repeat(tone, 2)[None], format="s16", layout="stereo")
        frame.sample_rate = 48000
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    content = readable_audio(buffer.getvalue())
    info = audio_info(content)
    assert (info.container, info.sample_rate_hz, info.channels) == ("FLAC", 48000, 2)
    assert info.duration_s == pytest.approx(1.0, abs=0.1)
    waveform = decode_audio(content, sample_rate_hz=48000)[4800:43200]
    expected = np.sin(np.arange(len(waveform)) * 440 * 2 * np.pi / 48000)
    assert np.abs(np.fft.rfft(waveform)).argmax() == np.abs(np.fft.rfft(expected)).argmax()
    assert np.sqrt(np.mean(waveform**2)) == pytest.approx(16000 / 32768 / np.sqrt(2), rel=0.05)


def test_without_pyav_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"look like MP4 or M4A.*pip install 'jasper-ray\[containers\]'"):
        readable_audio(FAKE_M4A)


def test_a_damaged_container_is_an_error_that_says_what_it_looks_like() -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'jasper-ray[containers]'")
    with pytest.raises(AudioError, match=r"look like MP4 or M4A.*PyAV says: "):
        readable_audio(FAKE_M4A)


def test_what_is_no_audio_at_all_is_refused_as_ever() -> None:
    with pytest.raises(AudioError, match="look like text"):
        readable_audio(b"this is no sound")
