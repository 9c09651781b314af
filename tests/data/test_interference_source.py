import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from jasper_ray.audio.interference import with_noise
from jasper_ray.config.data import CorpusConfig, LoaderConfig, PreparationConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET, AugmentConfig, FeatureConfig
from jasper_ray.data.batch import Batch, decode_utterance
from jasper_ray.data.interference import Interference, InterferenceSource, Recording
from jasper_ray.data.manifest import read_manifest
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.data.source import EncodedUtterance, UtteranceSource
from jasper_ray.data.torch_loader import TorchLoader
from jasper_ray.errors import DataError
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.text.alphabet import Alphabet

MakeUtterance = Callable[..., EncodedUtterance]


def write_recordings(folder: Path, count: int, *, num_samples: int, rate_hz: int = 16_000, fades: bool = False) -> None:
    for number in range(count):
        random = np.random.default_rng(100 + number)
        decay = np.exp(-np.arange(num_samples) / 800) if fades else 1.0
        path = folder / f"{number // 2}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, random.standard_normal(num_samples) * decay * 0.2, rate_hz)


def prepare(source: Path, target: Path, kind: str, *, audio_only: bool) -> str:
    corpus = CorpusConfig.model_validate({"source": str(source), "format": kind})
    config = PreparationConfig(audio_only=audio_only)
    prepare_dataset([corpus], str(target), alphabet=ENGLISH_ALPHABET, config=config)
    return str(target)


@pytest.fixture
def augment(tmp_path: Path) -> AugmentConfig:
    """Noises at two rates and room impulse responses, prepared from folders of audio files."""
    write_recordings(tmp_path / "noise16", 3, num_samples=5_000)
    write_recordings(tmp_path / "noise8/low", 2, num_samples=90_000, rate_hz=8_000)
    write_recordings(tmp_path / "rooms", 4, num_samples=3_000, fades=True)
    noise16, noise8, rooms = (
        prepare(tmp_path / name, tmp_path / f"{name}-data", "folder", audio_only=True)
        for name in ("noise16", "noise8", "rooms")
    )
    return AugmentConfig(
        noise=(noise16, noise8),
        noise_probability=0.7,
        reverb=(rooms,),
        reverb_probability=0.6,
        gain_min_db=-6,
        gain_max_db=6,
    )


@pytest.fixture
def speech_dataset(tmp_path: Path, make_utterance: MakeUtterance) -> str:
    folder = tmp_path / "speech"
    folder.mkdir()
    lines = []
    for index in range(12):
        utterance = make_utterance(index, num_samples=16_000 + 777 * index)
        (folder / f"{index}.flac").write_bytes(utterance.audio)
        lines.append(f'{{"audio": "{index}.flac", "text": "abc"}}')
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return prepare(folder, tmp_path / "speech-data", "jsonl", audio_only=False)


def source_of(dataset: str, augment: AugmentConfig, tmp_path: Path) -> UtteranceSource:
    cache = ShardCache(tmp_path / "cache", 10**9)
    return UtteranceSource(read_manifest(dataset), Alphabet(ENGLISH_ALPHABET), FeatureConfig(), augment, 3, cache)


def load(utterances: list[EncodedUtterance], *, backend: str = "torch", num_threads: int = 1) -> Batch:
    config = LoaderConfig.model_validate({"backend": backend, "num_threads": num_threads})
    if backend == "torch":
        (batch,) = list(TorchLoader(FeatureConfig(), config).load([utterances]))
        return batch
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from jasper_ray.data.dali_loader import DaliLoader

    (batch,) = list(DaliLoader(FeatureConfig(), config).load([utterances]))
    return batch


def test_interference_does_not_depend_on_loader_threads_batches_or_workers(
    speech_dataset: str, augment: AugmentConfig, tmp_path: Path
) -> None:
    together = source_of(speech_dataset, augment, tmp_path).microbatch(range(12), epoch=1)
    assert sum(one.interference is not None for one in together) >= 11
    assert sum(one.interference.noise is not None for one in together if one.interference) > 3
    assert sum(one.interference.impulse is not None for one in together if one.interference) > 3
    expected = load(together)
    assert torch.equal(load(together, num_threads=3).features, expected.features)
    dali = load(together, backend="dali")
    assert torch.equal(dali.feature_lengths, expected.feature_lengths)
    assert (dali.features - expected.features).abs().max() <= 5e-4
    for rank in range(3):  # another worker each, with a source and a micro-batch of its own
        rows = list(range(rank, 12, 3))
        batch = load(source_of(speech_dataset, augment, tmp_path).microbatch(rows, epoch=1))
        for position, row in enumerate(rows):
            length = int(batch.feature_lengths[position])
            assert torch.equal(batch.features[position, :, :length], expected.features[row, :, :length])


