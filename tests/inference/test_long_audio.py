import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from relatives import RELATIVES
from test_engine import bundle_of
from test_transcriber import waveforms

from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.model import PRESETS, ModelConfig
from jasper_ray.inference.engine import Engine
from jasper_ray.inference.long_audio import LongAudio, encoded_source, waveform_source
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import Bundle
from jasper_ray.model.ctc import greedy_decode


def long_audio(bundle: Bundle, *, window_s: float) -> tuple[LongAudio, Engine, Filterbank]:
    engine, filterbank = Engine(bundle), Filterbank(bundle.config.features)
    return LongAudio(bundle.config, engine, filterbank, bundle.alphabet, window_s=window_s), engine, filterbank


def whole(engine: Engine, filterbank: Filterbank, waveform: np.ndarray) -> torch.Tensor:
    features = filterbank(torch.from_numpy(waveform))
    return engine.log_probs(features[None], torch.tensor([features.shape[1]]))[0][0]


@pytest.mark.parametrize("kind", ["dense", "separable", "two strides", "unmasked"])
@pytest.mark.parametrize("num_samples", [1, 4000, 79999, 160000, 333333])
def test_windows_give_the_log_probs_of_the_whole(kind: str, num_samples: int) -> None:
    bundle = bundle_of(kind)
    (waveform,) = waveforms([num_samples])
    long, engine, filterbank = long_audio(bundle, window_s=1.0)
    stitched = torch.cat(list(long.log_probs(waveform_source(waveform))))
    torch.testing.assert_close(stitched, whole(engine, filterbank, waveform), atol=1e-4, rtol=0)


def test_a_frame_less_of_context_would_be_heard() -> None:
    """The context is no longer than it must be, so the test above would notice if it were too short."""
    bundle = bundle_of("dense")
    context = RELATIVES["dense"].context_frames
    features = torch.randn(1, 16, 4 * context)
    engine = Engine(bundle, method="direct")  # the frequency domain spreads rounding over a tile
    lengths = torch.tensor([features.shape[2]])
    before, _ = engine.log_probs(features, lengths)
    features[..., 2 * context + context] += 100
    after, _ = engine.log_probs(features, lengths)
    changed = (before != after).any(dim=2)[0].nonzero().flatten() * 2
    assert int(changed.min()) == 2 * context


def test_the_context_of_10x5_is_known() -> None:
    assert "jasper10x5dr" in PRESETS
    assert ModelConfig(preset="jasper10x5dr").context_frames == 881


def test_five_minutes_of_real_speech_are_stitched_exactly(speech_data: Path) -> None:
    paths = sorted((speech_data / "librispeech").rglob("*.flac"))
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < 300 * 16000:
        parts.append(soundfile.read(paths[len(parts) % len(paths)], dtype="float32")[0])
    waveform = np.concatenate(parts)[: 300 * 16000]
    long, engine, filterbank = long_audio(bundle_of("dense"), window_s=30.0)
    stitched = torch.cat(list(long.log_probs(waveform_source(waveform))))
    expected = whole(engine, filterbank, waveform)
    torch.testing.assert_close(stitched, expected, atol=1e-4, rtol=0)


def spaced_bundle() -> Bundle:
    """Its alphabet has a space, so that there are words."""
    bundle = bundle_of("dense")
    config = bundle.config.model_copy(update={"text": bundle.config.text.model_copy(update={"alphabet": "abcdef h"})})
    return Bundle(bundle.model, config, type(bundle.alphabet)("abcdef h"))


def test_pieces_are_final_and_together_the_greedy_transcript_with_its_words() -> None:
    bundle = spaced_bundle()
    (waveform,) = waveforms([20 * 16000])
    (expected,) = Transcriber(bundle).transcribe([waveform])
    long, engine, filterbank = long_audio(bundle, window_s=1.5)
    pieces = list(long.stream(waveform_source(waveform)))
    assert len(pieces) > 10 and len(expected.words) > 5
    assert "".join(piece.text for piece in pieces) == expected.text
    words = [word for piece in pieces for word in piece.words]
    assert [word.word for word in words] == [word.word for word in expected.words]
    for field in ("start_s", "end_s", "confidence"):
        got = [getattr(word, field) for word in words]
        assert got == pytest.approx([getattr(word, field) for word in expected.words], abs=1e-3)
    log_probs = whole(engine, filterbank, waveform)
    (labels,) = greedy_decode(log_probs[None], torch.tensor([len(log_probs)]), blank=bundle.alphabet.blank)
    assert bundle.alphabet.decode(labels) == expected.text
    ends = [piece.end_s for piece in pieces]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(20, abs=0.02)


def test_a_long_waveform_among_short_ones_is_transcribed_in_windows_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = waveforms([5 * 16000, 16000, 9 * 16000])
    transcriber = Transcriber(spaced_bundle())
    expected = transcriber.transcribe(many)
    monkeypatch.setattr("jasper_ray.inference.transcriber.LONG_AUDIO_S", 4.0)
    got = transcriber.transcribe(many)
    assert [one.text for one in got] == [one.text for one in expected]
    assert [one.duration_s for one in got] == [one.duration_s for one in expected]
    assert [one.confidence for one in got] == pytest.approx([one.confidence for one in expected], abs=1e-4)


def test_a_file_is_decoded_while_it_is_read(tmp_path: Path) -> None:
    (waveform,) = waveforms([25 * 8000])
    soundfile.write(tmp_path / "a.wav", waveform, 8000, subtype="FLOAT")
    transcriber = Transcriber(spaced_bundle())
    encoded = (tmp_path / "a.wav").read_bytes()
    transcript = transcriber.transcribe_long(encoded_source(encoded, 16000))
    assert len(transcript.words) > 3
    assert transcript.duration_s == pytest.approx(25)


def test_running_statistics_read_the_source_once_and_hear_nothing_of_the_future() -> None:
    (waveform,) = waveforms([6 * 16000])
    long, _, _ = long_audio(bundle_of("dense"), window_s=1.0)
    opened = []

    def source() -> list[np.ndarray]:
        opened.append(1)
        return list(np.array_split(waveform, 60))

    first = list(long.log_probs(source, statistics="running"))
    assert len(opened) == 1
    waveform[5 * 16000 :] *= 5
    second = list(long.log_probs(source, statistics="running"))
    assert torch.equal(first[0], second[0]) and not torch.equal(first[-1], second[-1])


def test_no_audio_has_an_empty_transcript() -> None:
    assert Transcriber(spaced_bundle()).transcribe_long(lambda: []).text == ""


MEMORY = """
import resource, sys
import numpy as np, torch
from jasper_ray.inference.transcriber import Transcriber
torch.set_num_threads(1)
minutes = int(sys.argv[2])
def source():
    noise = np.random.default_rng(0).normal(scale=0.1, size=16000 * 10).astype(np.float32)
    return (noise for _ in range(6 * minutes))
Transcriber.from_bundle(sys.argv[1]).transcribe_long(source)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_an_hour_needs_the_memory_of_a_minute(tmp_path: Path) -> None:
    from jasper_ray.model.bundle import save_bundle

    bundle = spaced_bundle()
    save_bundle(tmp_path / "b", config=bundle.config, weights=bundle.model.state_dict(), plain_weights=None)

    def peak_kib(minutes: int) -> int:
        command = [sys.executable, "-c", MEMORY, str(tmp_path / "b"), str(minutes)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert peak_kib(60) <= 1.1 * peak_kib(1)
