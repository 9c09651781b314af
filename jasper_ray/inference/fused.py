"""A folded model on an NVIDIA GPU: a product of torch's and one kernel of ours for all that follows it.

Between layers there are rows `(R * T, C)`, which a convolution reads as a picture of one row, channels last, and a
matrix product as they are. What the residual products of a dense chain read lies in one wide buffer, column by column
(as in `spectral.py`): an epilogue writes its block's output there too, so that nothing is concatenated.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.inference.epilogue import epilogue_, log_softmax, rows_of_features
from jasper_ray.inference.folded import FoldedBlock, FoldedConv, FoldedJasper

LABELS_ALIGNED_TO = 8
"""The decoder gets rows of zeros up to a multiple: 29 columns of halves are no width for tensor cores."""


@dataclass(frozen=True)
class _Step:
    weight: Tensor
    """Channels last; `(C', C)` where a frame sees itself only."""
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int], int] | None
    """Stride, padding, dilation, groups; none for a matrix product."""
    bias: Tensor | None
    """float32 for an epilogue, else the convolution's own, if it is not zero."""
    ends: bool
    """Whether an epilogue follows."""


@dataclass(frozen=True)
class _Place:
    columns: slice
    """Where an output goes in the wide buffer."""
    new_width: int
    """Of the buffer that begins with it; 0 for the one there is."""


@dataclass(frozen=True)
class _Block:
    steps: tuple[_Step, ...]
    stride: int
    residual: Tensor | None
    """`(channels that it reads, C')`."""
    read: int
    """How many columns of the wide buffer that product reads; 0 for the block's input instead."""
    place: _Place | None


class FusedRunner:
    """Features to log-probabilities where the non-linearity is no more than two bounds.

    Args:
        folded: The model.
        device: Where it runs: a GPU for which Triton compiles (a CPU under Triton's interpreter).
        dtype: Its arithmetic; log-softmax is float32.
    """

    def __init__(self, folded: FoldedJasper, *, device: torch.device, dtype: torch.dtype) -> None:
        assert folded.bounds is not None
        self._device, self._dtype, self._bounds = device, dtype, folded.bounds
        first = folded.blocks[0].convs[0]
        self._features_place, *places = _places(folded.blocks, first.weight.shape[1] * first.groups)
        reads = _columns_read(folded.blocks)
        self._blocks = [self._placed(*one) for one in zip(folded.blocks, reads, places, strict=True)]
        weight = folded.decoder.weight[:, :, 0]
        weight = functional.pad(weight, (0, 0, 0, -len(weight) % LABELS_ALIGNED_TO))
        self._decoder = weight.to(device, dtype), folded.decoder.bias.to(device)

    def log_probs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Log-probabilities of a batch.

        Args:
            features: `(R, F, T)` on the device, contiguous; behind an utterance's end there may be anything.
            lengths: `(R,)` feature frames, on the device.

        Returns:
            `(R, T', V)` float32.
        """
        rows = rows_of_features(features, lengths, dtype=self._dtype)
        wide = rows[:, :0]
        if self._features_place is not None:
            wide = rows.new_empty(len(rows), self._features_place.new_width)
            wide[:, self._features_place.columns] = rows
        frame_step = 1
        for block in self._blocks:
            frame_step *= block.stride
            rows, wide = self._block(block, rows, wide, lengths, frame_step)
        weight, bias = self._decoder
        return log_softmax(functional.linear(rows, weight), bias).view(len(lengths), -1, len(bias))

    def _block(
        self, block: _Block, rows: Tensor, wide: Tensor, lengths: Tensor, frame_step: int
    ) -> tuple[Tensor, Tensor]:
        """The block's output and the wide buffer, a new one if this output begins it."""
        x, copy = rows, None
        for step in block.steps:
            x = _convolved(step, x, len(lengths))
            if step is block.steps[-1]:
                if block.residual is not None:
                    x.addmm_(wide[:, : block.read] if block.read else rows, block.residual)
                if block.place is not None:
                    wide = x.new_empty(len(x), block.place.new_width) if block.place.new_width else wide
                    copy = wide[:, block.place.columns]
            if step.ends:
                assert step.bias is not None
                epilogue_(x, step.bias, lengths, frame_step=frame_step, bounds=self._bounds, copy=copy)
        return x, wide

    def _placed(self, block: FoldedBlock, read: int, place: _Place | None) -> _Block:
        steps = tuple(self._step(conv, conv.activates or conv is block.convs[-1]) for conv in block.convs)
        residual = None if block.residual is None else block.residual.to(self._device, self._dtype).T
        return _Block(steps, block.stride, residual, read, place)

    def _step(self, conv: FoldedConv, ends: bool) -> _Step:
        weight = conv.weight.to(self._device, self._dtype)
        bias = None
        if ends:
            bias = conv.bias.to(self._device)
        elif conv.bias.any():
            bias = conv.bias.to(self._device, self._dtype)
        if conv.kernel == conv.stride == conv.groups == 1:
            return _Step(weight[:, :, 0], None, bias, ends)
        sizes = ((1, conv.stride), (0, conv.reach), (1, conv.dilation), conv.groups)
        return _Step(weight.unsqueeze(2).contiguous(memory_format=torch.channels_last), sizes, bias, ends)


def _convolved(step: _Step, rows: Tensor, num_utterances: int) -> Tensor:
    own_bias = None if step.ends else step.bias
    if step.sizes is None:
        return functional.linear(rows, step.weight, own_bias)
    picture = rows.view(num_utterances, 1, -1, rows.shape[1]).permute(0, 3, 1, 2)
    y = functional.conv2d(picture, step.weight, own_bias, *step.sizes)
    return y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])


def _places(blocks: tuple[FoldedBlock, ...], num_mels: int) -> list[_Place | None]:
    """For the features and every block's output: where it goes in a wide buffer, if it does."""
    widths = [num_mels, *(block.filters for block in blocks)]
    places: list[_Place | None] = [None] * len(widths)
    for chain in _chains(blocks):
        ends = list(itertools.accumulate(widths[number] for number in chain))
        for number, end in zip(chain, ends, strict=True):
            columns = slice(end - widths[number], end)
            places[number] = _Place(columns, ends[-1] if number == chain[0] else 0)
    return places


def _columns_read(blocks: tuple[FoldedBlock, ...]) -> list[int]:
    """Of the wide buffer by every block's residual product."""
    chained = {number for chain in _chains(blocks) for number in chain}
    return [0 if i not in chained or b.residual is None else b.residual.shape[1] for i, b in enumerate(blocks)]


def _chains(blocks: tuple[FoldedBlock, ...]) -> Iterator[list[int]]:
    """Numbers of neighbouring dense blocks, several each.

    The input of block i is output i (the features are output 0), and a chain's last block reads all its blocks' inputs.
    """
    for is_dense, numbers in itertools.groupby(range(len(blocks)), lambda i: blocks[i].reads == "dense"):
        chain = list(numbers)
        if is_dense and len(chain) > 1:
            yield chain