def test_interference_changes_with_the_epoch_and_leaves_evaluation_alone(
    speech_dataset: str, augment: AugmentConfig, tmp_path: Path
) -> None:
    source = source_of(speech_dataset, augment, tmp_path)
    first, second = source.microbatch(range(12), epoch=0), source.microbatch(range(12), epoch=1)
    assert [one.interference for one in first] != [one.interference for one in second]
    cache = ShardCache(tmp_path / "cache", 10**9)
    manifest = read_manifest(speech_dataset)
    evaluation = UtteranceSource(manifest, Alphabet(ENGLISH_ALPHABET), FeatureConfig(), None, 3, cache)
    assert all(one.interference is None for one in evaluation.microbatch(range(12), epoch=0))


def test_lengths_stay_and_the_drawn_ratio_is_heard(speech_dataset: str, augment: AugmentConfig, tmp_path: Path) -> None:
    quiet = augment.model_copy(update={"reverb": (), "gain_min_db": 0.0, "gain_max_db": 0.0, "speed_min": 0.9})
    utterances = source_of(speech_dataset, quiet, tmp_path).microbatch(range(12), epoch=0)
    noisy = [one for one in utterances if one.interference is not None]
    assert noisy
    for utterance in noisy:
        clean = decode_utterance(dataclasses.replace(utterance, interference=None), sample_rate_hz=16_000)
        heard = decode_utterance(utterance, sample_rate_hz=16_000)
        assert len(heard) == len(clean) == utterance.waveform_samples(16_000)
        snr_db = 10 * np.log10(np.sum(clean.astype(np.float64) ** 2) / np.sum((heard - clean).astype(np.float64) ** 2))
        assert utterance.interference is not None
        assert snr_db == pytest.approx(utterance.interference.snr_db, abs=0.1)


def test_room_comes_before_noise_and_gain_is_last(make_utterance: MakeUtterance) -> None:
    def wav(waveform: np.ndarray) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, waveform, 16_000, format="WAV", subtype="FLOAT")
        return file.getvalue()

    noise = np.random.default_rng(5).standard_normal(20_000).astype(np.float32)
    impulse = np.zeros(100, np.float32)
    impulse[[10, 60]] = [1, 0.5]
    waveform = decode_utterance(make_utterance(1), sample_rate_hz=16_000)
    wet = waveform.copy()
    wet[50:] += 0.5 * waveform[:-50]
    wet *= np.sqrt((waveform**2).sum() / (wet**2).sum())
    interference = Interference(Recording("r", wav(impulse)), Recording("n", wav(noise)), 0.1, 10.0, 6.0)
    expected = with_noise(wet, noise[2_000:18_000], 10.0) * 10 ** (6 / 20)
    np.testing.assert_allclose(interference.on(waveform, sample_rate_hz=16_000), expected, atol=1e-5)


@pytest.mark.parametrize(("field", "told"), [("noise", "noise 'x'"), ("impulse", "room impulse response 'x'")])
def test_a_recording_that_cannot_be_decoded_is_named(make_utterance: MakeUtterance, field: str, told: str) -> None:
    interference = dataclasses.replace(Interference(None, None, 0.0, 10.0, 0.0), **{field: Recording("x", b"<html>")})
    utterance = dataclasses.replace(make_utterance(2), interference=interference)
    for backend in ("torch", "dali"):
        with pytest.raises(DataError, match=rf"'utt-2': {told}: .*HTML"):
            load([utterance], backend=backend)


def test_what_is_no_dataset_is_named_with_its_key(tmp_path: Path) -> None:
    config = AugmentConfig(reverb=(str(tmp_path / "nowhere"),))
    with pytest.raises(DataError, match=r"augment\.reverb: .*nowhere.*--audio-only"):
        InterferenceSource(config, 0, ShardCache(tmp_path / "cache", 10**9))
