import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from jasper_ray.audio.augment import SPEED_STEPS, UtteranceDraws, draw_speeds
from jasper_ray.audio.decode import decode_audio
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.schema import RunConfig
from jasper_ray.config.speech import AugmentConfig, FeatureConfig
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.data.torch_loader import TorchLoader

LOADER = TorchLoader(FeatureConfig(), LoaderConfig(num_threads=1))


def noise(num_samples: int, rate_hz: int = 16000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).normal(scale=0.1, size=num_samples), rate_hz, format="FLAC")
    return buffer.getvalue()


def features(
    audio: bytes, num_samples: int, speed: float, *, folded: bool, rate_hz: int = 16000, loader: TorchLoader = LOADER
) -> torch.Tensor:
    draws = UtteranceDraws(speed, 7, (), folded)
    return loader.make_features(EncodedUtterance(0, "u", audio, rate_hz, num_samples, (1,), draws))


@pytest.mark.parametrize("steps", [136, 144, 159, 161, 176, 184])
def test_folded_features_are_nearly_those_of_resampled_speech(speech_data: Path, steps: int) -> None:
    paths = sorted((speech_data / "librispeech").rglob("*.flac"))[:5]
    differences = []
    for path in paths:
        audio = path.read_bytes()
        num_samples = len(decode_audio(audio, sample_rate_hz=16000))
        resampled = features(audio, num_samples, steps / 160, folded=False)
        folded = features(audio, num_samples, steps / 160, folded=True)
        assert folded.shape == resampled.shape
        differences.append((folded - resampled)[:56].square().mean())
    # Of values whose deviation is 1; unlike speeds differ by more than 1.
    assert 0 < torch.stack(differences).mean().sqrt() < 0.05


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 300, 4001, 16000, 16081])
@pytest.mark.parametrize("steps", [80, 136, 159, 161, 184, 240])
def test_a_folded_utterance_has_the_frames_that_the_plan_counts_on(num_samples: int, steps: int) -> None:
    audio, speed = noise(num_samples), steps / 160
    assert (
        features(audio, num_samples, speed, folded=True).shape
        == features(audio, num_samples, speed, folded=False).shape
    )


def test_speed_one_and_other_rates_are_not_folded() -> None:
    audio = noise(8000)
    assert torch.equal(features(audio, 8000, 1.0, folded=True), features(audio, 8000, 1.0, folded=False))
    slow = noise(8000, 8000)
    same = [features(slow, 8000, 0.9, folded=folded, rate_hz=8000) for folded in (True, False)]
    assert torch.equal(*same)
    odd = [features(audio, 8000, 0.9001, folded=folded) for folded in (True, False)]  # no whole hop
    assert torch.equal(*odd)


def test_what_does_not_fit_the_fourier_frame_is_not_folded() -> None:
    assert Filterbank(FeatureConfig()).can_fold(1.6) and not Filterbank(FeatureConfig()).can_fold(1.7)


def test_speeds_lie_on_a_grid_of_whole_hops_within_their_range() -> None:
    config = AugmentConfig(speed_min=0.851, speed_max=1.15)
    speeds = draw_speeds(config, seed=0, epoch=0, utterances=np.arange(5000))
    assert speeds.min() == 0.851 and speeds.max() == 1.15
    inner = speeds[(speeds > 0.851) & (speeds < 1.15)] * SPEED_STEPS
    assert np.array_equal(inner, np.round(inner)) and len(np.unique(inner)) == 47


def test_the_method_changes_no_draw() -> None:
    utterances = np.arange(100)
    drawn = [
        draw_speeds(
            AugmentConfig(speed_min=0.85, speed_max=1.15, speed_method=method), seed=1, epoch=2, utterances=utterances
        )
        for method in ("resample", "folded")
    ]
    assert np.array_equal(*drawn)


def test_dali_refuses_folded_speeds_before_a_run() -> None:
    with pytest.raises(ValueError, match=r"augment\.speed_method=folded needs loader\.backend=torch"):
        RunConfig.model_validate({"loader": {"backend": "dali"}, "augment": {"speed_method": "folded"}})


def test_flavours_of_nvidia_refuse_folded_speeds() -> None:
    with pytest.raises(ValueError, match=r"speed_method=folded needs features\.flavour=default, got 'nvidia_torch'"):
        RunConfig.model_validate({"features": {"flavour": "nvidia_torch"}, "augment": {"speed_method": "folded"}})
