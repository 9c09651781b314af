"""A folded model as a plain `nn.Module` of plain operators: what TorchScript, ONNX, OpenVINO and TensorRT take."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jasper_ray.inference.folded import FoldedBlock, FoldedConv, FoldedJasper
from jasper_ray.model.jasper import strided_lengths

ACTIVATIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    torch.relu_: torch.relu,
    functional.hardtanh_: functional.hardtanh,
    torch.selu_: torch.selu,
}


class ExportableJasper(nn.Module):
    """Features and lengths to log-probabilities and encoder lengths; any batch size and number of frames.

    Padding is masked before every convolution, as in `jasper_ray.inference.engine.Engine`.
    """

    def __init__(self, folded: FoldedJasper) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(block) for block in folded.blocks)
        self.decoder = _conv(folded.decoder)
        self._activate = ACTIVATIONS[folded.activate_]
        self._reads = [block.reads for block in folded.blocks]
        self._strides = [block.stride for block in folded.blocks]

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` and `(B,)` int64 to `(B, T', V)` float32 and `(B,)`."""
        dtype = self.decoder.weight.dtype
        frames = torch.arange(features.shape[2], device=features.device)
        keep = (frames < lengths[:, None])[:, None].to(dtype)
        x = features.to(dtype) * keep
        history = [x]
        for block, reads, stride in zip(self.blocks, self._reads, self._strides, strict=True):
            if stride > 1:
                keep = keep[:, :, ::stride]
                lengths = strided_lengths(lengths, stride)
            assert isinstance(block, _Block)
            x = history[-1]
            for conv, activates in zip(block.convs, block.activates, strict=True):
                x = conv(x)
                if activates:
                    x = self._activate(x) * keep
            if block.residual is not None:
                x = x + block.residual(torch.cat(history, dim=1) if reads == "dense" else history[-1])
            x = self._activate(x) * keep
            history = [*history, x] if reads == "dense" else [x]
        return functional.log_softmax(self.decoder(x).transpose(1, 2).float(), dim=2), lengths


class _Block(nn.Module):
    residual: nn.Conv1d | None

    def __init__(self, block: FoldedBlock) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(conv) for conv in block.convs)
        self.activates = [conv.activates for conv in block.convs]
        self.residual = None
        if block.residual is not None:
            self.residual = _conv(FoldedConv(block.residual[:, :, None], torch.zeros(block.filters)))


def _conv(conv: FoldedConv) -> nn.Conv1d:
    outputs, inputs, kernel = conv.weight.shape
    sizes = (conv.stride, conv.reach, conv.dilation, conv.groups)
    with torch.device("meta"):  # without drawing weights that are replaced
        layer = nn.Conv1d(inputs * conv.groups, outputs, kernel, *sizes)
    layer.weight, layer.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in (conv.weight, conv.bias))
    return layer
