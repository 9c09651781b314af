"""Convolution in the frequency domain, with gradients: three kinds of matrix product and nothing else.

Overlap-save: all rows lie on one time axis, zeros between them, cut into tiles that overlap by a kernel. A tile's
transform is a product with a constant matrix, between spectra there is one real product over channels per row, and the
way back is a constant matrix again. A complex frequency costs three real products (Gauss), so that a tile of N frames
has about 1.5 N real rows and `y = C ((A x) * (B w))` is bilinear in tiles x and kernel w. Both gradients follow by
transposing: `grad_x = A' ((C' grad_y) * (B w))` and `grad_w = B' ((C' grad_y) * (A x))`, so one transform of the
weights serves forward and backward, and one of the output's gradient serves both gradients.
"""

import math
import weakref
from functools import lru_cache
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from jasper_ray.model import fourier_triton
from jasper_ray.model.triton_trial import triton_runs

TENSOR_CORE = 8
"""Half-precision elements of 16 bytes: what tensor cores load at a time."""


class Tiling(NamedTuple):
    """How rows of frames lie on one time axis of tiles."""

    kernel: int
    dilation: int
    hop: int
    """Output frames of a tile; at least kernel - 1."""
    tile: int
    """Input frames of a tile; at least hop + kernel - 1, and what is beyond has no effect."""
    per_row: int
    """Tiles of a row; with a dilation, of each of the `dilation` rows that a row becomes."""
    align: int = 1
    """Spectra have a multiple of this many rows, and so have the matrices of taps columns."""

    @classmethod
    def of(cls, num_frames: int, *, kernel: int, dilation: int, hop: int) -> Self:
        """Whole tiles for each row, so that no tile holds two rows and none hears, or spoils, another.

        Args:
            num_frames: Of a row.
            kernel: Odd.
            dilation: Frames between two taps.
            hop: Output frames of a tile; the same for all lengths, so that they share the weights' transform.
        """
        hop = max(hop, kernel - 1)
        return cls(kernel, dilation, hop, hop + kernel - 1, _per_row(num_frames, kernel, dilation, hop))

    @classmethod
    def for_tensor_cores(cls, num_frames: int, *, kernel: int, dilation: int, tile: int) -> Self:
        """As `of`, with sizes that a GPU's matrix units take without a detour: all multiples of eight.

        Args:
            num_frames: Of a row.
            kernel: Odd.
            dilation: Frames between two taps.
            tile: Input frames of a tile, a multiple of eight that leaves a hop of kernel - 1 or more.
        """
        hop = (tile - kernel + 1) // TENSOR_CORE * TENSOR_CORE
        assert tile % TENSOR_CORE == 0 and hop >= kernel - 1, f"a tile of {tile} is too small for {kernel} taps"
        return cls(kernel, dilation, hop, tile, _per_row(num_frames, kernel, dilation, hop), TENSOR_CORE)

    @property
    def row(self) -> int:
        """Frames from the start of a row to the next one's on the time axis."""
        return self.hop * self.per_row

    def lay_out(self, x: Tensor, dtype: torch.dtype, *, lead: int, trail: int) -> Tensor:
        """`(R, T, C)` as `(lead + R * dilation * row + trail, C)`, zeros between rows and at both ends."""
        if x.stride(2) == 1 and triton_runs(x.device):
            sizes = {"dilation": self.dilation, "row": self.row, "lead": lead, "trail": trail}
            return fourier_triton.lay_out(x, dtype, **sizes)
        num_rows, num_frames, channels = x.shape
        frames = -(-num_frames // self.dilation)
        inner = num_rows * self.dilation * self.row
        axis = torch.empty(lead + inner + trail, channels, dtype=dtype, device=x.device)
        axis[:lead].zero_()
        axis[lead + inner :].zero_()
        rows = axis[lead : lead + inner].view(num_rows, self.dilation, self.row, channels)
        if self.dilation == 1:
            rows[:, :, frames:].zero_()
            rows[:, 0, :frames].copy_(x)
        else:  # frames that a dilated kernel sees together lie next to each other
            rows.zero_()
            for phase in range(self.dilation):
                part = x[:, phase :: self.dilation]
                rows[:, phase, : part.shape[1]].copy_(part)
        return axis

    def take_back(
        self,
        tiles: Tensor,
        behind: Tensor | None,
        *,
        num_rows: int,
        num_frames: int,
        lead: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """`(R, T, C)` in `dtype` from tiles `(M, hop, C)`, which are overwritten; the first row begins at `lead`.

        `behind` `(M, kernel - 1 or more, C)` is what each tile adds to the first frames of the next one, and beyond a
        kernel's reach nothing; what the last one would add belongs to no frame.
        """
        overlap = self.kernel - 1
        if triton_runs(tiles.device):
            sizes = {"num_rows": num_rows, "num_frames": num_frames, "dilation": self.dilation, "row": self.row}
            return fourier_triton.take_back(tiles, behind, **sizes, lead=lead, overlap=overlap, dtype=dtype)
        if behind is not None:
            tiles[1:, :overlap] += behind[:-1, :overlap]
        channels = tiles.shape[2]
        shape = (num_rows, self.dilation, -(-num_frames // self.dilation), channels)
        strides = (self.dilation * self.row * channels, self.row * channels, channels, 1)
        rows = tiles.as_strided(shape, strides, tiles.storage_offset() + lead * channels)
        return rows.transpose(1, 2).flatten(1, 2)[:, :num_frames].contiguous().to(dtype)


class Transforms(NamedTuple):
    """The constant matrices of a tiling."""

    into: Tensor
    """`(rows, tile)`: a tile's frames to the rows of its spectrum; A above."""
    back: Tensor
    """`(hop, rows)`: products to a tile's output frames; C above."""
    taps: Tensor
    """`(rows, kernel)`: a kernel's taps to the factors of the rows; B above."""


def _per_row(num_frames: int, kernel: int, dilation: int, hop: int) -> int:
    frames = -(-num_frames // dilation) + kernel // 2  # a row ends in zeros that its neighbour's kernel reads
    return -(-frames // hop)


@lru_cache(maxsize=256)
def transforms(
    kernel: int, hop: int, dtype: torch.dtype, device: torch.device, *, tile: int | None = None, align: int = 1
) -> Transforms:
    """The matrices of tiles of `hop` output frames, exact but for one rounding to `dtype`.

    Args:
        kernel: Taps.
        hop: Output frames of a tile.
        dtype: Of the matrices.
        device: Where they are.
        tile: Input frames of a tile; none: as few as there can be.
        align: Zeros are added until rows of spectra and taps are multiples of it.
    """
    tile = tile or hop + kernel - 1
    frequencies = torch.arange(tile // 2 + 1, dtype=torch.float64)
    phases = 2 * math.pi / tile * frequencies[:, None] * torch.arange(tile, dtype=torch.float64)
    cos, sin = torch.cos(phases), torch.sin(phases)
    # Half of the scale on either side keeps spectra as small as the frames, which matters in float16.
    into = _rows(cos, [cos - sin, cos, -sin], tile) / math.sqrt(tile)
    back = _rows(cos, [2 * (cos - sin), -2 * sin, -2 * cos], tile).T[:hop] / math.sqrt(tile)
    # The conjugate of the kernel's spectrum: what a network calls convolution does not flip the kernel.
    taps = _rows(cos, [cos, sin - cos, cos + sin], tile)[:, :kernel]
    more_rows, more_taps = -len(into) % align, -kernel % align
    into, back = functional.pad(into, (0, 0, 0, more_rows)), functional.pad(back, (0, more_rows))
    taps = functional.pad(taps, (0, more_taps, 0, more_rows))
    with torch.inference_mode(False):
        return Transforms(*(matrix.to(device, dtype).contiguous() for matrix in (into, back, taps)))


def _rows(real: Tensor, complex_rows: list[Tensor], tile: int) -> Tensor:
    """One row for each real frequency, three for each complex one."""
    middle = torch.stack(complex_rows, dim=1)[1 : (tile + 1) // 2].flatten(0, 1)
    return torch.cat([real[:1], middle, real[tile // 2 :] if tile % 2 == 0 else real[:0]])


class WeightSpectrum:
    """The transformed weights of a layer, kept until the weights change: for forward and backward, over a step.

    Torch counts most changes. Those that it does not (a fused optimizer, writing through `.data`) need a `forget`.
    """

    def __init__(self) -> None:
        self._source: weakref.ref[Tensor] | None = None
        self._key: tuple[Any, ...] = ()
        self._factors: Tensor | None = None

    def __call__(self, weight: Tensor, tiling: Tiling, dtype: torch.dtype) -> Tensor:
        """`(rows, C', C)` factors of a `(C', C, k)` weight."""
        if weight.is_inference():  # it has no version that would tell of a change
            return weight_factors(weight, tiling, dtype)
        key = (weight._version, weight.data_ptr(), tiling.hop, tiling.tile, tiling.align, dtype, weight.device)
        fresh = self._source is not None and self._source() is weight and self._key == key
        if not fresh or self._factors is None:
            # Made in inference mode it could not serve a backward pass later.
            with torch.inference_mode(False), torch.no_grad():
                self._factors = weight_factors(weight, tiling, dtype)
            self._source, self._key = weakref.ref(weight), key
        return self._factors

    def forget(self) -> None:
        """Transform the weights again at the next use."""
        self._source, self._factors = None, None

    def __deepcopy__(self, memo: Any) -> "WeightSpectrum":
        """A copy of a layer has weights of its own."""
        return WeightSpectrum()

    def __reduce__(self) -> tuple[Any, ...]:
        """What can be computed again is not stored."""
        return WeightSpectrum, ()


def weight_factors(weight: Tensor, tiling: Tiling, dtype: torch.dtype) -> Tensor:
    """`(rows, C', C)`, the transform of a `(C', C, k)` weight that tiles of any number share."""
    outputs, inputs, kernel = weight.shape
    taps = _matrices(tiling, dtype, weight.device).taps
    if _is_in_triton(taps):
        return fourier_triton.to_factors(weight.detach(), taps)
    if _is_exact_on_cpu(taps):
        factors = taps.new_empty(len(taps), outputs, inputs)
        of_outputs = weight.detach().to(dtype).transpose(1, 2)
        torch.bmm(taps[:, :kernel].expand(outputs, -1, -1), of_outputs, out=factors.transpose(0, 1))
        return factors
    given = weight.detach().to(dtype).reshape(-1, kernel)
    given = functional.pad(given, (0, taps.shape[1] - kernel)) if taps.shape[1] > kernel else given
    return (taps @ given.T).view(-1, outputs, inputs)


def _matrices(tiling: Tiling, dtype: torch.dtype, device: torch.device) -> Transforms:
    return transforms(tiling.kernel, tiling.hop, dtype, device, tile=tiling.tile, align=tiling.align)


def fourier_conv(x: Tensor, weight: Tensor, factors: Tensor, tiling: Tiling) -> Tensor:
    """A convolution of stride 1 whose output is as long as its input.

    Args:
        x: `(R, T, C)`, any dtype; computed in that of `factors`.
        weight: `(C', C, k)`, k odd; receives the gradient.
        factors: Its transform, from a `WeightSpectrum`.
        tiling: For T frames.

    Returns:
        `(R, T, C')` in the dtype of `factors`.
    """
    return _FourierConv.apply(x, weight, factors, tiling)  # type: ignore[no-any-return, no-untyped-call]


class _FourierConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, factors: Tensor, tiling: Tiling) -> Tensor:
        num_rows, num_frames, inputs = x.shape
        matrices = _matrices(tiling, factors.dtype, x.device)
        lead = tiling.kernel // 2
        axis = tiling.lay_out(x, factors.dtype, lead=lead, trail=tiling.tile - tiling.hop - lead)
        count = num_rows * tiling.dilation * tiling.per_row
        tiles = axis.as_strided((count, tiling.tile, inputs), (tiling.hop * inputs, inputs, 1))
        spectra = _to_rows(matrices.into, tiles)
        products = torch.bmm(spectra, factors.transpose(1, 2))
        y = _to_frames(matrices.back, products)
        ctx.save_for_backward(spectra if ctx.needs_input_grad[1] else None, factors)
        ctx.tiling, ctx.shape, ctx.dtype, ctx.weight_dtype = tiling, x.shape, x.dtype, weight.dtype
        sizes = {"num_rows": num_rows, "num_frames": num_frames}
        return tiling.take_back(y, None, **sizes, lead=0, dtype=y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        spectra, factors = ctx.saved_tensors
        tiling, (num_rows, num_frames, _) = ctx.tiling, ctx.shape
        matrices = _matrices(tiling, factors.dtype, grad_y.device)
        axis = tiling.lay_out(grad_y, factors.dtype, lead=0, trail=0)
        grads = _to_rows(matrices.back.T, axis.view(-1, tiling.hop, axis.shape[1]))
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            products = torch.bmm(grads, factors)
            own = _to_frames(matrices.into.T[: tiling.hop], products)
            # All of the rest, which tensor cores take without a detour, though only a kernel's reach of it counts.
            behind = _to_frames(matrices.into.T[tiling.hop :], products)
            sizes = {"num_rows": num_rows, "num_frames": num_frames}
            grad_x = tiling.take_back(own, behind, **sizes, lead=tiling.kernel // 2, dtype=ctx.dtype)
        if ctx.needs_input_grad[1]:
            of_outputs = grads.transpose(1, 2)
            if _has_amx(grads):
                of_outputs = of_outputs.contiguous()
            by_row = torch.bmm(of_outputs, spectra)
            grad_weight = _from_rows(by_row, matrices.taps, tiling.kernel, ctx.weight_dtype)
        return grad_x, grad_weight, None, None


def _from_rows(by_row: Tensor, taps: Tensor, kernel: int, dtype: torch.dtype) -> Tensor:
    """`(rows, C', C)` gradients of the factors to `(C', C, kernel)` in `dtype`."""
    if _is_in_triton(by_row):
        return fourier_triton.from_factors(by_row, taps, kernel=kernel, dtype=dtype)
    _, outputs, inputs = by_row.shape
    if _has_amx(by_row):
        grad = (taps.T @ by_row.flatten(1)).view(-1, outputs, inputs).permute(1, 2, 0)
    elif by_row.device.type == "cpu" and not _is_exact_on_cpu(by_row):
        grad = (by_row.flatten(1).T @ taps).view(outputs, inputs, -1)
    else:  # one product for each output channel: for one over all of them a GPU's library takes a slow way, and MKL
        grad = _to_frames(taps.T, by_row).transpose(1, 2)
    return grad[..., :kernel].to(dtype, memory_format=torch.contiguous_format)


def _is_in_triton(x: Tensor) -> bool:
    """Whether our kernels transform weights; they add up in float32."""
    return x.dtype != torch.float64 and triton_runs(x.device)


def _is_exact_on_cpu(x: Tensor) -> bool:
    """Whether MKL multiplies, for which narrow matrices are best taken apart by output channel: the transforms of 256
    channels' weights and of their gradients by 11 taps then take 0.7 and 0.25 of the time (AVX2, 2026-11). oneDNN,
    which multiplies halves, has not been measured so.
    """
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _has_amx(x: Tensor) -> bool:
    """Whether oneDNN multiplies by AMX, so fast that it is worth a copy to have factors lie as it likes them (Xeon, one
    thread, torch 2.13, 2026-11).
    """
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()


def _to_rows(matrix: Tensor, tiles: Tensor) -> Tensor:
    """`(rows, N)` times each of `(M, N, C)`: `(rows, M, C)`.

    Contiguous: on another CPU the copy costs a tenth of what the products over channels then gain (2-vCPU AMD EPYC,
    2026-11); a GPU's matrix product writes it so at once.
    """
    if _has_amx(tiles):  # 0.7 of the time, the copy included
        return (matrix @ tiles.transpose(0, 1).flatten(1)).view(len(matrix), len(tiles), -1)
    each = matrix.expand(len(tiles), -1, -1)
    if tiles.device.type == "cpu":
        return torch.bmm(each, tiles).transpose(0, 1).contiguous()
    rows = tiles.new_empty(len(matrix), len(tiles), tiles.shape[2])
    torch.bmm(each, tiles, out=rows.transpose(0, 1))
    return rows


def _to_frames(matrix: Tensor, products: Tensor) -> Tensor:
    """`(N, rows)` times each tile of `(rows, M, C)`: `(M, N, C)`."""
    if _has_amx(products):  # 0.53 and 0.64 of the time, the copy included
        frames = matrix @ products.flatten(1)
        return frames.view(len(matrix), *products.shape[1:]).transpose(0, 1).contiguous()
    return torch.bmm(matrix.expand(products.shape[1], -1, -1), products.transpose(0, 1))
