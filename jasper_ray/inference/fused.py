"""A folded model on an NVIDIA GPU: a convolution and one kernel of ours for all that follows it.

Between layers there are rows `(R * T, C)`, which a convolution reads as a picture of one row, channels last, and a
matrix product as they are. What the residual products of a dense chain read lies in one wide buffer, column by column
(as in `spectral.py`): an epilogue writes its block's output there too, so that nothing is concatenated.

A convolution is cuDNN's, or one of ours that suits few frames (`split.py`), or many (`jasper_ray.model.fourier`): for a
size of batches that is asked for, each is tried on each kind of layer, and the quickest taken.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.inference.epilogue import epilogue_, log_softmax, rows_of_features
from jasper_ray.inference.folded import FoldedBlock, FoldedConv, FoldedJasper
from jasper_ray.inference.split import DTYPES, Split, SplitShape, can_split, split_conv, splits
from jasper_ray.inference.trials import Trials
from jasper_ray.model.convolution import gpu_tile
from jasper_ray.model.fourier import Tiling, fourier_conv, weight_factors

log = logging.getLogger(__name__)

Way = Split | Literal["cudnn", "frequency"]
MAX_ROWS_TO_SPLIT = 4096
MIN_ROWS_FOR_FREQUENCIES = 1024
"""Frames of a batch (H200, 2026-11-26): cuDNN keeps a GPU busy from some thousands on, spectra gain from two."""
MAX_SHARE_OF_SPECTRA = 1 / 8
"""Of the memory that is free before, for one kind of layer: transformed weights take five times what weights take."""
TRIED_BYTES = 128 * 2**20
"""Of weights, where there are as many: more than a GPU's cache holds."""
LABELS_ALIGNED_TO = 8
"""The decoder gets rows of zeros up to a multiple: 29 columns of halves are no width for tensor cores."""


