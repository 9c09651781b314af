"""The layout of tiles on an NVIDIA GPU, in one pass over memory each way: torch takes two to four, and a third of its
bandwidth.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from jasper_ray.model.triton_trial import power_of_two

FRAMES = 32
MAX_CHANNELS = 128
"""Of a program: 32 halves for each of its 128 threads, 16 bytes at a time."""


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
    dtype: torch.dtype,
) -> Tensor:
    """`(R, T, C)` from tiles `(M, hop, C)` whose first row begins at frame `lead`.

    Args:
        tiles: One behind the other, not strided.
        behind: `(M, overlap, C)`, not strided: what each adds to the first frames of the next one; none: nothing.
        num_rows: R.
        num_frames: T.
        dilation: Rows of the axis for each row of frames.
        row: Frames of the axis from one of its rows to the next.
        lead: Where they begin.
        dtype: Of the result.
    """
    _, hop, channels = tiles.shape
    assert tiles.is_contiguous() and (behind is None or behind.is_contiguous())
    y = tiles.new_empty((num_rows, num_frames, channels), dtype=dtype)
    grid, shape = _programs(num_rows * num_frames, channels)
    overlap = 0 if behind is None else behind.shape[1]
    sizes = (num_rows * num_frames, num_frames, channels, row, lead, hop, overlap)
    with torch.cuda.device_of(tiles):  # type: ignore[no-untyped-call]
        _kernels().take_back_kernel[grid](
            tiles, tiles if behind is None else behind, y, *sizes, DILATION=dilation, ADDS=behind is not None, **shape
        )
    return y


def _programs(num_frames: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    columns = min(MAX_CHANNELS, power_of_two(channels))
    return (-(-num_frames // FRAMES), -(-channels // columns)), {"FRAMES": FRAMES, "CHANNELS": columns}


def _kernels() -> Any:
    return importlib.import_module("jasper_ray.model.fourier_kernels")  # it needs Triton, which few machines have
