"""Layers of a folded model in bf16 in the frequency domain, each channel's frames of all rows one behind the other.

As in `jasper_ray.inference.spectral_layers`, with the axes of every tensor turned around: spectra come out of one large
product as the products between channels read them, and weights are those products' first factors, which oneDNN reads
where they lie while it lays out second factors anew. In bf16 without AMX a layer takes 0.92 to 0.94 of the time (768,
512 and 256 channels, eight utterances of 7 s), in float32 by MKL it would take 1.2. With AMX our own kernels do the
same (`jasper_ray.inference.amx`) in 0.5 to 0.7 of torch's time (one thread of a Xeon, torch 2.13, 2026-11-27).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from jasper_ray.inference import amx
from jasper_ray.inference.folded import FoldedConv
from jasper_ray.inference.scratch import Scratch
from jasper_ray.inference.spectral_layers import HOP, ROWS_AT_ONCE, in_frequencies
from jasper_ray.model.convolution import convolved_picture
from jasper_ray.model.fourier import transforms

WHOLE_TILES = 32
"""A channel has a multiple of it, or half of it: 128 tiles take a fifth less time by AMX than 120 (as above)."""


class Columns(NamedTuple):
    """How the rows of a batch lie in every channel."""

    num_rows: int
    frames: int
    """Of a row, without the zeros behind it."""
    pitch: int
    """From row to row: whole tiles."""
    reach: int
    """Zeros behind a row at least, which are also those before the next one, or before the next channel's first."""
    num_tiles: int
    """Of a channel."""

    @classmethod
    def of(cls, num_rows: int, frames: int, *, reach: int) -> Self:
        """Rows that each begin with a tile, so that an utterance is rounded nearly alike in any company.

        Args:
            num_rows: Utterances.
            frames: Of each.
            reach: Frames that the widest kernel sees to a side.
        """
        tiles_of_row = -(-(frames + reach) // HOP)
        num_tiles = num_rows * tiles_of_row
        whole = WHOLE_TILES if num_tiles > WHOLE_TILES else WHOLE_TILES // 2
        num_tiles = -(-num_tiles // whole) * whole
        return cls(num_rows, frames, tiles_of_row * HOP, reach, num_tiles)

    @property
    def length(self) -> int:
        """Frames of a channel."""
        return self.num_tiles * HOP

    def new_axis(self, channels: int, dtype: torch.dtype) -> Tensor:
        """`(channels, length)`, zeros, with room for a kernel's reach before the first channel and behind the last."""
        frames = torch.zeros(self.reach + channels * self.length + self.reach, dtype=dtype)
        return frames[self.reach : len(frames) - self.reach].view(channels, self.length)

    def by_row(self, x: Tensor) -> Tensor:
        """The frames of rows: `(channels, num_rows, frames)`."""
        return x.as_strided((len(x), self.num_rows, self.frames), (self.length, self.pitch, 1), x.storage_offset())

    def all_kept(self) -> Tensor:
        """What an `Ending` keeps, where nothing is to become zero."""
        return torch.full((self.length,), -1, dtype=torch.int16)

    def tiles(self, x: Tensor, tile: int) -> Tensor:
        """Overlapping tiles of `(channels, length)`: `(channels * num_tiles, tile)`."""
        first = x.storage_offset() - (tile - HOP) // 2
        return x.as_strided((len(x) * self.num_tiles, tile), (HOP, 1), first)


@dataclass(frozen=True)
class Ending:
    """What follows a convolution."""

    activate_: Callable[[Tensor], Tensor]
    """In place."""
    bounds: tuple[float, float] | None
    """Of the non-linearity, if it is nothing else."""
    keep: Tensor
    """`(length)` int16: -1 for frames of rows, 0 for those that must be zero wherever a kernel reads."""

    @functools.cached_property
    def padding(self) -> Tensor:
        """Positions of the latter."""
        return (self.keep == 0).nonzero().squeeze(1)

    def __call__(self, x: Tensor) -> None:
        """On `(channels, length)`, in place."""
        self.activate_(x).index_fill_(1, self.padding, 0)


class Convolve(Protocol):
    """A layer."""

    def __call__(self, x: Tensor, out: Tensor, scratch: Scratch[Columns], *, adds: bool, ending: Ending | None) -> None:
        """Read `(C, length)` and fill `(C', length)`, or add to what is there, and end that."""
        ...


def convolution(conv: FoldedConv, dtype: torch.dtype) -> Convolve:
    """A layer by the way that is fastest."""
    if conv.kernel == 1 and conv.groups == 1:
        return _Pointwise(conv, dtype)
    if not in_frequencies(conv, dtype):
        return _DirectSum(conv, dtype)
    return _in_tiles(conv, dtype) if conv.dilation == 1 else _Dilated(conv, dtype)


def _in_tiles(conv: FoldedConv, dtype: torch.dtype) -> Convolve:
    outputs, inputs, kernel = conv.weight.shape
    by_amx = amx.suits(inputs=inputs, outputs=outputs, tile=HOP + kernel - 1, dtype=dtype)
    return _ByAmx(conv, dtype) if by_amx else _InTiles(conv, dtype)


def _factors(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`(rows, C', C)`; transformed in float32 and rounded once."""
    outputs, inputs, kernel = weight.shape
    taps = torch.split(transforms(kernel, HOP, torch.float32, torch.device("cpu")).taps, ROWS_AT_ONCE)
    by_tap = weight.permute(2, 0, 1).reshape(kernel, outputs * inputs)
    return torch.cat([(rows @ by_tap).view(-1, outputs, inputs).to(dtype) for rows in taps])


class _Pointwise:
    def __init__(self, conv: FoldedConv, dtype: torch.dtype) -> None:
        self._weight, self._bias = conv.weight[:, :, 0].to(dtype).contiguous(), conv.bias.to(dtype)[:, None]

    def __call__(self, x: Tensor, out: Tensor, scratch: Scratch[Columns], *, adds: bool, ending: Ending | None) -> None:
        """See `Convolve`."""
        torch.addmm(out.add_(self._bias) if adds else self._bias, self._weight, x, out=out)
        _end(out, ending)


class _InTiles:
    """A convolution without a dilation."""

    def __init__(self, conv: FoldedConv, dtype: torch.dtype) -> None:
        self._tile = HOP + conv.kernel - 1
        self._into, back, _ = transforms(conv.kernel, HOP, dtype, torch.device("cpu"))
        self._back = back.T.contiguous()
        self._factors = _factors(conv.weight, dtype)
        # The same in all frames: all of it is in the lowest frequency.
        self._bias = (conv.bias / back[0, 0].float()).to(dtype)[:, None]

    def __call__(self, x: Tensor, out: Tensor, scratch: Scratch[Columns], *, adds: bool, ending: Ending | None) -> None:
        """See `Convolve`."""
        num_tiles = scratch.rows.num_tiles
        rows, outputs, inputs = self._factors.shape
        tiles = scratch.buffer("tiles", inputs * num_tiles, self._tile)
        tiles.copy_(scratch.rows.tiles(x, self._tile))
        spectra = torch.mm(self._into, tiles.T, out=scratch.buffer("spectra", rows, inputs * num_tiles))
        products = scratch.buffer("products", rows, outputs, num_tiles)
        torch.bmm(self._factors, spectra.view(rows, inputs, num_tiles), out=products)
        products[0] += self._bias
        by_tile, products = out.view(outputs * num_tiles, HOP), products.view(rows, -1).T
        if adds:
            by_tile.addmm_(products, self._back)
        else:
            torch.mm(products, self._back, out=by_tile)
        _end(out, ending)


class _ByAmx:
    """The same by our own kernels."""

    def __init__(self, conv: FoldedConv, dtype: torch.dtype) -> None:
        into, back, _ = transforms(conv.kernel, HOP, dtype, torch.device("cpu"))
        self._layer = amx.AmxLayer(into, _factors(conv.weight, dtype), back, conv.bias)

    def __call__(self, x: Tensor, out: Tensor, scratch: Scratch[Columns], *, adds: bool, ending: Ending | None) -> None:
        """See `Convolve`."""
        spectra, products = self._layer.room(scratch.rows.num_tiles)
        rooms = {"spectra": scratch.buffer("spectra", spectra), "products": scratch.buffer("products", products)}
        if ending is not None and ending.bounds is not None:
            self._layer(x, out, ending.keep, **rooms, bounds=ending.bounds, adds=adds)
        else:
            self._layer(x, out, scratch.rows.all_kept(), **rooms, bounds=(-math.inf, math.inf), adds=adds)
            _end(out, ending)


class _Dilated:
    """Frames that a dilated kernel sees together are laid side by side first, as rows of their own."""

    def __init__(self, conv: FoldedConv, dtype: torch.dtype) -> None:
        self._tiles, self._dilation, self._outputs = _in_tiles(conv, dtype), conv.dilation, len(conv.weight)
        self._reach = conv.kernel // 2

    def __call__(self, x: Tensor, out: Tensor, scratch: Scratch[Columns], *, adds: bool, ending: Ending | None) -> None:
        """See `Convolve`."""
        columns, frames = scratch.rows, -(-scratch.rows.frames // self._dilation)
        apart = Columns.of(columns.num_rows * self._dilation, frames, reach=self._reach)
        given, y = (apart.new_axis(channels, x.dtype) for channels in (len(x), self._outputs))
        taken, given_ = columns.by_row(x), self._by_phase(apart, given)
        for phase in range(self._dilation):
            part = taken[:, :, phase :: self._dilation]
            given_[:, :, phase, : part.shape[2]].copy_(part)
        self._tiles(given, y, Scratch(apart, x.dtype), adds=False, ending=None)
        done, y_ = columns.by_row(out), self._by_phase(apart, y)
        for phase in range(self._dilation):
            part = done[:, :, phase :: self._dilation]
            _put(y_[:, :, phase, : part.shape[2]], part, adds)
        _end(out, ending)

    def _by_phase(self, apart: Columns, x: Tensor) -> Tensor:
        return apart.by_row(x).view(len(x), -1, self._dilation, apart.frames)


class _DirectSum:
    """A convolution as torch computes it, channels last."""

    def __init__(self, conv: FoldedConv, dtype: torch.dtype) -> None:
        self._weight = conv.weight.to(dtype).unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self._bias = conv.bias.to(dtype)
        self._sizes = ((1, 1), (0, conv.reach), (1, conv.dilation), conv.groups)

    def __call__(self, x: Tensor, out: Tensor, scratch: Scratch[Columns], *, adds: bool, ending: Ending | None) -> None:
        """See `Convolve`."""
        by_row = scratch.rows.by_row
        picture = by_row(x).transpose(0, 1).unsqueeze(2)
        picture = picture.contiguous(memory_format=torch.channels_last)
        y = convolved_picture(picture, self._weight, self._bias, *self._sizes)
        _put(y.squeeze(2).transpose(0, 1), by_row(out), adds)
        _end(out, ending)


def _put(y: Tensor, out: Tensor, adds: bool) -> None:
    if adds:
        out += y
    else:
        out.copy_(y)


def _end(out: Tensor, ending: Ending | None) -> None:
    if ending is not None:
        ending(out)
