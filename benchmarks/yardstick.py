"""The yardstick: Jasper as NVIDIA's PyTorch code computes it, in plain eager PyTorch and in its order of operations.

Every speed ratio of this project is against this file. It is written from the facts of that code (masks and length
arithmetic before every convolution, batch norm and residuals one by one, features by a batched `torch.stft`, Python
loops for normalisation, greedy collapse and Novograd) and shares nothing with `jasper_ray` but the block list.
Weights load by the same names: `YardstickJasper.load_state_dict(model.state_dict())`.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from jasper_ray.audio.filterbank import mel_matrix
from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig

ACTIVATIONS = {"relu": nn.ReLU, "hardtanh": nn.Hardtanh, "selu": nn.SELU}


class MaskedConv1d(nn.Conv1d):
    """A convolution that zeroes the frames behind each length before it runs, and works out the new lengths."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, C, T)` and `(B,)` lengths to `(B, C', T')` and theirs."""
        num_frames = x.size(2)
        frames = torch.arange(num_frames, device=x.device).expand(lengths.size(0), num_frames)
        x = x.masked_fill((frames >= lengths.unsqueeze(1)).unsqueeze(1), 0)
        span = lengths + 2 * self.padding[0] - self.dilation[0] * (self.kernel_size[0] - 1) - 1
        lengths = (torch.floor(span / self.stride[0]) + 1).long()
        return super().forward(x), lengths


