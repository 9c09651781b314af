"""Sources of folded residuals for NVIDIA GPUs in Triton; `residual_triton.py` launches these, and imports them then.

Sources lie side by side in one tensor of PITCH channels per frame; a program takes a block of frames and CHANNELS
channels of one of them. Sums have a fixed order.
"""

import triton
import triton.language as tl

from jasper_ray.model.norm_kernels import sum_of_frames


@triton.jit(do_not_specialize=["num_frames"])
def gather_kernel(
    x,
    values,
    sums,
    num_frames,
    frames_each,
    PITCH: tl.constexpr,
    NUM_CHANNELS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """`values` from `x` `(M, C)`, and sums `(P, C)` over the frames of each of P programs."""
    part = tl.program_id(0)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    total = tl.full([FRAMES, CHANNELS], 0.0, tl.float32)
    for start in range(0, frames_each, FRAMES):
        frames = (part * frames_each + start + tl.arange(0, FRAMES)).to(tl.int64)[:, None]
        inside = (frames < num_frames) & there[None, :]
        given = tl.load(x + frames * NUM_CHANNELS + channels[None, :], mask=inside, other=0.0)
        tl.store(values + frames * PITCH + channels[None, :], given, mask=inside)
        total += given.to(tl.float32)
    tl.store(sums + part * NUM_CHANNELS + channels, sum_of_frames(total), mask=there)


@triton.jit(do_not_specialize=["num_frames"])
def join_kernel(
    grad_x,
    grads,
    through,
    scale,
    level,
    joined,
    num_frames,
    PITCH: tl.constexpr,
    NUM_CHANNELS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """`joined` `(M, C)`: `grad_x` and `grads` and `scale` times `through`, and `level` in every frame."""
    frames = (tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)).to(tl.int64)[:, None]
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channels < NUM_CHANNELS
    inside = (frames < num_frames) & there[None, :]
    offsets = frames * NUM_CHANNELS + channels[None, :]
    first = tl.load(grad_x + offsets, mask=inside, other=0.0)
    second = tl.load(grads + frames * PITCH + channels[None, :], mask=inside, other=0.0)
    third = tl.load(through + offsets, mask=inside, other=0.0)
    levels = tl.load(level + channels, mask=there, other=0.0)[None, :]
    total = first.to(tl.float32) + second.to(tl.float32) + third.to(tl.float32) * tl.load(scale) + levels
    tl.store(joined + offsets, total.to(joined.dtype.element_ty), mask=inside)
