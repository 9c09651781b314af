"""A folded model by direct convolutions: one operator call per convolution and one per non-linearity.

Channels last (a convolution of a picture of one row) in half precision and on a GPU, where nothing else is fast; in
float32 on a CPU as torch's own one-dimensional convolution, which is 1.4 times faster there than channels last.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.inference.folded import FoldedBlock, FoldedConv, FoldedJasper
from jasper_ray.model.convolution import convolved_picture

Mask = Tensor | tuple[Tensor, Tensor]
"""Factors for the frames of rows, or their bounds: both zero on padding."""


class DirectRunner:
    """Features to log-probabilities.

    Args:
        folded: The model.
        device: Where it runs.
        dtype: Its arithmetic; log-softmax is float32.
    """

    def __init__(self, folded: FoldedJasper, *, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._is_picture = device.type != "cpu" or dtype != torch.float32
        self._activate_ = folded.activate_
        # One pass instead of two on a GPU; on a CPU bounds for each frame take five times as long as two passes.
        self._bounds = None if device.type == "cpu" else folded.bounds
        self._blocks = [(block, [self._placed(conv) for conv in block.convs]) for block in folded.blocks]
        self._residuals = [self._placed_residual(block) for block in folded.blocks]
        self._decoder = self._placed(folded.decoder)
        self._decoder_conv = folded.decoder

    def log_probs(self, features: Tensor, keep: Tensor | None) -> Tensor:
        """`(R, F, T)` features to `(R, T', V)` float32; both arguments as `encode` takes them."""
        x = self.encode(features, keep)
        x = self._convolved(self._decoder_conv, self._decoder, x)
        x = x.squeeze(2) if self._is_picture else x
        return functional.log_softmax(x.transpose(1, 2), dim=2, dtype=torch.float32)

    def encode(self, features: Tensor, keep: Tensor | None) -> Tensor:
        """The encoder's output, `(R, C, T')`, or `(R, C, 1, T')` where pictures are fast.

        Args:
            features: `(R, F, T)` on the device; zero on padding, if there is a `keep`.
            keep: `(R, 1, T)` 1 on frames of utterances and 0 on padding; none where there is no padding, or nobody is
                to mask it.
        """
        x = features.to(self._dtype)
        if self._is_picture:
            x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            keep = None if keep is None else keep.unsqueeze(2)
        keep = None if keep is None else keep.to(self._dtype)
        mask = self._mask(keep)
        history = [x]
        for (block, weights), residual in zip(self._blocks, self._residuals, strict=True):
            if keep is not None and block.stride > 1:
                keep = keep[..., :: block.stride].contiguous()
                mask = self._mask(keep)
            x = self._block(block, weights, residual, history, mask)
            history = [*history, x] if block.reads == "dense" else [x]
        return x

    def _block(
        self,
        block: FoldedBlock,
        weights: Sequence[tuple[Tensor, Tensor]],
        residual: Tensor | None,
        history: list[Tensor],
        mask: Mask | None,
    ) -> Tensor:
        x = history[-1]
        for conv, placed in zip(block.convs, weights, strict=True):
            x = self._convolved(conv, placed, x)
            if conv.activates:
                self._activated_(x, mask)
        if residual is not None:
            read = history if block.reads == "dense" else history[-1:]
            read_all = torch.cat(read, dim=1) if len(read) > 1 else read[0]
            x += functional.conv2d(read_all, residual) if self._is_picture else functional.conv1d(read_all, residual)
        return self._activated_(x, mask)

    def _mask(self, keep: Tensor | None) -> Mask | None:
        if keep is None or self._bounds is None:
            return keep
        is_padding = keep == 0
        lower, upper = (torch.full_like(keep, bound).masked_fill_(is_padding, 0) for bound in self._bounds)
        return lower, upper

    def _activated_(self, x: Tensor, mask: Mask | None) -> Tensor:
        if isinstance(mask, tuple):
            return x.clamp_(*mask)
        self._activate_(x)
        return x if mask is None else x.mul_(mask)

    def _convolved(self, conv: FoldedConv, placed: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        weight, bias = placed
        if not self._is_picture:
            return functional.conv1d(x, weight, bias, conv.stride, conv.reach, conv.dilation, conv.groups)
        return convolved_picture(x, weight, bias, (1, conv.stride), (0, conv.reach), (1, conv.dilation), conv.groups)

    def _placed(self, conv: FoldedConv) -> tuple[Tensor, Tensor]:
        return self._laid_out(conv.weight), conv.bias.to(self._device, self._dtype)

    def _placed_residual(self, block: FoldedBlock) -> Tensor | None:
        return None if block.residual is None else self._laid_out(block.residual.unsqueeze(2))

    def _laid_out(self, weight: Tensor) -> Tensor:
        weight = weight.to(self._device, self._dtype)
        return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last) if self._is_picture else weight
