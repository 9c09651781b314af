import pytest
import torch

from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.audio.log_mel_stream import FeatureStatistics, stream_log_mel
from jasper_ray.config.speech import FeatureConfig

CONFIGS = {
    "default": FeatureConfig(),
    "torch": FeatureConfig(flavour="nvidia_torch"),
    "dali": FeatureConfig(flavour="nvidia_dali"),
    "all": FeatureConfig(normalize="all_features"),
    "none": FeatureConfig(normalize="none", preemphasis=0),
    "long hop": FeatureConfig(window_s=0.032, hop_s=0.032),
}


def cut(waveform: torch.Tensor, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes, left = [], len(waveform)
    while left:
        sizes.append(min(left, int(torch.randint(0, 2000, (), generator=generator))))
        left -= sizes[-1]
    return list(waveform.split(sizes))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("num_samples", [1, 100, 256, 257, 258, 512, 513, 1600, 16000, 16001, 40123])
def test_pieces_are_the_features_of_the_whole_waveform_however_it_is_cut(name: str, num_samples: int) -> None:
    config = CONFIGS[name]
    filterbank = Filterbank(config)
    waveform = torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples)) * 0.1
    expected = filterbank.log_mel(waveform)
    for seed in range(3):
        pieces = list(stream_log_mel(filterbank, config, cut(waveform, seed)))
        torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=1e-4, rtol=1e-5)
        statistics = FeatureStatistics(config)
        for piece in pieces:
            statistics.add(piece)
        normalised = torch.cat([statistics.normalize(piece) for piece in pieces], dim=1)
        torch.testing.assert_close(normalised, filterbank.normalize(expected), atol=2e-3, rtol=1e-4)


def test_silence_is_as_silent_in_pieces() -> None:
    config = FeatureConfig()
    filterbank = Filterbank(config)
    statistics = FeatureStatistics(config)
    pieces = list(stream_log_mel(filterbank, config, [torch.zeros(1000)] * 40))
    for piece in pieces:
        statistics.add(piece)
    assert torch.cat([statistics.normalize(piece) for piece in pieces], dim=1).abs().max() == 0


def test_no_audio_has_no_features() -> None:
    assert list(stream_log_mel(Filterbank(FeatureConfig()), FeatureConfig(), [torch.empty(0)])) == []