class YardstickBlock(nn.Module):
    """Sub-blocks, residual branches one after the other, activation after their sum."""

    def __init__(self, inputs: int, branches: list[int], block: BlockConfig, activation: str) -> None:
        super().__init__()
        self.conv = nn.ModuleList()
        for r in range(block.repeat):
            width = inputs if r == 0 else block.filters
            self.conv.append(
                MaskedConv1d(
                    width,
                    block.filters,
                    block.kernel,
                    stride=block.stride,
                    dilation=block.dilation,
                    padding=(block.kernel // 2) * block.dilation,
                    bias=False,
                )
            )
            self.conv.append(nn.BatchNorm1d(block.filters, eps=1e-3, momentum=0.1))
            if r < block.repeat - 1:
                self.conv.extend([ACTIVATIONS[activation](), nn.Dropout(block.dropout)])
        self.res = nn.ModuleList(
            nn.ModuleList(
                [
                    MaskedConv1d(width, block.filters, 1, bias=False),
                    nn.BatchNorm1d(block.filters, eps=1e-3, momentum=0.1),
                ]
            )
            for width in branches
        )
        self.out = nn.Sequential(ACTIVATIONS[activation](), nn.Dropout(block.dropout))
        self.dense = block.residual == "dense"

    def forward(self, history: list[Tensor], lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """The outputs of earlier blocks and their lengths to the same with this block's."""
        x, new_lengths = history[-1], lengths
        for layer in self.conv:
            if isinstance(layer, MaskedConv1d):
                x, new_lengths = layer(x, new_lengths)
            else:
                x = layer(x)
        branches = history if self.dense else history[-1:]
        for pane, branch in zip(self.res, branches, strict=False):
            conv, norm = pane
            residual, _ = conv(branch, lengths)
            x += norm(residual)
        x = self.out(x)
        return ([*history, x] if self.dense and len(self.res) else [x]), new_lengths


class YardstickEncoder(nn.Module):
    """The chain of blocks."""

    def __init__(self, config: ModelConfig, num_mels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        widths = [num_mels]
        for block in config.resolved_blocks:
            branches = {"none": [], "plain": widths[-1:], "dense": widths}[block.residual]
            self.layers.append(YardstickBlock(widths[-1], list(branches), block, config.activation))
            widths = [*widths, block.filters] if block.residual == "dense" else [block.filters]

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` to `(B, C, T')` and the encoder lengths."""
        history = [features]
        for layer in self.layers:
            history, lengths = layer(history, lengths)
        return history[-1], lengths


class YardstickDecoder(nn.Module):
    """A 1x1 convolution and log-softmax."""

    def __init__(self, inputs: int, num_labels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(inputs, num_labels, 1, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, T)` to `(B, T, V)`."""
        return functional.log_softmax(self.layers(x).transpose(1, 2), dim=2)


class YardstickJasper(nn.Module):
    """The masked model; xavier-uniform weights until others are loaded."""

    def __init__(self, config: ModelConfig, *, num_mels: int, num_labels: int) -> None:
        super().__init__()
        self.encoder = YardstickEncoder(config, num_mels)
        self.decoder = YardstickDecoder(config.resolved_blocks[-1].filters, num_labels)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` features and `(B,)` lengths to `(B, T', V)` log-probabilities and encoder lengths."""
        encoded, lengths = self.encoder(features, lengths)
        return self.decoder(encoded), lengths


class YardstickFeatures:
    """Batched features: dither, pre-emphasis, `torch.stft` of the zero-padded batch, mel, log, a loop to normalise.

    Args:
        config: Only its numbers count; the flavour is NVIDIA's without DALI.
        dither: Amplitude of the noise; 0 so that figures can be compared.
    """

    def __init__(self, config: FeatureConfig, *, dither: float = 0.0) -> None:
        self._config = config
        self._dither = dither
        self._window = torch.hann_window(config.window_samples, periodic=False)
        self._mels = mel_matrix(config).unsqueeze(0)

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, N)` zero-padded waveforms and `(B,)` samples to `(B, F, T)` features and `(B,)` frames."""
        config = self._config
        frames = torch.ceil(lengths.to(torch.float32) / config.hop_samples).to(torch.int32)
        x = waveforms
        if self._dither > 0:
            x = x + self._dither * torch.randn_like(x)
        x = torch.cat([x[:, 0].unsqueeze(1), x[:, 1:] - config.preemphasis * x[:, :-1]], dim=1)
        spectrum = torch.stft(
            x,
            n_fft=config.fft_size,
            hop_length=config.hop_samples,
            win_length=config.window_samples,
            center=True,
            window=self._window,
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).pow(2).sum(-1)
        energies = torch.log(torch.matmul(self._mels, power) + 1e-20)
        mean = torch.zeros(energies.shape[:2])
        std = torch.zeros(energies.shape[:2])
        for row in range(energies.shape[0]):
            mean[row] = energies[row, :, : frames[row]].mean(dim=1)
            std[row] = energies[row, :, : frames[row]].std(dim=1)
        std += 1e-5
        features = (energies - mean.unsqueeze(2)) / std.unsqueeze(2)
        behind = torch.arange(features.size(-1)).expand(features.size(0), features.size(-1)) >= frames.unsqueeze(1)
        features = features.masked_fill(behind.unsqueeze(1), 0)
        remainder = features.size(-1) % config.pad_to_multiple
        if remainder:
            features = functional.pad(features, (0, config.pad_to_multiple - remainder))
        return features, frames.long()


def greedy_collapse(log_probs: Tensor, *, blank: int) -> list[list[int]]:
    """Best label of every frame of `(B, T, V)`, repeats merged and blanks dropped by a Python loop."""
    hypotheses = []
    for best in log_probs.argmax(dim=-1, keepdim=False).cpu():
        labels = best.numpy().tolist()
        hypotheses.append(collapse(labels, blank=blank))
    return hypotheses


def collapse(labels: list[int], *, blank: int) -> list[int]:
    """Repeats merged and blanks dropped, label by label."""
    decoded, previous = [], blank
    for label in labels:
        if (label != previous or previous == blank) and label != blank:
            decoded.append(label)
        previous = label
    return decoded


class YardstickNovograd(torch.optim.Optimizer):
    """Novograd, tensor by tensor: gradient over its own norm, weight decay inside the momentum."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, *, betas: tuple[float, float] = (0.95, 0.0), decay: float = 1e-3
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": 1e-8, "weight_decay": decay})

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros([])
                norm = torch.sum(torch.pow(gradient, 2))
                if state["exp_avg_sq"] == 0:
                    state["exp_avg_sq"].copy_(norm)
                else:
                    state["exp_avg_sq"].mul_(beta2).add_(norm, alpha=1 - beta2)
                gradient.div_(state["exp_avg_sq"].sqrt().add_(group["eps"]))
                gradient.add_(parameter, alpha=group["weight_decay"])
                state["exp_avg"].mul_(beta1).add_(gradient)
                parameter.add_(state["exp_avg"], alpha=-group["lr"])


def train_step(
    model: YardstickJasper,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    lengths: Tensor,
    labels: Tensor,
    label_lengths: Tensor,
) -> float:
    """Forward, CTC (mean over the batch, not divided by target lengths), backward, update; the loss.

    Args:
        model: In training mode.
        optimizer: Of its parameters.
        features: `(B, F, T)`.
        lengths: `(B,)` frames.
        labels: `(B, U)` label ids; the blank is the last of the model's labels.
        label_lengths: `(B,)`.
    """
    optimizer.zero_grad()
    log_probs, encoder_lengths = model(features, lengths)
    blank = log_probs.shape[2] - 1
    loss = functional.ctc_loss(
        log_probs.transpose(0, 1), labels, encoder_lengths, label_lengths, blank=blank, reduction="none"
    ).mean()
    if torch.isnan(loss).any():
        return math.nan
    loss.backward()
    optimizer.step()
    return loss.item()
