"""Jasper and QuartzNet: blocks of masked 1-D convolutions with (dense) residuals, and a linear CTC decoder.

Source: Li et al. 2019, "Jasper: An End-to-End Convolutional Neural Acoustic Model"; Kriman et al. 2020 for separable
blocks. Layer names and numerics are those of NVIDIA's implementations of 2021, so that their weights load by name.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.model.convolution import Convolution
from jasper_ray.model.fused_norms import Draws, are_fit, fused_norms
from jasper_ray.model.layout import Dropout, zero_where
from jasper_ray.model.padding import Padding, padding_of, take_utterances
from jasper_ray.model.recompute import recomputed
from jasper_ray.model.residuals import Branch, FoldedResiduals, Residual
from jasper_ray.model.triton_trial import triton_runs

Item = TypeVar("Item")
Normalization = Literal["auto", "torch", "triton"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
Residuals = Literal["separate", "folded"]
RESIDUALS: tuple[Residuals, ...] = get_args(Residuals)

STREAMS_OF_A_BLOCK = 256


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "hardtanh": nn.Hardtanh, "selu": nn.SELU}

INITIALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "kaiming_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
}


def _convolutions(inputs: int, block: BlockConfig) -> list[nn.Conv1d]:
    """The convolution of a sub-block, or the two that a separable one consists of."""
    if block.separable:
        return [_conv(inputs, inputs, block, groups=inputs), Convolution(inputs, block.filters, 1, bias=False)]
    return [_conv(inputs, block.filters, block)]


def _conv(inputs: int, outputs: int, block: BlockConfig, *, groups: int = 1) -> nn.Conv1d:
    return Convolution(
        inputs,
        outputs,
        block.kernel,
        stride=block.stride,
        dilation=block.dilation,
        padding=(block.kernel // 2) * block.dilation,
        groups=groups,
        bias=False,
    )


def mask_padding(x: Tensor, padding: Padding | None) -> Tensor:
    """Set the padding of `(R, C, T)` to zero; none known, no change."""
    return x if padding is None else zero_where(x, padding.mask)


class JasperBlock(nn.Module):
    """`repeat` times convolution, batch norm, activation, dropout; residuals join before the last activation.

    Args:
        inputs: Channels of the block's input.
        branches: Channels of each tensor that joins through a 1x1 convolution and batch norm of its own.
        block: Its shape.
        config: Names the non-linearity and what batch norm does with padding.

    The sub-blocks' layers are `conv`, in a model with separable blocks `mconv`, and slots count as in NVIDIA's models.
    """

    normalization: Normalization = "auto"

    def __init__(self, inputs: int, branches: list[int], block: BlockConfig, config: ModelConfig) -> None:
        super().__init__()
        act = ACTIVATIONS[config.activation]
        norm = partial(BatchNorm, block.filters, excludes_padding=config.batch_norm_padding == "exclude")
        layers = nn.ModuleList()
        for r in range(block.repeat):
            layers.extend([*_convolutions(inputs if r == 0 else block.filters, block), norm()])
            if r < block.repeat - 1:
                layers.extend([act(), Dropout(block.dropout)])
        self._layers_name = "mconv" if config.is_separable else "conv"
        self.add_module(self._layers_name, layers)
        self.res = nn.ModuleList(
            nn.Sequential(Convolution(width, block.filters, 1, bias=False), norm()) for width in branches
        )
        self.out = nn.Sequential(act(), Dropout(block.dropout))
        self.stride = block.stride

    @property
    def sub_blocks(self) -> nn.ModuleList:
        """Convolutions, batch norms, activations and dropouts in order."""
        layers = getattr(self, self._layers_name)
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def branches(self) -> list[Branch]:
        """The residual branches in the order of their inputs."""
        panes = [pane for pane in self.res if isinstance(pane, nn.Sequential)]
        return [Branch(*pane) for pane in panes]

    def forward(
        self,
        x: Tensor,
        branches: list[Tensor] | Residual,
        padding: Padding | None,
        *,
        masks_output: bool = True,
        draws: Draws | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            x: `(R, C, T)` input with padding already zero.
            branches: Residual inputs, `(R, C_i, T)` each, with padding already zero; or what they add to the block.
            padding: Which frames of the output are padding, or none.
            masks_output: Whether the output's padding is to be zero; else it may hold anything.
            draws: What dropout of our own kernels is drawn from; none keeps to torch.

        Returns:
            `(R, filters, ceil(T / stride))`.
        """
        norms: list[BatchNorm] = []
        layers = list(self.sub_blocks)
        for position, (before, layer) in enumerate(zip([None, *layers], layers, strict=False)):
            if isinstance(layer, nn.Conv1d):
                x = layer(mask_padding(x, padding) if isinstance(before, nn.Conv1d) else x)
            elif isinstance(layer, BatchNorm):
                norms = [layer]
            elif isinstance(layer, Dropout):
                x = self._normalised([x], norms, layer, padding, masks=True, draws=draws and draws.stream_of(position))
        if isinstance(branches, Residual):
            return self._normalised([x], norms, self.out[1], padding, masks=masks_output, draws=draws, added=branches)
        sums = [x]
        for (conv, norm), branch in zip(self.branches, branches, strict=True):
            sums.append(conv(branch))
            norms.append(norm)
        return self._normalised(sums, norms, self.out[1], padding, masks=masks_output, draws=draws)

    def _normalised(
        self,
        xs: list[Tensor],
        norms: list[BatchNorm],
        dropout: nn.Module,
        padding: Padding | None,
        *,
        masks: bool,
        draws: Draws | None,
        added: Residual | None = None,
    ) -> Tensor:
        """Each input through its batch norm, their sum and what is added through activation and dropout."""
        assert isinstance(dropout, Dropout)
        if draws is not None and are_fit(xs if added is None else [*xs, added.frames]):
            return fused_norms(xs, norms, dropout, padding, draws, added)
        x = norms[0](xs[0], padding, None if added is None else added.shift)
        if added is not None:
            x = x + added.frames
        for norm, branch in zip(norms[1:], xs[1:], strict=True):
            x = x + norm(branch, padding)
        x = dropout(self.out[0](x))
        return mask_padding(x, padding) if masks else x

    def fuses(self, device: torch.device) -> bool:
        """Whether our own kernels compute what lies between its convolutions, where the layout allows it."""
        wanted = self.normalization == "triton" or (self.normalization == "auto" and triton_runs(device))
        return self.training and wanted and isinstance(self.out[0], nn.ReLU)


