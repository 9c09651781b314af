"""A model as inference needs it: batch norm inside the convolutions, the residual branches of a block one product.

In evaluation batch norm is a scale and a shift per channel, so it goes into the weights of the convolution before it.
The 1x1 branches of a block, each with a batch norm of its own, are one matrix over the concatenated channels of the
outputs that they read. Dropout is gone. What is left computes the same numbers, up to rounding.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.model.jasper import Jasper, JasperBlock

ACTIVATIONS_: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.Hardtanh: functional.hardtanh_,
    nn.SELU: torch.selu_,
}
"""In place."""
BOUNDS: dict[type[nn.Module], tuple[float, float]] = {nn.ReLU: (0.0, math.inf), nn.Hardtanh: (-1.0, 1.0)}
"""Those that are no more than a lower and an upper bound."""


@dataclass(frozen=True)
class FoldedConv:
    """A convolution with everything linear that follows it."""

    weight: Tensor
    """`(C', C / groups, k)`."""
    bias: Tensor
    """`(C')`; zeros where there is none."""
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    activates: bool = False
    """Whether the non-linearity follows; at a block's end it does so after the residuals."""

    @property
    def kernel(self) -> int:
        """Taps."""
        return self.weight.shape[2]

    @property
    def reach(self) -> int:
        """Frames that it sees to either side."""
        return self.kernel // 2 * self.dilation


@dataclass(frozen=True)
class FoldedBlock:
    """A block: its convolutions, and one product for all its residual branches."""

    convs: tuple[FoldedConv, ...]
    residual: Tensor | None
    """`(C', sum of the channels that it reads)`; its biases are in the last convolution's."""
    reads: Literal["none", "plain", "dense"]
    """Whose outputs that product reads: nobody's, the block's own input, or all since the last block not `dense`."""

    @property
    def filters(self) -> int:
        """Output channels."""
        return self.convs[-1].weight.shape[0]

    @property
    def stride(self) -> int:
        """Input frames per output frame."""
        return self.convs[0].stride


@dataclass(frozen=True)
class FoldedJasper:
    """All of a model."""

    blocks: tuple[FoldedBlock, ...]
    decoder: FoldedConv
    masked: bool
    """Whether padding is zeroed before every convolution."""
    activate_: Callable[[Tensor], Tensor]
    """The non-linearity, in place."""
    bounds: tuple[float, float] | None
    """Of the non-linearity, if it is nothing else."""

    def split_after_strides(self) -> tuple["FoldedJasper", "FoldedJasper"]:
        """The blocks up to the last one with a stride, and those behind it."""
        first = 1 + max((i for i, block in enumerate(self.blocks) if block.stride > 1), default=-1)
        return replace(self, blocks=self.blocks[:first]), replace(self, blocks=self.blocks[first:])

    @property
    def num_inputs(self) -> int:
        """Channels that the first layer reads."""
        first = self.blocks[0].convs[0] if self.blocks else self.decoder
        return first.weight.shape[1] * first.groups

    @property
    def reach(self) -> int:
        """Frames that the longest kernel without a dilation sees to either side."""
        convs = [conv for block in self.blocks for conv in block.convs]
        return max((conv.reach for conv in convs if conv.dilation == 1), default=0)


def fold(model: Jasper) -> FoldedJasper:
    """Fold a model with its weights of now; results in float32 on the CPU."""
    encoder = model.encoder
    blocks = []
    for block, layer in zip(encoder.blocks, encoder.layers, strict=True):
        assert isinstance(layer, JasperBlock)
        convs = _fold_chain(layer.sub_blocks)
        panes = [_fold_chain(pane.children())[0] for pane in layer.res]
        residual = None
        if panes:
            residual = torch.cat([pane.weight[:, :, 0] for pane in panes], dim=1)
            bias = torch.stack([convs[-1].bias, *(pane.bias for pane in panes)]).double().sum(0).float()
            convs[-1] = replace(convs[-1], bias=bias)
        blocks.append(FoldedBlock(tuple(convs), residual, block.residual if panes else "none"))
    (decoder,) = _fold_chain(model.decoder.layers.children())
    kind = next(type(module) for module in model.modules() if type(module) in ACTIVATIONS_)
    return FoldedJasper(tuple(blocks), decoder, encoder.masked, ACTIVATIONS_[kind], BOUNDS.get(kind))


def _fold_chain(layers: Iterable[nn.Module]) -> list[FoldedConv]:
    convs: list[FoldedConv] = []
    for layer in layers:
        if isinstance(layer, nn.Conv1d):
            bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().float().cpu()
            sizes = (layer.stride[0], layer.dilation[0], layer.groups)
            convs.append(FoldedConv(layer.weight.detach().float().cpu(), bias, *sizes))
        elif isinstance(layer, BatchNorm):
            convs[-1] = _with_batch_norm(convs[-1], layer)
        elif type(layer) in ACTIVATIONS_:
            convs[-1] = replace(convs[-1], activates=True)
    return convs


def _with_batch_norm(conv: FoldedConv, norm: BatchNorm) -> FoldedConv:
    assert norm.running_mean is not None and norm.running_var is not None
    weight, shift, mean, var = (
        tensor.detach().double().cpu() for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = weight / (var + norm.eps).sqrt()
    return replace(
        conv,
        weight=conv.weight * scale.float()[:, None, None],
        bias=(shift + (conv.bias.double() - mean) * scale).float(),
    )
