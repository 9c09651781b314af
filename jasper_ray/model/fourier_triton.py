"""The layout of tiles, and the transforms of weights and of their gradients, on an NVIDIA GPU: one pass over memory
each, for which torch takes two to four, and a third of its bandwidth or less.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from jasper_ray.model.triton_trial import power_of_two

FRAMES = 32
MAX_CHANNELS = 128
"""Of a program: 32 halves for each of its 128 threads, 16 bytes at a time."""


PAIRS, ROWS_AT_ONCE = 128, 32
"""Of a program that transforms weights: pairs of channels, and rows of their factors at a time."""


def lay_out(x: Tensor, dtype: torch.dtype, *, dilation: int, row: int, lead: int, trail: int) -> Tensor:
    """`(R, T, C)`, channels next to each other, as `(lead + R * dilation * row + trail, C)`; zeros between rows and at
    both ends.
    """
    num_rows, num_frames, channels = x.shape
    assert x.stride(2) == 1
    num_inner = num_rows * dilation * row
    axis = torch.empty(lead + num_inner + trail, channels, dtype=dtype, device=x.device)
    grid, shape = _programs(len(axis), channels)
    sizes = (num_inner, len(axis), num_frames, channels, x.stride(0), x.stride(1), row, lead)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call] # Triton launches on the current device
        _kernels().lay_out_kernel[grid](x, axis, *sizes, DILATION=dilation, **shape)
    return axis


def take_back(
    tiles: Tensor,
    behind: Tensor | None,
    *,
    num_rows: int,
    num_frames: int,
    dilation: int,
    row: int,
    lead: int,
    overlap: int,
    dtype: torch.dtype,
) -> Tensor:
    """`(R, T, C)` from tiles `(M, hop, C)` whose first row begins at frame `lead`.

    Args:
        tiles: One behind the other, not strided.
        behind: `(M, overlap or more, C)`, not strided: what each adds to the first frames of the next one; none:
            nothing.
        num_rows: R.
        num_frames: T.
        dilation: Rows of the axis for each row of frames.
        row: Frames of the axis from one of its rows to the next.
        lead: Where they begin.
        overlap: Frames of `behind` that count.
        dtype: Of the result.
    """
    _, hop, channels = tiles.shape
    assert tiles.is_contiguous() and (behind is None or behind.is_contiguous())
    y = tiles.new_empty((num_rows, num_frames, channels), dtype=dtype)
    grid, shape = _programs(num_rows * num_frames, channels)
    pitch = 0 if behind is None else behind.shape[1]
    sizes = (num_rows * num_frames, num_frames, channels, row, lead, hop, overlap, pitch)
    with torch.cuda.device_of(tiles):  # type: ignore[no-untyped-call]
        _kernels().take_back_kernel[grid](
            tiles, tiles if behind is None else behind, y, *sizes, DILATION=dilation, ADDS=behind is not None, **shape
        )
    return y


def to_factors(weight: Tensor, taps: Tensor) -> Tensor:
    """`(C', C, k)` weights to `(rows, C', C)` factors, in the type of the matrix `taps` `(rows, k or more)`."""
    outputs, inputs, _ = weight.shape
    factors = taps.new_empty(len(taps), outputs, inputs)
    _launch(_kernels().to_factors_kernel, weight.contiguous(), taps, factors, outputs * inputs, weight.shape[2])
    return factors


def from_factors(by_row: Tensor, taps: Tensor, *, kernel: int, dtype: torch.dtype) -> Tensor:
    """`(rows, C', C)` gradients of factors to those of `(C', C, kernel)` weights."""
    _, outputs, inputs = by_row.shape
    grad = by_row.new_empty(outputs, inputs, kernel, dtype=dtype)
    _launch(_kernels().from_factors_kernel, by_row.contiguous(), taps, grad, outputs * inputs, kernel)
    return grad


def _launch(run: Any, source: Tensor, taps: Tensor, target: Tensor, num_pairs: int, kernel: int) -> None:
    assert taps.is_contiguous()
    rounds = taps.dtype != torch.float32 or torch.backends.cuda.matmul.allow_tf32
    with torch.cuda.device_of(source):  # type: ignore[no-untyped-call]
        run[(-(-num_pairs // PAIRS),)](
            source, taps, target, num_pairs,
            ROWS=len(taps), KERNEL=kernel, PITCH=taps.shape[1], BLOCK=ROWS_AT_ONCE, TAPS=max(16, power_of_two(kernel)),
            PAIRS=PAIRS, PRECISION="tf32" if rounds else "ieee",
        )  # fmt: skip


def _programs(num_frames: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    columns = min(MAX_CHANNELS, power_of_two(channels))
    return (-(-num_frames // FRAMES), -(-channels // columns)), {"FRAMES": FRAMES, "CHANNELS": columns}


def _kernels() -> Any:
    return importlib.import_module("jasper_ray.model.fourier_kernels")  # it needs Triton, which few machines have
