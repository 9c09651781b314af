import numpy as np
import pytest
import torch

from jasper_ray.audio.batch_filterbank import BatchFilterbank
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.speech import FeatureConfig

CONFIGS = {
    "default": FeatureConfig(),
    "all_features": FeatureConfig(normalize="all_features"),
    "unnormalised": FeatureConfig(normalize="none"),
    "narrow": FeatureConfig(sample_rate_hz=8000, fft_size=256, num_mels=40, preemphasis=0),
    "nvidia_torch": FeatureConfig(flavour="nvidia_torch"),
    "nvidia_dali": FeatureConfig(flavour="nvidia_dali"),
}
LENGTHS = (16000, 1, 160, 161, 255, 257, 4001, 15999, 48000)


def waveforms(lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(scale=0.1, size=length).astype(np.float32) for length in lengths]


def require_same(config: FeatureConfig, given: list[np.ndarray], device: str) -> None:
    features, frames = BatchFilterbank(config, device=torch.device(device))(given)
    alone = Filterbank(config)
    assert features.shape == (len(given), config.num_mels, int(frames.max())) and features.device.type == device
    for row, length, waveform in zip(features.cpu(), frames.tolist(), given, strict=True):
        expected = alone(torch.from_numpy(waveform))
        assert length == expected.shape[1]
        torch.testing.assert_close(row[:, :length], expected, atol=1e-4, rtol=1e-4)
        assert not row[:, length:].any()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_each_row_is_what_the_waveform_gives_alone(name: str) -> None:
    require_same(CONFIGS[name], waveforms(), "cpu")


@pytest.mark.parametrize("name", ["default", "nvidia_dali"])
def test_silence_gives_what_it_gives_alone(name: str) -> None:
    silence = np.zeros(8000, np.float32)
    require_same(CONFIGS[name], [silence, *waveforms((12000,)), silence + 0.25], "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_on_a_gpu_too(name: str) -> None:
    require_same(CONFIGS[name], waveforms(), "cuda")
