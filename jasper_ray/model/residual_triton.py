"""Sources of folded residuals on an NVIDIA GPU: one pass over memory where torch takes two or three."""

import importlib
from typing import Any

import torch
from torch import Tensor

from jasper_ray.model.norm_triton import is_frame_by_frame, parts_of
from jasper_ray.model.triton_trial import power_of_two

FRAMES, MAX_CHANNELS = 32, 128


def gather(x: Tensor, values: Tensor) -> Tensor:
    """Copy `(R, C, T)`, frame by frame, to `values` `(R T, C)`, part of a tensor or all of it; `(C,)` fp32 sums."""
    assert is_frame_by_frame(x) and x.dtype == values.dtype and values.stride(1) == 1
    num_frames, channels = values.shape
    parts, frames_each = parts_of(num_frames, channels)
    sums = torch.empty(parts, channels, device=x.device)
    columns, blocks = _columns(channels)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call] # Triton launches on the current device
        _kernels().gather_kernel[(parts, blocks)](
            x, values, sums, num_frames, frames_each,
            PITCH=values.stride(0), NUM_CHANNELS=channels, FRAMES=FRAMES, CHANNELS=columns,
        )  # fmt: skip
    return sums.sum(0)


def join(grad_x: Tensor, grads: Tensor, through: Tensor, scale: Tensor, level: Tensor) -> Tensor:
    """`(R, C, T)`, frame by frame as `grad_x`: its sum with `grads`, `scale` times `through`, and `level`.

    Args:
        grad_x: `(R, C, T)`.
        grads: `(R T, C)`, which may be part of a wider tensor.
        through: `(R T, C)`, contiguous.
        scale: A scalar on the device, fp32.
        level: `(C,)` fp32.
    """
    assert is_frame_by_frame(grad_x) and grads.stride(1) == 1 and through.is_contiguous()
    num_frames, channels = through.shape
    joined = torch.empty_like(grad_x)
    columns, blocks = _columns(channels)
    with torch.cuda.device_of(grad_x):  # type: ignore[no-untyped-call]
        _kernels().join_kernel[(-(-num_frames // FRAMES), blocks)](
            grad_x, grads, through, scale, level, joined, num_frames,
            PITCH=grads.stride(0), NUM_CHANNELS=channels, FRAMES=FRAMES, CHANNELS=columns,
        )  # fmt: skip
    return joined


def _columns(channels: int) -> tuple[int, int]:
    columns = min(MAX_CHANNELS, power_of_two(channels))
    return columns, -(-channels // columns)


def _kernels() -> Any:
    return importlib.import_module("jasper_ray.model.residual_kernels")  # it needs Triton, which few machines have
