"""A folded model in bf16 on a CPU in the frequency domain: as `jasper_ray.inference.spectral`, channels first."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.inference.chain import Link, chain, chain_width
from jasper_ray.inference.channels_first_layers import Columns, Convolve, Ending, convolution
from jasper_ray.inference.direct import DirectRunner
from jasper_ray.inference.folded import FoldedJasper
from jasper_ray.inference.scratch import Scratch


class ChannelsFirstRunner:
    """Features to log-probabilities on a CPU.

    Args:
        folded: The model.
        dtype: Its arithmetic; log-softmax is float32.
    """

    def __init__(self, folded: FoldedJasper, *, dtype: torch.dtype) -> None:
        first, rest = folded.split_after_strides()
        self._first = DirectRunner(first, device=torch.device("cpu"), dtype=dtype)
        self._total_stride = math.prod(block.stride for block in first.blocks)
        self._dtype = dtype
        self._activate_, self._bounds = folded.activate_, folded.bounds
        self._reach = rest.reach
        self._width = chain_width(rest.blocks, rest.num_inputs)
        self._links = chain(rest.blocks, rest.num_inputs, dtype, lambda conv: convolution(conv, dtype))
        self._decoder = folded.decoder.weight[:, :, 0].to(dtype), folded.decoder.bias.to(dtype)

    def log_probs(self, features: Tensor, keep: Tensor | None) -> Tensor:
        """As `DirectRunner.log_probs`."""
        x = self._first.encode(features, keep)
        x = x.squeeze(2) if x.dim() == 4 else x
        num_rows, channels, num_frames = x.shape
        columns = Columns.of(num_rows, num_frames, reach=self._reach)
        kept = _kept(None if keep is None else keep[..., :: self._total_stride], columns)
        wide = columns.new_axis(self._width, self._dtype)
        last = wide[:channels]
        columns.by_row(last).copy_(x.transpose(0, 1))
        scratch, ending = Scratch(columns, self._dtype), Ending(self._activate_, self._bounds, kept)
        for link in self._links:
            target = columns.new_axis(link.new_width, self._dtype) if link.new_width else wide
            last = target[link.target]
            self._block(link, wide, last, ending, scratch)
            wide = target
        weight, bias = self._decoder
        scores = torch.addmm(bias[:, None], weight, last)
        return functional.log_softmax(columns.by_row(scores).permute(1, 2, 0).contiguous(), dim=2, dtype=torch.float32)

    def _block(
        self, link: Link[Convolve], wide: Tensor, out: Tensor, ending: Ending, scratch: Scratch[Columns]
    ) -> None:
        x = wide[link.source]
        *inner, last = link.steps
        for step in inner:
            y = scratch.other_than(x, step.outputs)
            step.convolve(x, y, scratch, adds=False, ending=ending if step.activates else None)
            x = y
        if link.residual is not None:
            torch.mm(link.residual, wide[link.read], out=out)
        last.convolve(x, out, scratch, adds=link.residual is not None, ending=ending)


def _kept(keep: Tensor | None, columns: Columns) -> Tensor:
    """As an `Ending` has it, of `(B, 1, T)` 1 on frames of utterances."""
    kept = torch.zeros(1, columns.length, dtype=torch.int16)
    columns.by_row(kept)[0].copy_(torch.tensor(-1) if keep is None else -(keep[:, 0] > 0).to(torch.int16))
    return kept[0]
