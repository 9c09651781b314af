"""Both loaders under each flavour of features, against what NVIDIA's own two paths gave."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from jasper_ray.audio.augment import UtteranceDraws
from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.batch import Batch, BatchLoader
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.data.torch_loader import TorchLoader

# Absolute, of normalised features; NVIDIA's DALI operators round differently in near-silent frames of `keynote`.
TOLERANCE = 5e-4
TORCH, DALI = FeatureConfig(flavour="nvidia_torch"), FeatureConfig(flavour="nvidia_dali")


def make_loader(backend: str, features: FeatureConfig) -> BatchLoader:
    if backend == "torch":
        return TorchLoader(features, LoaderConfig(num_threads=1))
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from jasper_ray.data.dali_loader import DaliLoader

    return DaliLoader(features, LoaderConfig(backend="dali", num_threads=1))


def encoded(index: int, waveform: np.ndarray, *, draws: UtteranceDraws | None = None) -> EncodedUtterance:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="WAV", subtype="FLOAT")
    return EncodedUtterance(index, f"utt-{index}", file.getvalue(), 16_000, len(waveform), (1,), draws)


def load(backend: str, features: FeatureConfig, utterances: list[EncodedUtterance]) -> Batch:
    (batch,) = list(make_loader(backend, features).load([utterances]))
    return batch


@pytest.fixture(scope="module")
def fixtures(nvidia_fixtures: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name in ("features_nondali", "features_dali_cpu"):
        with np.load(nvidia_fixtures / f"{name}.npz") as file:
            arrays |= {key: file[key] for key in file.files}
    return arrays


@pytest.fixture(scope="module")
def six(fixtures: dict[str, np.ndarray]) -> list[EncodedUtterance]:
    return [encoded(index, fixtures[f"audio_{name}"]) for index, name in enumerate(fixtures["batch_order"])]


@pytest.mark.parametrize("backend", ["torch", "dali"])
def test_a_batch_of_flavour_nvidia_torch_is_that_of_nvidias_featurizer(
    fixtures: dict[str, np.ndarray], six: list[EncodedUtterance], backend: str
) -> None:
    batch = load(backend, TORCH, six)
    assert batch.feature_lengths.tolist() == fixtures["batch_feat_lens"].tolist()
    assert batch.features.shape == fixtures["batch_feat"].shape
    assert np.abs(batch.features.numpy() - fixtures["batch_feat"]).max() <= TOLERANCE
    # Shorter utterances see zeros behind their end; by default they see themselves reflected.
    assert np.abs(load(backend, FeatureConfig(), six).features.numpy() - fixtures["batch_feat"]).max() > 0.1


@pytest.mark.parametrize("backend", ["torch", "dali"])
def test_flavour_nvidia_torch_alone_is_that_of_nvidias_featurizer(
    fixtures: dict[str, np.ndarray], six: list[EncodedUtterance], backend: str
) -> None:
    for name, utterance in zip(fixtures["batch_order"], six, strict=True):
        features = load(backend, TORCH, [utterance]).features[0].numpy()
        assert features.shape == fixtures[f"feat_{name}"].shape, name
        assert np.abs(features - fixtures[f"feat_{name}"]).max() <= TOLERANCE, name


@pytest.mark.parametrize("backend", ["torch", "dali"])
def test_flavour_nvidia_dali_is_that_of_nvidias_pipeline(
    fixtures: dict[str, np.ndarray], six: list[EncodedUtterance], backend: str
) -> None:
    batch = load(backend, DALI, six)
    for row, name in enumerate(fixtures["batch_order"]):
        assert int(batch.feature_lengths[row]) == int(fixtures[f"notrim_shape_{name}"][1]), name
        assert np.abs(batch.features[row].numpy() - fixtures[f"notrim_feat_{name}"]).max() <= TOLERANCE, name


@pytest.mark.parametrize("features", [TORCH, DALI], ids=["nvidia_torch", "nvidia_dali"])
def test_both_loaders_agree_in_every_flavour(features: FeatureConfig) -> None:
    random = np.random.default_rng(0)
    lengths = [1, 100, 160, 257, 16_000, 16_001, 16_300, 40_000]
    draws = [UtteranceDraws(1.0, 0, ()), UtteranceDraws(0.93, 5, ()), None]
    utterances = [
        encoded(index, (random.standard_normal(length) * 0.1).astype(np.float32), draws=draws[index % 3])
        for index, length in enumerate(lengths)
    ]
    one, other = load("torch", features, utterances), load("dali", features, utterances)
    assert torch.equal(one.feature_lengths, other.feature_lengths)
    assert (one.features - other.features).abs().max() <= TOLERANCE


@pytest.mark.parametrize("backend", ["torch", "dali"])
@pytest.mark.parametrize("flavour", ["default", "nvidia_torch", "nvidia_dali"])
def test_silence_is_zero_in_every_flavour(backend: str, flavour: str) -> None:
    utterances = [encoded(0, np.zeros(16_000, np.float32)), encoded(1, np.zeros(100, np.float32))]
    batch = load(backend, FeatureConfig.model_validate({"flavour": flavour}), utterances)
    assert batch.features.abs().max() < 1e-6


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 320, 16_000])
def test_frames_are_counted_as_each_flavour_does(num_samples: int) -> None:
    assert FeatureConfig().num_frames(num_samples) == TORCH.num_frames(num_samples) == -(-num_samples // 160)
    assert DALI.num_frames(num_samples) == num_samples // 160 + 1
    assert DALI.num_frames(np.array([num_samples])).tolist() == [num_samples // 160 + 1]


@pytest.mark.parametrize("wrong", [{"window": "hamming"}, {"normalize": "all_features"}])
def test_flavour_nvidia_dali_refuses_what_nvidias_pipeline_ignores(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"flavour=nvidia_dali has window=hann.*use flavour=nvidia_torch"):
        FeatureConfig.model_validate({"flavour": "nvidia_dali", **wrong})
