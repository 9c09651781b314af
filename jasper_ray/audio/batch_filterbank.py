"""Waveforms -> normalised log-mel features of a whole batch at once, where the model runs.

For a GPU, which takes hardly longer for a batch than for one utterance. One CPU thread took 39 ms for the features of
16 x 16.7 s, the model on an H200 15 ms (docs/benchmarks/2026-11-26-h200.md). On a CPU one utterance at a time is
faster: `jasper_ray.audio.filterbank`, whose numbers these are.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from jasper_ray.audio.filterbank import STD_FLOOR, Filterbank, mel_matrix, padded_window
from jasper_ray.config.speech import FeatureConfig


class BatchFilterbank:
    """Log-mel features of several waveforms, of each what `Filterbank` makes of it alone and without dither.

    Args:
        config: Of the features.
        device: Where they are made, and stay.
    """

    def __init__(self, config: FeatureConfig, *, device: torch.device) -> None:
        self._config, self._device = config, device
        self._alone = Filterbank(config)
        self._window = padded_window(config).to(device)
        self._mels_transposed = mel_matrix(config).T.contiguous().to(device)

    @torch.no_grad()
    def __call__(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Normalised features; the host does not wait for them.

        Args:
            waveforms: `(N,)` float32 each, at the config's rate, full scale 1, any lengths above 0.

        Returns:
            `(B, F, T)` float32 on the device, zeros behind an utterance's end, and `(B,)` frames on the host.

        Raises:
            ValueError: A waveform is empty or has more than one dimension.
        """
        for waveform in waveforms:
            if waveform.ndim != 1 or len(waveform) == 0:
                raise ValueError(f"waveforms must be (N,) with N > 0, got shape {waveform.shape}: mix channels first")
        samples = torch.tensor([self._alone.extended_length(len(waveform)) for waveform in waveforms])
        frames = torch.tensor([self._alone.num_frames(len(waveform)) for waveform in waveforms])
        lengths = self._sent(torch.stack([samples, frames]))
        emphasized = self._emphasized(self._sent(_padded(waveforms, int(samples.max()))))
        log_mel = self._log_mel(self._reflected(emphasized, lengths[0]), int(frames.max()))
        is_frame = (torch.arange(log_mel.shape[2], device=self._device) < lengths[1][:, None])[:, None]
        return self._normalized(log_mel, is_frame, lengths[1][:, None, None]), frames

    def _sent(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _emphasized(self, waveforms: Tensor) -> Tensor:
        if self._config.preemphasis == 0:
            return waveforms
        emphasized = waveforms.clone()
        emphasized[:, 1:].sub_(waveforms[:, :-1], alpha=self._config.preemphasis)
        if self._config.flavour == "nvidia_dali":
            emphasized[:, 0] -= self._config.preemphasis * waveforms[:, 0]
        return emphasized

    def _reflected(self, waveforms: Tensor, samples: Tensor) -> Tensor:
        """Each with its own edges reflected; what lies behind them is of no use."""
        edge = self._config.fft_size // 2
        positions = (torch.arange(waveforms.shape[1] + 2 * edge, device=self._device) - edge).abs()
        last = samples[:, None] - 1
        sources = torch.where(positions > last, 2 * last - positions, positions)
        return waveforms.gather(1, sources.clamp_(min=0))

    def _log_mel(self, signals: Tensor, num_frames: int) -> Tensor:
        frames = signals.unfold(1, self._config.fft_size, self._config.hop_samples)[:, :num_frames]
        squares = torch.view_as_real(torch.fft.rfft(frames * self._window)).square_()
        energies = torch.add(squares[..., 0], squares[..., 1]) @ self._mels_transposed
        if self._config.flavour == "nvidia_dali":
            return energies.clamp_(min=self._config.log_floor).log_().transpose(1, 2)
        return energies.add_(self._config.log_floor).log_().transpose(1, 2)

    def _normalized(self, log_mel: Tensor, is_frame: Tensor, num_frames: Tensor) -> Tensor:
        """As `Filterbank.normalize` over the frames of each utterance; zero everywhere else."""
        kept = torch.where(is_frame, log_mel, 0)
        if self._config.normalize == "none":
            return kept.contiguous()
        dims = (2,) if self._config.normalize == "per_feature" else (1, 2)
        num_values = num_frames * math.prod(log_mel.shape[dim] for dim in dims if dim != 2)
        for _ in range(2):  # again, for the rounding of the mean
            kept = torch.where(is_frame, kept - kept.sum(dims, keepdim=True) / num_values, 0)
        norm: Tensor = torch.linalg.vector_norm(kept, dim=dims, keepdim=True)
        if self._config.flavour == "nvidia_dali":
            std = norm / num_values.sqrt()
            return kept.mul_((std > STD_FLOOR) / std.clamp(min=STD_FLOOR))
        return kept.div_(norm / (num_values - 1).clamp(min=1).sqrt() + STD_FLOOR)


def _padded(waveforms: Sequence[np.ndarray], width: int) -> Tensor:
    padded = np.zeros((len(waveforms), width), np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return torch.from_numpy(padded)
