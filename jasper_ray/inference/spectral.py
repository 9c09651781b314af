"""A folded model on a CPU in the frequency domain: activations stay on one time axis of tiles from layer to layer.

Rows of a batch lie one behind the other with zeros between them, so that a convolution of stride 1 reads overlapping
tiles in place and writes the next layer's axis: nothing is laid out anew, as training does
(`jasper_ray.model.fourier`, whose matrices these are). Weights are transformed once. All outputs of a dense chain lie
in one wide buffer, so that a block's residual product reads them without copying.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.inference.direct import DirectRunner
from jasper_ray.inference.folded import FoldedBlock, FoldedJasper
from jasper_ray.inference.spectral_layers import (
    HALF_HOP,
    HOP,
    Convolve,
    Rows,
    Scratch,
    convolution,
    has_half_products,
    in_frequencies,
)


@dataclass(frozen=True)
class _Step:
    convolve: Convolve
    bias: Tensor
    activates: bool


@dataclass(frozen=True)
class _Block:
    steps: tuple[_Step, ...]
    residual: Tensor | None
    """`(channels that it reads, C')`."""
    source: slice
    """The block's input in the wide buffer."""
    read: slice
    """What the residual product reads there."""
    target: slice
    """Where its output comes: in the same buffer, or first in a new one."""
    new_width: int
    """Channels of that new buffer; 0 for the same."""


class SpectralRunner:
    """Features to log-probabilities on a CPU.

    Args:
        folded: The model.
        dtype: Its arithmetic; log-softmax is float32.
        half_weights: Whether wide layers hold their transformed weights in float16; sums are float32 all the same.

    Raises:
        ValueError: `half_weights` where this processor or build of torch has no products with them.
    """

    def __init__(self, folded: FoldedJasper, *, dtype: torch.dtype, half_weights: bool = False) -> None:
        if half_weights and not (dtype == torch.float32 and has_half_products()):
            raise ValueError(
                f"half_weights goes with dtype float32 and torch's FBGEMM, got {dtype} and "
                f"{torch.backends.quantized.supported_engines}: leave it out"
            )
        self._hop = HALF_HOP if half_weights else HOP
        first, rest = folded.split_after_strides()
        self._first = DirectRunner(first, device=torch.device("cpu"), dtype=dtype)
        self._total_stride = math.prod(block.stride for block in first.blocks)
        self._dtype = dtype
        self._activate_ = folded.activate_
        convs = [conv for block in rest.blocks for conv in block.convs]
        self._reach = max((conv.reach for conv in convs if conv.dilation == 1), default=0)
        inputs = convs[0].weight.shape[1] * convs[0].groups if convs else folded.decoder.weight.shape[1]
        self._width = _chain_width(rest.blocks, 0, inputs)
        self._blocks = _planned(rest.blocks, inputs, dtype, half_weights)
        self._decoder = folded.decoder.weight[:, :, 0].to(dtype), folded.decoder.bias.to(dtype)

    def log_probs(self, features: Tensor, keep: Tensor | None) -> Tensor:
        """As `DirectRunner.log_probs`."""
        x = self._first.encode(features, keep)
        x = x.squeeze(2) if x.dim() == 4 else x
        num_rows, channels, num_frames = x.shape
        rows = Rows.of(num_rows, num_frames, reach=self._reach, dtype=self._dtype, hop=self._hop)
        padding = _padding(None if keep is None else keep[..., :: self._total_stride], rows)
        wide, last = rows.new_wide_axis(self._width, self._dtype), slice(0, channels)
        rows.inner(wide)[:, last].index_fill_(0, padding, 0)
        rows.by_row(rows.inner(wide)[:, last]).copy_(x.transpose(1, 2))
        scratch = Scratch(rows, self._dtype)
        for block in self._blocks:
            y = self._block(block, wide, rows, padding, scratch)
            if block.new_width:
                wide = rows.new_wide_axis(block.new_width, self._dtype)
            last = block.target
            rows.inner(wide)[:, last].copy_(y)
        weight, bias = self._decoder
        scores = functional.linear(rows.by_row(rows.inner(wide)[:, last]), weight, bias)
        return functional.log_softmax(scores, dim=2, dtype=torch.float32)

    def _block(self, block: _Block, wide: Tensor, rows: Rows, padding: Tensor, scratch: Scratch) -> Tensor:
        x = wide[:, block.source]
        for step in block.steps:
            is_last = step is block.steps[-1]
            start = step.bias
            if is_last and block.residual is not None:
                start = torch.addmm(step.bias, rows.inner(wide)[:, block.read], block.residual)
            axis = scratch.other_than(x, len(step.bias))
            y = rows.inner(axis)
            step.convolve(x, start, scratch, y)
            if step.activates or is_last:
                self._activate_(y)
                y.index_fill_(0, padding, 0)
            x = axis
        return rows.inner(x)


def _padding(keep: Tensor | None, rows: Rows) -> Tensor:
    """Positions among the frames of all rows that must be zero wherever a kernel reads."""
    is_kept = torch.zeros(rows.length, dtype=torch.bool)
    rows.by_row(is_kept).copy_(torch.tensor(True) if keep is None else keep[:, 0] > 0)
    return is_kept.logical_not_().nonzero().squeeze(1)


def _planned(
    blocks: tuple[FoldedBlock, ...], inputs: int, dtype: torch.dtype, half_weights: bool
) -> tuple[_Block, ...]:
    planned = []
    begin, end = 0, inputs  # of the newest output in the wide buffer
    for number, block in enumerate(blocks):
        source, read = slice(begin, end), slice(0 if block.reads == "dense" else begin, end)
        begin, end = (end, end + block.filters) if block.reads == "dense" else (0, block.filters)
        steps = tuple(
            _Step(convolution(conv, dtype, half_weights), conv.bias.to(dtype), conv.activates) for conv in block.convs
        )
        residual = None if block.residual is None else block.residual.T.to(dtype).contiguous()
        new_width = 0 if block.reads == "dense" else _chain_width(blocks, number + 1, block.filters)
        planned.append(_Block(steps, residual, source, read, slice(begin, end), new_width))
    return tuple(planned)


def _chain_width(blocks: tuple[FoldedBlock, ...], first: int, inputs: int) -> int:
    """Channels of a buffer for an output and those of the dense blocks from `first` on that follow it."""
    dense = itertools.takewhile(lambda block: block.reads == "dense", blocks[first:])
    return inputs + sum(block.filters for block in dense)


def gains_from_frequencies(folded: FoldedJasper, dtype: torch.dtype) -> bool:
    """Whether any layer of a model is faster in the frequency domain."""
    return any(in_frequencies(conv, dtype) for block in folded.blocks for conv in block.convs)