@dataclass(frozen=True)
class _Step:
    number: int
    weight: Tensor
    """Channels last; `(C', C)` where a frame sees itself only."""
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int], int] | None
    """Stride, padding, dilation, groups; none for a matrix product."""
    bias: Tensor | None
    """float32 for an epilogue, else the convolution's own, if it is not zero."""
    ends: bool
    """Whether an epilogue follows."""
    shape: SplitShape | None
    """Of a convolution of halves that has several ways."""

    @property
    def by_taps(self) -> Tensor:
        """`(C', k, C)`, the same memory."""
        return self.weight.permute(0, 2, 3, 1).squeeze(1)


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
        self._num_steps = 0
        self._blocks = [self._placed(*one) for one in zip(folded.blocks, reads, places, strict=True)]
        self.ways: dict[tuple[int, int], dict[int, Way]] = {}
        """For batches of R rows and T feature frames, by numbers of convolutions; cuDNN's for all others."""
        self._trials = Trials()
        self._spectra: dict[int, Tensor] = {}
        self._lost: dict[SplitShape, int] = {}
        """The most frames for which spectra were tried in vain, and given up."""
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
        ways = self.ways.get((len(lengths), features.shape[2]), {})
        frame_step = 1
        for block in self._blocks:
            frame_step *= block.stride
            rows, wide = self._block(block, rows, wide, lengths, frame_step, ways)
        weight, bias = self._decoder
        return log_softmax(functional.linear(rows, weight), bias).view(len(lengths), -1, len(bias))

    def use(self, num_rows: int, num_frames: int, way_of: Callable[[SplitShape], Way]) -> None:
        """Compute batches of R rows and T feature frames in these ways, whatever is quickest."""
        steps = [step for block in self._blocks for step in block.steps if step.shape is not None]
        ways = {step.number: way_of(step.shape) for step in steps if step.shape is not None}
        self._transform([step for step in steps if ways[step.number] == "frequency"])
        self.ways[num_rows, num_frames] = ways

    def choose_ways(self, num_rows: int, num_frames: int) -> None:
        """Try the ways of every kind of layer on the current stream, for batches of R rows and T feature frames.

        Largest batches first, where there is a choice: what is in vain for them is not tried for smaller ones.
        """
        groups: dict[tuple[SplitShape, int, int], list[_Step]] = {}
        frames, frame_step = num_frames, 1
        for block in self._blocks:
            frames, frame_step = -(-frames // block.stride), frame_step * block.stride
            for step in block.steps:
                if step.shape is not None:
                    groups.setdefault((step.shape, frames, frame_step), []).append(step)
        chosen = self.ways[num_rows, num_frames] = {}
        for (_, frames, frame_step), steps in groups.items():
            way = self._quickest(steps, num_rows, frames, frame_step)
            chosen.update({step.number: way for step in steps})

    def _quickest(self, steps: list[_Step], num_utterances: int, num_frames: int, frame_step: int) -> Way:
        """For steps that are alike: several are run, so that weights come from memory as they will."""
        shape, num_rows = steps[0].shape, num_utterances * num_frames
        assert shape is not None
        ways: list[Way] = ["cudnn"]
        if num_rows <= MAX_ROWS_TO_SPLIT:
            processors = torch.cuda.get_device_properties(self._device).multi_processor_count
            ways += splits(shape, num_rows, processors)
        is_new = not all(step.number in self._spectra for step in steps)
        least = max(MIN_ROWS_FOR_FREQUENCIES, self._lost.get(shape, 0) + 1)
        if num_rows >= least and (not is_new or self._has_room_for_spectra(steps)):
            self._transform(steps)
            ways.append("frequency")
        rows = torch.randn(num_rows, shape.inputs, device=self._device).to(self._dtype)
        lengths = torch.full((num_utterances,), num_frames * frame_step, device=self._device)

        def run(way: Way) -> Callable[[], None]:
            def some_steps() -> None:
                for step in steps[: -(-TRIED_BYTES // steps[0].weight.nbytes)]:
                    y, parts = self._convolved(step, way, rows, num_utterances)
                    self._end(step, y, parts, lengths, frame_step)

            return some_steps

        way = self._trials.fastest({way: run(way) for way in ways})
        log.debug("%d x %d frames of %s: %s", num_utterances, num_frames, shape, way)
        if "frequency" in ways and is_new and way != "frequency":
            self._lost[shape] = num_rows
            for step in steps:
                del self._spectra[step.number]
        return way

    def _has_room_for_spectra(self, steps: list[_Step]) -> bool:
        shape = steps[0].shape
        assert shape is not None
        num_rows = 1.5 * gpu_tile(shape.kernel)
        num_bytes = len(steps) * num_rows * shape.inputs * shape.outputs * self._dtype.itemsize
        free, _ = torch.cuda.mem_get_info(self._device)
        return num_bytes <= MAX_SHARE_OF_SPECTRA * free

    def _transform(self, steps: list[_Step]) -> None:
        for step in steps:
            if step.shape is not None and step.number not in self._spectra:
                weight = step.weight.squeeze(2).float()
                factors = weight_factors(weight, _tiling(step.shape, 1), torch.float32)
                self._spectra[step.number] = factors.to(self._dtype)

    def _convolved(self, step: _Step, way: Way, rows: Tensor, num_utterances: int) -> tuple[Tensor, Tensor | None]:
        """The output; or memory for it, and the parts whose sum it is."""
        shape = step.shape
        if shape is None or way == "cudnn":
            return _convolved(step, rows, num_utterances), None
        if isinstance(way, Split):
            sizes = {"num_utterances": num_utterances, "dilation": shape.dilation}
            return rows.new_empty(len(rows), shape.outputs), split_conv(rows, step.by_taps, way, **sizes)
        x = rows.view(num_utterances, -1, shape.inputs)
        factors = self._spectra[step.number]
        y = fourier_conv(x, step.weight.squeeze(2), factors, _tiling(shape, x.shape[1]))
        return y.flatten(0, 1), None

    def _block(
        self,
        block: _Block,
        rows: Tensor,
        wide: Tensor,
        lengths: Tensor,
        frame_step: int,
        ways: dict[int, Way],
    ) -> tuple[Tensor, Tensor]:
        """The block's output and the wide buffer, a new one if this output begins it."""
        x, copy = rows, None
        for step in block.steps:
            x, parts = self._convolved(step, ways.get(step.number, "cudnn"), x, len(lengths))
            adds = step is block.steps[-1] and block.residual is not None
            if step is block.steps[-1]:
                if block.residual is not None:
                    source = wide[:, : block.read] if block.read else rows
                    x.addmm_(source, block.residual, beta=1 if parts is None else 0)
                if block.place is not None:
                    wide = x.new_empty(len(x), block.place.new_width) if block.place.new_width else wide
                    copy = wide[:, block.place.columns]
            if step.ends:
                self._end(step, x, parts, lengths, frame_step, adds=adds, copy=copy)
        return x, wide

    def _end(
        self,
        step: _Step,
        rows: Tensor,
        parts: Tensor | None,
        lengths: Tensor,
        frame_step: int,
        *,
        adds: bool = False,
        copy: Tensor | None = None,
    ) -> None:
        assert step.bias is not None
        adds = adds or parts is None
        epilogue_(
            rows, step.bias, lengths,
            frame_step=frame_step, bounds=self._bounds, copy=copy, parts=parts, adds=adds,
        )  # fmt: skip

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
        self._num_steps += 1
        if conv.kernel == conv.stride == conv.groups == 1:
            return _Step(self._num_steps, weight[:, :, 0], None, bias, ends, None)
        sizes = ((1, conv.stride), (0, conv.reach), (1, conv.dilation), conv.groups)
        shape = None
        if ends and conv.stride == conv.groups == 1 and conv.kernel % 2 and self._dtype in DTYPES:
            outputs, inputs, kernel = conv.weight.shape
            shape = SplitShape(inputs, outputs, kernel, conv.dilation)
        weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return _Step(self._num_steps, weight, sizes, bias, ends, shape if shape and can_split(shape) else None)


def _tiling(shape: SplitShape, num_frames: int) -> Tiling:
    sizes = {"kernel": shape.kernel, "dilation": shape.dilation}
    return Tiling.for_tensor_cores(num_frames, **sizes, tile=gpu_tile(shape.kernel))


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
