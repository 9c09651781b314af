"""Log-mel energies of audio that comes in blocks: the values of the whole waveform, without holding it."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from jasper_ray.audio.filterbank import STD_FLOOR, Filterbank
from jasper_ray.config.speech import FeatureConfig


def stream_log_mel(filterbank: Filterbank, config: FeatureConfig, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Log-mel energies in pieces.

    Args:
        filterbank: Of `config`.
        config: How audio becomes features.
        blocks: `(n,)` float32 each, of any lengths; together the waveform.

    Yields:
        `(F, t)`; together what `filterbank.log_mel` gives for the whole waveform.
    """
    edge, hop, size = config.fft_size // 2, config.hop_samples, config.fft_size
    waveform = torch.empty(0)  # of the beginning, until it is long enough for its reflection; then its last sample
    signal, tail = torch.empty(0), torch.empty(0)
    num_samples = num_made = 0
    has_begun = False
    for block in blocks:
        num_samples += len(block)
        joined = torch.cat([waveform, block])
        if not has_begun and len(joined) <= edge:
            waveform = joined
            continue
        if len(block) == 0:
            continue
        emphasized = filterbank.emphasized(joined)[int(has_begun) :]
        beginning = [] if has_begun else [emphasized[1 : edge + 1].flip(0)]
        signal, tail = torch.cat([signal, *beginning, emphasized]), torch.cat([tail, emphasized])[-edge - 1 :]
        waveform, has_begun = joined[-1:], True
        num_whole = max(0, (len(signal) - size) // hop + 1)
        if num_whole:
            yield filterbank.frame_energies(signal.unfold(0, size, hop))
            signal, num_made = signal[num_whole * hop :], num_made + num_whole
    if not has_begun:
        if num_samples:
            yield filterbank.log_mel(waveform)
        return
    signal = torch.cat([signal, tail[:-1].flip(0)])
    left = config.num_frames(num_samples) - num_made
    if left > 0:
        yield filterbank.frame_energies(signal.unfold(0, size, hop)[:left])


class FeatureStatistics:
    """Mean and deviation of features that come in pieces, as `Filterbank.normalize` takes them over an utterance."""

    def __init__(self, config: FeatureConfig) -> None:
        self._config = config
        self._count = 0
        self._mean = torch.zeros(config.num_mels, dtype=torch.float64)
        self._squares = torch.zeros(config.num_mels, dtype=torch.float64)  # sum of squared distances from the mean

    def add(self, log_mel: Tensor) -> None:
        """Count `(F, t)` log-mel energies in."""
        count = log_mel.shape[1]
        values = log_mel.double()
        mean = values.mean(dim=1)
        squares = (values - mean[:, None]).square().sum(dim=1)
        total = self._count + count
        distance = mean - self._mean
        self._squares += squares + distance.square() * (self._count * count / total)
        self._mean += distance * (count / total)
        self._count = total

    def normalize(self, log_mel: Tensor) -> Tensor:
        """`(F, t)` log-mel energies normalised by all that was counted in."""
        if self._config.normalize == "none":
            return log_mel.contiguous()
        mean, squares, count = self._mean, self._squares, self._count
        if self._config.normalize == "all_features":
            squares = (squares + count * (mean - mean.mean()).square()).sum()
            mean, count = mean.mean(), count * len(self._mean)
        centred = log_mel.double() - mean.reshape(-1, 1)
        if self._config.flavour == "nvidia_dali":
            std = (squares / count).sqrt().reshape(-1, 1)
            return (centred * ((std > STD_FLOOR) / std.clamp(min=STD_FLOOR))).float()
        return (centred / ((squares / max(count - 1, 1)).sqrt().reshape(-1, 1) + STD_FLOOR)).float()
