"""Layers of a folded model in the frequency domain, on an axis of tiles that all of them read and write."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from jasper_ray.inference.folded import FoldedConv
from jasper_ray.inference.scratch import Scratch
from jasper_ray.model.choice import LayerCase, choose
from jasper_ray.model.convolution import convolved_picture
from jasper_ray.model.fourier import transforms

HOP = 24
"""Output frames of a tile. The fastest for one utterance, within a tenth of the fastest for eight, and the smallest
spectra: 3 to 5 times the weights (one thread of a 2-vCPU AMD EPYC, bf16, 350 frames, 2026-11-24)."""

HALF_HOP = 48
"""The same where weights are held in half precision: half as much to read for a tile, so tiles may be fewer."""
HALF_CHANNELS = 512
"""Layers with so many channels hold their weights in half precision, if the model does. With 512, 640 and 768 channels
one utterance of 7 s then takes 0.6 of the time, and eight 0.7 to 0.9; with 384 nothing is gained (one thread of a
2-vCPU AMD EPYC with AVX2 only, 2026-11-26)."""

ROWS_AT_ONCE = 8
"""Of weights' spectra that are computed together: more are no faster, and are in memory in float32."""


class Rows(NamedTuple):
    """How the rows of a batch lie on the axis."""

    num_rows: int
    frames: int
    """Of a row, without the zeros at its end."""
    pitch: int
    """From row to row."""
    lead: int
    """Zeros before the first row and behind the last tile."""
    length: int
    """From the first row to the end of the last tile."""

    @classmethod
    def of(cls, num_rows: int, frames: int, *, reach: int, dtype: torch.dtype, hop: int = HOP) -> Self:
        """Rows with as many zeros between them as a kernel sees to a side.

        Where a row begins within a tile changes its rounding. In float32 that is nothing; in half precision every row
        begins with a tile, so that an utterance is rounded nearly alike in any company.

        Args:
            num_rows: Utterances.
            frames: Of each.
            reach: Frames that the widest kernel sees to a side.
            dtype: Of what is computed.
            hop: Of the largest tiles.
        """
        pitch = frames + reach
        pitch = pitch if dtype == torch.float32 else -(-pitch // hop) * hop
        length = -(-((num_rows - 1) * pitch + frames) // hop) * hop
        return cls(num_rows, frames, pitch, reach, length)

    def num_tiles(self, hop: int) -> int:
        """As many as hold all rows."""
        return -(-((self.num_rows - 1) * self.pitch + self.frames) // hop)

    def new_axis(self, channels: int, dtype: torch.dtype) -> Tensor:
        """`(lead + length + lead, channels)`, zeros at both ends."""
        axis = torch.empty(2 * self.lead + self.length, channels, dtype=dtype)
        axis[: self.lead].zero_()
        axis[axis.shape[0] - self.lead :].zero_()
        return axis

    def new_wide_axis(self, channels: int, dtype: torch.dtype) -> Tensor:
        """The same for products that read a part of the channels: zeros all over.

        By AMX oneDNN reads on behind a part that is no multiple of 32 wide, and multiplies that by zeros: what is not
        finite there would be heard (torch 2.13, 2026-11).
        """
        return torch.zeros(2 * self.lead + self.length, channels, dtype=dtype)

    def inner(self, axis: Tensor) -> Tensor:
        """The tiles: `(length, channels)`."""
        return axis[self.lead : self.lead + self.length]

    def by_row(self, inner: Tensor) -> Tensor:
        """The frames of rows among those of all tiles: `(num_rows, frames, ...)`."""
        first, *others = inner.stride()
        shape = (self.num_rows, self.frames, *inner.shape[1:])
        return inner.as_strided(shape, (self.pitch * first, first, *others), inner.storage_offset())


Convolve = Callable[[Tensor, Tensor, Scratch[Rows], Tensor], None]
"""Reads an axis and fills `(length, C')`, beginning its sums with such a tensor, or `(C')` in all frames."""


def in_frequencies(conv: FoldedConv, dtype: torch.dtype) -> bool:
    """Whether a layer is faster in the frequency domain."""
    case = LayerCase(
        channels=min(conv.weight.shape[:2]),
        kernel=conv.kernel,
        frames=None,
        device="cpu",
        dtype=dtype,
        has_frequency_method=conv.groups == 1 and conv.stride == 1,
    )
    return choose(case) == "frequency"


def has_half_products() -> bool:
    """Whether float32 can be multiplied by weights in float16 here: FBGEMM, x86 with AVX2."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def convolution(conv: FoldedConv, dtype: torch.dtype, half_weights: bool) -> Convolve:
    """A layer by the way that is fastest."""
    if conv.kernel == 1 and conv.groups == 1:
        return _Pointwise(conv, dtype)
    if not in_frequencies(conv, dtype):
        return DirectSum(conv, dtype)
    if half_weights and min(conv.weight.shape[:2]) >= HALF_CHANNELS:
        tiles = InTiles(conv.weight, HALF_HOP, dtype, HalfFactors)
    else:
        tiles = InTiles(conv.weight, HOP, dtype, Factors)
    return tiles if conv.dilation == 1 else _Dilated(tiles, conv.dilation, conv.weight.shape[0])


class _Pointwise:
    def __init__(self, conv: FoldedConv, dtype: torch.dtype) -> None:
        self._weight = conv.weight[:, :, 0].T.to(dtype).contiguous()

    def __call__(self, x: Tensor, start: Tensor, scratch: Scratch[Rows], out: Tensor) -> None:
        torch.addmm(start, scratch.rows.inner(x), self._weight, out=out)


class Factors:
    """The products of a layer, one for each row of spectra.

    Args:
        factors: `(rows, C, C')`, some rows at a time.
        dtype: In which they are held.
    """

    def __init__(self, factors: Iterable[Tensor], dtype: torch.dtype) -> None:
        self._factors = torch.cat([some.to(dtype) for some in factors])

    @staticmethod
    def matrices(into: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Of the transforms before and behind."""
        return into, back

    def __call__(self, into: Tensor, frames: Tensor, scratch: Scratch[Rows]) -> Tensor:
        """`(tiles, rows, C')` products, with the matrix of `(tiles, rows, tile)` and of frames `(tiles, tile, C)`."""
        (tiles, rows, _), inputs = into.shape, frames.shape[2]
        by_row = scratch.buffer("spectra by row", rows, tiles, inputs)
        if frames.dtype == torch.float32:
            torch.bmm(into, frames, out=by_row.transpose(0, 1))
        else:  # with oneDNN, which multiplies halves, not measured otherwise
            by_row.copy_(torch.bmm(into, frames, out=_spectra(into, frames, scratch)).transpose(0, 1))
        products = scratch.buffer("products", rows, tiles, self._factors.shape[2])
        return torch.bmm(by_row, self._factors, out=products).transpose(0, 1)


class HalfFactors:
    """The same, of float32 with weights in float16, laid out for FBGEMM.

    It takes one row at a time, so the sums that make three products of a complex one are made here, where the row is
    copied anyway: the transforms have two rows for each complex frequency instead of three.
    """

    def __init__(self, factors: Iterable[Tensor], dtype: torch.dtype) -> None:
        pack = torch.ops.quantized.linear_prepack_fp16
        self._packed = []
        for some in factors:
            self._packed += [pack(one.T.contiguous(), None) for one in some]
            self._outputs = some.shape[2]

    @staticmethod
    def matrices(into: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """See `transforms`: of three rows of `into` the first is the sum of the others, and likewise behind."""
        num_complex = (into.shape[1] - 1) // 2
        (first, triples, last), (first_, triples_, last_) = (
            torch.split(one, [1, 3 * num_complex, len(one) - 1 - 3 * num_complex]) for one in (into, back.T)
        )
        real, imaginary = triples[1::3], triples[2::3]
        pairs_ = torch.stack([-triples_[2::3], triples_[1::3]], dim=1)
        into = torch.cat([first, torch.stack([real, imaginary], dim=1).flatten(0, 1), last])
        return into, torch.cat([first_, pairs_.flatten(0, 1), last_]).T.contiguous()

    def __call__(self, into: Tensor, frames: Tensor, scratch: Scratch[Rows]) -> Tensor:
        """As `Factors`."""
        spectra = torch.bmm(into, frames, out=_spectra(into, frames, scratch))
        multiply = torch.ops.quantized.linear_dynamic_fp16
        products = scratch.buffer("products", *spectra.shape[:2], self._outputs)
        rows, results, packed = spectra.unbind(1), products.unbind(1), iter(self._packed)
        results[0].copy_(multiply(rows[0], next(packed)))
        for at in range(1, len(rows) - 1, 2):
            real, imaginary = rows[at], rows[at + 1]
            both = multiply(real + imaginary, next(packed))
            torch.add(both, multiply(real, next(packed)), out=results[at + 1])
            torch.sub(both, multiply(imaginary, next(packed)), out=results[at])
        for weight in packed:  # the highest frequency, if the tile's frames are even
            results[-1].copy_(multiply(rows[-1], weight))
        return products


def _spectra(into: Tensor, frames: Tensor, scratch: Scratch[Rows]) -> Tensor:
    """Room for the products of a matrix with each tile."""
    return scratch.buffer("spectra", len(into), into.shape[1], frames.shape[2])


class InTiles:
    """A convolution without a dilation.

    Args:
        weight: `(C', C, k)`.
        hop: Output frames of a tile.
        dtype: Of what is computed.
        hold: How the transformed weights are held.
    """

    def __init__(self, weight: Tensor, hop: int, dtype: torch.dtype, hold: type[Factors] | type[HalfFactors]) -> None:
        outputs, inputs, kernel = weight.shape
        self.hop, self.reach, self._tile = hop, kernel // 2, hop + kernel - 1
        # A power of two near the largest weight: float16 has few digits for small numbers.
        scale = 2.0 ** math.frexp(float(weight.abs().max()))[1]
        by_tap = weight.permute(2, 1, 0).reshape(kernel, inputs * outputs) / scale
        into, back, _ = transforms(kernel, hop, dtype, torch.device("cpu"))
        self._into, self._back = hold.matrices(into, back * scale)
        # Transformed in float32: rounded once.
        taps = torch.split(transforms(kernel, hop, torch.float32, torch.device("cpu")).taps, ROWS_AT_ONCE)
        self._factors = hold(((rows @ by_tap).view(-1, inputs, outputs) for rows in taps), dtype)

    def __call__(self, x: Tensor, start: Tensor, scratch: Scratch[Rows], out: Tensor) -> None:
        """See `Convolve`."""
        rows = scratch.rows
        num_tiles = rows.num_tiles(self.hop)
        into, back = (matrix.expand(num_tiles, -1, -1) for matrix in (self._into, self._back))
        pitch = x.stride(0)
        first = x.storage_offset() + (rows.lead - self.reach) * pitch
        tiles = x.as_strided((num_tiles, self._tile, x.shape[1]), (self.hop * pitch, pitch, 1), first)
        products = self._factors(into, tiles, scratch)
        shape, end = (num_tiles, self.hop, out.shape[1]), num_tiles * self.hop
        start = start.expand(shape) if start.dim() == 1 else start[:end].view(shape)
        torch.baddbmm(start, back, products, out=out[:end].view(shape))


class _Dilated:
    """Frames that a dilated kernel sees together are laid side by side first, as rows of their own."""

    def __init__(self, tiles: InTiles, dilation: int, outputs: int) -> None:
        self._tiles, self._dilation, self._outputs = tiles, dilation, outputs

    def __call__(self, x: Tensor, start: Tensor, scratch: Scratch[Rows], out: Tensor) -> None:
        rows, frames = scratch.rows, -(-scratch.rows.frames // self._dilation)
        num_rows, tiles = rows.num_rows * self._dilation, self._tiles
        shape = (rows.num_rows, self._dilation, frames)
        apart = Scratch(Rows.of(num_rows, frames, reach=tiles.reach, dtype=x.dtype, hop=tiles.hop), x.dtype)
        given = apart.rows.new_axis(x.shape[1], x.dtype).zero_()
        by_phase = apart.rows.by_row(apart.rows.inner(given)).view(*shape, -1)
        taken, done = rows.by_row(rows.inner(x)), rows.by_row(out)
        for phase in range(self._dilation):
            part = taken[:, phase :: self._dilation]
            by_phase[:, phase, : part.shape[1]].copy_(part)
        y = apart.buffer("dilated", apart.rows.length, self._outputs)
        tiles(given, y.new_zeros(self._outputs), apart, y)
        by_phase = apart.rows.by_row(y).view(*shape, -1)
        start = start if start.dim() == 1 else rows.by_row(start)
        for phase in range(self._dilation):
            part = done[:, phase :: self._dilation]
            added = start if start.dim() == 1 else start[:, phase :: self._dilation]
            torch.add(by_phase[:, phase, : part.shape[1]], added, out=part)


class DirectSum:
    """A convolution as torch computes it, channels last."""

    def __init__(self, conv: FoldedConv, dtype: torch.dtype) -> None:
        self._conv = conv
        self._weight = conv.weight.to(dtype).unsqueeze(2).contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor, start: Tensor, scratch: Scratch[Rows], out: Tensor) -> None:
        """See `Convolve`."""
        rows = scratch.rows
        picture = rows.by_row(rows.inner(x)).unsqueeze(1).permute(0, 3, 1, 2)
        conv = self._conv
        picture = picture.contiguous(memory_format=torch.channels_last)
        y = convolved_picture(picture, self._weight, None, (1, 1), (0, conv.reach), (1, conv.dilation), conv.groups)
        y = y.permute(0, 2, 3, 1).squeeze(1)
        torch.add(y, start if start.dim() == 1 else rows.by_row(start), out=rows.by_row(out))
