import dataclasses
import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from jasper_ray.audio.augment import Mask, UtteranceDraws
from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.batch import Batch
from jasper_ray.data.packing import RowShape
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.data.torch_loader import TorchLoader
from jasper_ray.errors import DataError

pytest.importorskip("nvidia.dali", reason="DALI is not installed")

from jasper_ray.data.dali_loader import DaliLoader, float_wav

MakeUtterance = Callable[..., EncodedUtterance]
Microbatches = Sequence[list[EncodedUtterance]]
# Of normalised features; the module's docstring says what was measured.
LARGEST_DIFFERENCE, MEAN_DIFFERENCE = 5e-4, 1e-5


def loader(features: FeatureConfig | None = None, *, prefetch: int = 2) -> DaliLoader:
    config = LoaderConfig(backend="dali", num_threads=1, prefetch_microbatches=prefetch)
    return DaliLoader(features or FeatureConfig(), config)


def both(microbatches: Microbatches, features: FeatureConfig | None = None) -> list[tuple[Batch, Batch]]:
    """Batches of the torch loader and of this one."""
    reference = TorchLoader(features or FeatureConfig(), LoaderConfig(num_threads=1))
    return list(zip(reference.load(microbatches), loader(features).load(microbatches), strict=True))


def assert_same(expected: Batch, batch: Batch, *, largest: float = LARGEST_DIFFERENCE) -> None:
    assert batch.features.shape == expected.features.shape
    assert batch.features.dtype == torch.float32
    for name in ("feature_lengths", "labels", "label_lengths"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name
    assert (batch.indices, batch.audio_s) == (expected.indices, expected.audio_s)
    difference = (batch.features - expected.features).abs()
    assert difference.max() <= largest
    assert difference.mean() <= MEAN_DIFFERENCE


def test_packed_batches_are_those_of_the_torch_loader(make_utterance: MakeUtterance) -> None:
    lengths = [16_000, 23_456, 12_345, 5_000]
    utterances = [make_utterance(index, num_samples=length) for index, length in enumerate(lengths)]
    microbatches = [utterances[:1], utterances[1:]]
    rows = RowShape(num_rows=3, num_frames=320, gap_frames=56)
    expected = list(TorchLoader(FeatureConfig(), LoaderConfig(num_threads=1)).load(microbatches, rows))
    for batch, other in zip(loader().load(microbatches, rows), expected, strict=True):
        assert_same(other, batch)
        assert torch.equal(batch.places, other.places)


def dali_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("dali", "resampling"))]


def speech(files: Sequence[Path], draws: Sequence[UtteranceDraws | None]) -> list[EncodedUtterance]:
    utterances = []
    for index, (file, drawn) in enumerate(zip(files, draws, strict=True)):
        info = audio_info(file.read_bytes())
        utterances.append(
            EncodedUtterance(index, file.stem, file.read_bytes(), info.sample_rate_hz, info.num_samples, (1, 2), drawn)
        )
    return utterances


def test_batches_of_every_size_equal_those_of_the_torch_loader(make_utterance: MakeUtterance) -> None:
    lengths = [16_000, 8_001, 23_456, 16_085, 12_345, 5_000, 48_000, 47_999, 320]
    utterances = [make_utterance(index, num_samples=length) for index, length in enumerate(lengths)]
    microbatches = [utterances[:2], utterances[2:3], utterances, utterances[4:7]]
    for expected, batch in both(microbatches):
        assert_same(expected, batch)
    assert dali_threads() == []


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 255, 256, 257, 320])
def test_very_short_audio_equals_that_of_the_torch_loader(make_utterance: MakeUtterance, num_samples: int) -> None:
    ((expected, batch),) = both([[make_utterance(3, num_samples=num_samples)]])
    assert_same(expected, batch)


@pytest.mark.parametrize(
    "features",
    [
        FeatureConfig(normalize="all_features"),
        FeatureConfig(normalize="none"),
        FeatureConfig(window="hamming", window_s=0.025),
        FeatureConfig(preemphasis=0, num_mels=80, low_hz=20, high_hz=7600, pad_to_multiple=1),
        FeatureConfig(window_s=0.0201, fft_size=400),
    ],
)
def test_every_kind_of_features_equals_that_of_the_torch_loader(
    make_utterance: MakeUtterance, features: FeatureConfig
) -> None:
    utterances = [make_utterance(index, num_samples=9_000 + 777 * index) for index in range(3)]
    ((expected, batch),) = both([utterances], features)
    assert_same(expected, batch)


@pytest.mark.parametrize(
    ("container", "channels", "rate_hz"),
    [("WAV", 1, 16_000), ("WAV", 2, 16_000), ("FLAC", 2, 44_100), ("MP3", 1, 16_000)],
)
def test_every_container_equals_that_of_the_torch_loader(
    make_utterance: MakeUtterance, container: str, channels: int, rate_hz: int
) -> None:
    utterance = make_utterance(2, container=container, channels=channels, sample_rate_hz=rate_hz)
    ((expected, batch),) = both([[utterance]])
    # MP3 and resampled audio have bins with next to nothing in them.
    assert_same(expected, batch, largest=LARGEST_DIFFERENCE if container == "WAV" else 0.05)


def test_speed_dither_and_masks_equal_those_of_the_torch_loader(make_utterance: MakeUtterance) -> None:
    masks = (Mask(5, 7, 0, 1000), Mask(0, 64, 20, 9), Mask(40, 3, 50, 4))
    all_draws = [
        UtteranceDraws(1.0, 77, masks),
        UtteranceDraws(0.9, 2**20 - 5, masks[:1]),
        UtteranceDraws(1.1321, 0, ()),
    ]
    features = FeatureConfig(dither=1e-3)
    utterances = [make_utterance(index, draws=draws) for index, draws in enumerate(all_draws)]
    ((expected, batch),) = both([utterances], features)
    assert_same(expected, batch)
    assert batch.features[0, 5:12].abs().max() == 0