def set_normalization(model: nn.Module, method: Normalization) -> None:
    """Say how training computes what lies between convolutions: see `training.normalization`.

    Raises:
        ValueError: There is no such method.
    """
    if method not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {method!r}")
    for module in model.modules():
        if isinstance(module, JasperBlock):
            module.normalization = method


def set_residuals(model: "Jasper", method: Residuals) -> None:
    """Say how training computes dense residual branches: see `training.residuals`.

    Raises:
        ValueError: There is no such method.
    """
    if method not in RESIDUALS:
        raise ValueError(f"residuals must be one of {', '.join(RESIDUALS)}, got {method!r}")
    model.encoder.residuals = method


class JasperEncoder(nn.Module):
    """The chain of blocks and the lists of outputs that dense residuals read."""

    def __init__(self, config: ModelConfig, num_mels: int) -> None:
        super().__init__()
        self.blocks = config.resolved_blocks
        self.masked = config.masked
        self.num_mels = num_mels
        self.recomputes = False
        self.residuals: Residuals = "separate"
        self.register_buffer("dropout_seed", torch.zeros(1, dtype=torch.int64), persistent=False)
        self.dropout_seed: Tensor
        self.layers = nn.ModuleList()
        history = [num_mels]
        for block in self.blocks:
            self.layers.append(JasperBlock(history[-1], branch_inputs(block, history), block, config))
            history = [*history, block.filters] if block.residual == "dense" else [block.filters]
        self._chains = dense_chains(self.blocks)

    def forward(self, features: Tensor, lengths: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`(R, F, T)` features and `(B,)` lengths to `(R, C, T')` and encoder lengths; `places` as in `Jasper`."""
        if places is not None and not self.masked:
            raise ValueError(
                "several utterances in a row need a model with model.masked=true: without masks each convolution "
                "carries them into each other"
            )
        padding = padding_of(features, lengths, places) if self.masked else None
        history = [mask_padding(features, padding)]
        fused = [isinstance(layer, JasperBlock) and layer.fuses(features.device) for layer in self.layers]
        if any(fused) and not (features.is_cuda and torch.cuda.is_current_stream_capturing()):
            self.draw_seed()
        x, folds = features, self.training and self.residuals == "folded"
        folded: FoldedResiduals | None = None
        for position, (block, layer) in enumerate(zip(self.blocks, self.layers, strict=True)):
            if block.stride > 1:
                lengths = strided_lengths(lengths, block.stride)
                padding = padding.strided(block.stride) if padding else None
            if folds and position in self._chains:
                folded = FoldedResiduals(self._branches(self._chains[position]), padding)
            if folded is not None and block.residual == "dense":
                inputs: tuple[Any, ...] = (folded.add(history[-1]), folded.residual(), padding)
            else:
                inputs = (history[-1], branch_inputs(block, history), padding)
            draws = Draws(self.dropout_seed, STREAMS_OF_A_BLOCK * position) if fused[position] else None
            run = partial(layer, masks_output=position < len(self.blocks) - 1, draws=draws)
            x = recomputed(run, *inputs) if self.recomputes and self.training else run(*inputs)
            history = [*history, x] if block.residual == "dense" else [x]
        return x, lengths

    def _branches(self, chain: range) -> list[list[Branch]]:
        blocks = [layer for layer in self.layers if isinstance(layer, JasperBlock)]
        return [blocks[position].branches for position in chain]

    def draw_seed(self) -> None:
        """Draw the seed of our own kernels' dropout from torch's generator of the CPU.

        A forward pass does; where it is captured in a graph, who replays it must.
        """
        self.dropout_seed.fill_(int(torch.randint(2**62, ())))


def branch_inputs(block: BlockConfig, history: list[Item]) -> list[Item]:
    """Which of the earlier outputs a block's residual branches read."""
    return {"none": [], "plain": history[-1:], "dense": history}[block.residual]


def dense_chains(blocks: Sequence[BlockConfig]) -> dict[int, range]:
    """Blocks with dense residuals that follow each other, by the first one's position."""
    chains: dict[int, range] = {}
    first = 0
    for position, block in enumerate(blocks):
        if block.residual != "dense":
            first = position + 1
        else:
            chains[first] = range(first, position + 1)
    return chains


def strided_lengths(lengths: Tensor, stride: int) -> Tensor:
    """Lengths after a convolution of odd kernel and `same` padding: ceil(length / stride)."""
    return torch.div(lengths - 1, stride, rounding_mode="floor") + 1


class JasperDecoder(nn.Module):
    """A 1x1 convolution to the labels; log-softmax in fp32 whatever the encoder computed in."""

    def __init__(self, inputs: int, num_labels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(Convolution(inputs, num_labels, 1, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, T)` to `(B, T, V)` log-probabilities."""
        return functional.log_softmax(self.layers(x).transpose(1, 2).float(), dim=2)


class Jasper(nn.Module):
    """Encoder and decoder.

    Args:
        config: The blocks.
        num_mels: Width F of the features.
        num_labels: Outputs V, the CTC blank included.
    """

    def __init__(self, config: ModelConfig, *, num_mels: int, num_labels: int) -> None:
        super().__init__()
        self.encoder = JasperEncoder(config, num_mels)
        self.total_stride = config.total_stride
        self.decoder = JasperDecoder(config.resolved_blocks[-1].filters, num_labels)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                INITIALIZERS[config.init](module.weight)

    def forward(
        self, features: Tensor, lengths: Tensor, places: Tensor | None = None, longest: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features to log-probabilities.

        Args:
            features: `(R, F, T)`; frames that belong to no utterance may hold anything if the model is masked.
            lengths: `(B,)` int64 feature frames (10 ms) per utterance.
            places: `(B, 2)` int64 row and first frame of each utterance, where rows hold several; first frames are
                multiples of the model's stride, and gaps no narrower than `packing_gap_frames`. None: utterance i
                alone lies at the start of row i.
            longest: The largest of `lengths`, so that packed rows need not ask the device for it.

        Returns:
            `(B, T', V)` fp32 log-probabilities per encoder frame (20 ms at stride 2) and `(B,)` encoder lengths.
            Frames beyond an utterance's encoder length are not defined for a user.

        Raises:
            ValueError: There are `places`, but the model is not masked.
        """
        encoded, encoded_lengths = self.encoder(features, lengths, places)
        log_probs = self.decoder(encoded)
        if places is None:
            return log_probs, encoded_lengths
        longest = int(lengths.max()) if longest is None else longest
        starts = torch.stack([places[:, 0], places[:, 1] // self.total_stride], dim=1)
        return take_utterances(log_probs, starts, longest=-(-longest // self.total_stride)), encoded_lengths


def num_parameters(model: nn.Module) -> int:
    """Trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters())
