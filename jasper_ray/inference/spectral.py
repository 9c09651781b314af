"""A folded model on a CPU in the frequency domain: activations stay on one time axis of tiles from layer to layer.

Rows of a batch lie one behind the other with zeros between them, so that a convolution of stride 1 reads overlapping
tiles in place and writes the next layer's axis: nothing is laid out anew, as training does
(`jasper_ray.model.fourier`, whose matrices these are). Weights are transformed once. All outputs of a dense chain lie
in one wide buffer, so that a block's residual product reads them without copying.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.inference.chain import Link, chain, chain_width
from jasper_ray.inference.direct import DirectRunner
from jasper_ray.inference.folded import FoldedJasper
from jasper_ray.inference.scratch import Scratch
from jasper_ray.inference.spectral_layers import (
    HALF_HOP,
    HOP,
    Convolve,
    Rows,
    convolution,
    has_half_products,
    in_frequencies,
)


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
        self._reach = rest.reach
        self._width = chain_width(rest.blocks, rest.num_inputs)
        self._links = chain(rest.blocks, rest.num_inputs, dtype, lambda conv: convolution(conv, dtype, half_weights))
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
        for link in self._links:
            y = self._block(link, wide, rows, padding, scratch)
            if link.new_width:
                wide = rows.new_wide_axis(link.new_width, self._dtype)
            last = link.target
            rows.inner(wide)[:, last].copy_(y)
        weight, bias = self._decoder
        scores = functional.linear(rows.by_row(rows.inner(wide)[:, last]), weight, bias)
        return functional.log_softmax(scores, dim=2, dtype=torch.float32)

    def _block(self, link: Link[Convolve], wide: Tensor, rows: Rows, padding: Tensor, scratch: Scratch[Rows]) -> Tensor:
        x = wide[:, link.source]
        for step in link.steps:
            is_last = step is link.steps[-1]
            start = step.bias
            if is_last and link.residual is not None:
                start = torch.addmm(step.bias, rows.inner(wide)[:, link.read], link.residual.T)
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


def gains_from_frequencies(folded: FoldedJasper, dtype: torch.dtype) -> bool:
    """Whether any layer of a model is faster in the frequency domain."""
    return any(in_frequencies(conv, dtype) for block in folded.blocks for conv in block.convs)