def test_features_of_real_speech_equal_those_of_the_torch_loader(speech_data: Path) -> None:
    files = sorted((speech_data / "librispeech").rglob("*.flac"))[::29]
    ((expected, batch),) = both([speech(files, [None] * len(files))])
    difference = (batch.features - expected.features).abs()
    assert_same(expected, batch, largest=0.02)
    assert (difference > LARGEST_DIFFERENCE).float().mean() < 1e-4


@pytest.mark.parametrize("corpus", ["fsdd", "librispeech", "ljspeech", "jfk"])
def test_resampled_training_speech_equals_that_of_the_torch_loader(speech_data: Path, corpus: str) -> None:
    files = sorted((speech_data / corpus).rglob("*.flac"))
    files = files[:: 1 + len(files) // 8]
    speeds = np.linspace(0.85, 1.15, len(files))
    draws = [UtteranceDraws(float(speed), 1000 * index, ()) for index, speed in enumerate(speeds)]
    ((expected, batch),) = both([speech(files, draws)])
    assert_same(expected, batch, largest=0.02)


def test_8_khz_speech_in_evaluation_differs_only_where_resampling_left_nothing(speech_data: Path) -> None:
    files = sorted((speech_data / "fsdd" / "recordings").glob("*.flac"))[::300]
    ((expected, batch),) = both([speech(files, [None] * len(files))])
    difference = (batch.features - expected.features).abs()
    # Bins 0 to 44 end below 3.6 kHz, where soxr's filter begins.
    assert difference[:, :40].max() <= LARGEST_DIFFERENCE
    assert difference.mean() <= 1e-3
    assert difference.max() <= 0.2


def test_nvidias_features_come_out_of_dali_too(nvidia_fixtures: Path) -> None:
    with np.load(nvidia_fixtures / "features_nondali.npz") as arrays:
        names = [str(name) for name in arrays["batch_order"]]
        waveforms = [arrays[f"audio_{name}"] for name in names]
        references = [arrays[f"feat_{name}"][:, : int(arrays[f"featlen_{name}"][0])] for name in names]
    utterances = [
        EncodedUtterance(index, name, float_wav(waveform, 16_000).tobytes(), 16_000, len(waveform), (1,), None)
        for index, (name, waveform) in enumerate(zip(names, waveforms, strict=True))
    ]
    (batch,) = list(loader().load([utterances]))
    for row, reference in enumerate(references):
        difference = np.abs(batch.features[row, :, : reference.shape[1]].numpy() - reference)
        assert difference.max() <= 5e-4, names[row]


def test_what_soxr_made_reaches_dali_unchanged() -> None:
    waveform = np.random.default_rng(0).uniform(-2, 2, 1001).astype(np.float32)
    encoded = float_wav(waveform, 22_050)
    np.testing.assert_array_equal(decode_audio(encoded.tobytes(), sample_rate_hz=22_050), waveform)


@pytest.mark.parametrize("audio", [b"<html>" * 50, b"RIFF" + bytes(200), b"fLaC" + bytes(200)])
def test_an_error_names_the_utterance_and_stops_the_threads(make_utterance: MakeUtterance, audio: bytes) -> None:
    broken = dataclasses.replace(make_utterance(2), audio=audio)
    batches = loader().load([[make_utterance(0)], [make_utterance(1), broken, make_utterance(3)]])
    assert next(batches).indices == (0,)
    with pytest.raises(DataError, match=r"'utt-2'"):
        next(batches)
    assert dali_threads() == []


def test_a_length_other_than_the_manifests_is_refused(make_utterance: MakeUtterance) -> None:
    wrong = dataclasses.replace(make_utterance(2), num_samples=15_000)
    with pytest.raises(DataError, match=r"'utt-2'.*16000 samples.*promises 15000"):
        list(loader().load([[make_utterance(1), wrong]]))


def test_a_rate_other_than_the_manifests_is_refused(make_utterance: MakeUtterance) -> None:
    wrong = dataclasses.replace(make_utterance(2, sample_rate_hz=8000), sample_rate_hz=16_000)
    with pytest.raises(DataError, match=r"'utt-2'.*8000 Hz.*16000"):
        list(loader().load([[make_utterance(1), wrong]]))


def test_closing_early_stops_the_threads(make_utterance: MakeUtterance) -> None:
    batches = loader().load([make_utterance(index)] for index in itertools.count())
    next(batches)
    batches.close()
    assert dali_threads() == []


def test_samples_that_are_not_finite_are_refused(make_utterance: MakeUtterance) -> None:
    waveform = np.zeros(16_000, np.float32)
    waveform[5] = np.nan
    broken = dataclasses.replace(make_utterance(2), audio=float_wav(waveform, 16_000).tobytes())
    with pytest.raises(DataError, match=r"'utt-2'.*NaN"):
        list(loader().load([[make_utterance(1), broken]]))


def test_closing_the_loader_stops_its_threads_and_ends_its_iterators(make_utterance: MakeUtterance) -> None:
    own = loader()
    batches = own.load([[make_utterance(index)] for index in range(30)])
    next(batches)
    own.close()
    assert dali_threads() == []
    assert list(batches) == []


def test_two_iterators_of_one_loader_may_run_at_once(make_utterance: MakeUtterance) -> None:
    own = loader()
    microbatches = [[make_utterance(index)] for index in range(6)]
    pairs = list(zip(own.load(microbatches), own.load(microbatches), strict=True))
    assert all(torch.equal(one.features, other.features) for one, other in pairs)
    own.close()
