"""Batch norm, residual sum, ReLU, dropout and mask in few passes over memory, forward and backward, on NVIDIA GPUs.

Eager they are some fifteen passes and a third of a training step; here two forward (statistics, result) and two
backward, of which nothing is kept but inputs and output.
"""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jasper_ray.model.layout import DRAWS
from jasper_ray.model.triton_trial import power_of_two

MAX_INPUTS = 15
MAX_PARTS = 256
PROGRAMS = 1056
"""As many as a large GPU (132 multiprocessors) runs at a time; a constant, so that sums do not depend on the GPU."""
FRAMES, FEW_FRAMES = 32, 8
"""Of a program at a time. FEW_FRAMES times 128 channels of 16 bits are 16 bytes, one load, of each of its threads."""
GROUPS = FRAMES // FEW_FRAMES
"""Of FEW_FRAMES that sums load at a time: a thread has as many loads under way, and few registers for its sums."""
READS = {"GROUPS": GROUPS, "FRAMES": FEW_FRAMES, "maxnreg": 80}
READS_THREE = {**READS, "maxnreg": 128}
"""Of sums over one tensor, and over three. Told how many registers it may use, the assembler leaves all loads ahead of
the sums; else it aims at fewer registers and waits for a load before it starts the next (ptxas of Triton 3.6)."""
ADDS_PARTS = {"CHANNELS": 16, "num_warps": 8, "maxnreg": 128}
"""MAX_PARTS times as many fit in a program's registers."""
NUM_DRAW_GROUPS = 8


class NormInput(NamedTuple):
    """A tensor to normalise, and how."""

    x: Tensor
    """`(R, C, T)`, the channels of a frame together in memory."""
    weight: Tensor
    """`(C,)` fp32."""
    bias: Tensor
    """`(C,)` fp32."""
    sums: tuple[Tensor, Tensor] | None
    """`(C,)` fp32 each: mean and unbiased variance are added to them; none, to nothing."""


def is_frame_by_frame(x: Tensor) -> bool:
    """Whether `(R, C, T)` lies in memory as `(R, T, C)` without gaps."""
    return x.transpose(1, 2).is_contiguous()


def norm_relu_dropout(
    inputs: Sequence[NormInput],
    *,
    added: Tensor | None = None,
    is_padding: Tensor | None,
    num_dropped: int,
    eps: float,
    excludes_padding: bool,
    seed: Tensor,
    stream: int = 0,
) -> Tensor:
    """Batch norm of each input with the statistics of this call, sum, ReLU, dropout, zeros in the padding.

    Args:
        inputs: 1 to 15, with `added` 14, alike in shape, type and device.
        added: One more, which is added as it is.
        is_padding: `(R, 1, T)`; none if there is none.
        num_dropped: Elements of 65,536 that dropout drops, 0 to 65,535.
        eps: Added to the variance.
        excludes_padding: Whether statistics are those of the other frames alone.
        seed: `(1,)` int64 on the device; what is dropped depends on it and on `stream` alone.
        stream: Which of the dropouts that share the seed this is.

    Returns:
        `(R, C, T)` laid out as the inputs.
    """
    tensors = [tensor for one in inputs for tensor in one[:3]]
    given = _Given(
        tuple(one.sums for one in inputs),
        is_padding,
        num_dropped,
        seed,
        stream,
        eps,
        excludes_padding and is_padding is not None,
    )
    return _NormReluDropout.apply(given, added, *tensors)  # type: ignore[no-any-return, no-untyped-call]


class _Given(NamedTuple):
    sums: tuple[tuple[Tensor, Tensor] | None, ...]
    is_padding: Tensor | None
    num_dropped: int
    seed: Tensor
    stream: int
    eps: float
    excludes: bool

    @property
    def scale(self) -> float:
        """Of what is not dropped."""
        return DRAWS / (DRAWS - self.num_dropped)


class _NormReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: _Given, added: Tensor | None, *tensors: Tensor) -> Tensor:
        kernels = _kernels()
        xs, weights, biases = tensors[0::3], tensors[1::3], tensors[2::3]
        terms = xs if added is None else (*xs, added)
        num_rows, num_channels, row_frames = xs[0].shape
        num_frames, channels = num_rows * row_frames, _block(num_channels)
        # Never read where it is not told to; a pointer must be given.
        is_padding = xs[0].new_empty(1, dtype=torch.bool) if given.is_padding is None else given.is_padding
        norms = weights[0].new_empty(len(xs), 4, num_channels)
        num_valid = norms.new_empty(1)
        parts, frames_each = parts_of(num_frames, num_channels)
        counts, means, squares = (
            norms.new_empty(size) for size in (parts, (parts, num_channels), (parts, num_channels))
        )
        blocks = -(-num_channels // channels)
        with torch.cuda.device_of(norms):  # type: ignore[no-untyped-call] # Triton launches on the current device
            for i, x in enumerate(xs):
                kernels.statistics_kernel[(parts, blocks)](
                    x, is_padding.view(torch.uint8), counts, means, squares, num_frames, frames_each,
                    NUM_CHANNELS=num_channels, EXCLUDES=given.excludes, CHANNELS=channels, **READS,
                )  # fmt: skip
                sums = given.sums[i]
                kernels.combine_kernel[(-(-num_channels // ADDS_PARTS["CHANNELS"]),)](
                    counts, means, squares, weights[i], biases[i], *(sums or (counts, counts)), num_valid, norms[i],
                    parts, given.eps,
                    NUM_CHANNELS=num_channels, COLLECTS=sums is not None, PARTS=power_of_two(parts), **ADDS_PARTS,
                )  # fmt: skip
            y = torch.empty_like(xs[0])
            kernels.forward_kernel[(-(-num_frames // (NUM_DRAW_GROUPS * FEW_FRAMES)), blocks)](
                terms, norms, is_padding.view(torch.uint8), y, num_frames, given.seed, given.stream, given.scale,
                NUM=len(terms), NUM_NORMS=len(xs), NUM_CHANNELS=num_channels, MASKS=given.is_padding is not None,
                DROPPED=given.num_dropped, GROUPS=_draw_groups(len(terms)), FRAMES=FEW_FRAMES,
                CHANNELS=channels,
            )  # fmt: skip
        ctx.save_for_backward(*xs, y, norms, num_valid, is_padding)
        ctx.given, ctx.adds = given, added is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        kernels, given = _kernels(), ctx.given
        *xs, y, norms, num_valid, is_padding = ctx.saved_tensors
        num_rows, num_channels, row_frames = y.shape
        num_frames, channels = num_rows * row_frames, _block(num_channels)
        if not is_frame_by_frame(grad_y):
            grad_y = grad_y.transpose(1, 2).contiguous().transpose(1, 2)
        parts, frames_each = parts_of(num_frames, num_channels)
        blocks = -(-num_channels // channels)
        sums = norms.new_empty(parts, len(xs) + 1, num_channels)
        grad_weight, grad_bias = (norms.new_empty(len(xs), num_channels) for _ in range(2))
        grad_xs = tuple(torch.empty_like(x) for x in xs)
        grad_added = torch.empty_like(y) if ctx.adds else None
        shape = {"NUM": len(xs), "NUM_CHANNELS": num_channels}
        with torch.cuda.device_of(norms):  # type: ignore[no-untyped-call]
            kernels.reduce_kernel[(len(xs), parts, blocks)](
                tuple(xs), norms, y, grad_y, sums, num_frames, frames_each, given.scale,
                **shape, CHANNELS=channels, **READS_THREE,
            )  # fmt: skip
            kernels.sum_kernel[(-(-num_channels // ADDS_PARTS["CHANNELS"]), len(xs))](
                sums, grad_weight, grad_bias, parts, **shape, PARTS=power_of_two(parts), **ADDS_PARTS
            )
            kernels.backward_kernel[(-(-num_frames // FRAMES), blocks)](
                tuple(xs), grad_xs, y if grad_added is None else grad_added, norms, y, grad_y, grad_weight, grad_bias,
                num_valid, is_padding.view(torch.uint8), num_frames, given.scale,
                **shape, EXCLUDES=given.excludes, ADDS=ctx.adds, FRAMES=FRAMES, CHANNELS=channels,
            )  # fmt: skip
        triples = zip(grad_xs, grad_weight.unbind(), grad_bias.unbind(), strict=True)
        return None, grad_added, *(tensor for triple in triples for tensor in triple)


def _kernels() -> Any:
    return importlib.import_module("jasper_ray.model.norm_kernels")  # it needs Triton, which few machines have


def _block(num_channels: int) -> int:
    """Channels of a program."""
    return min(128, max(16, power_of_two(num_channels)))


def parts_of(num_frames: int, num_channels: int) -> tuple[int, int]:
    """In how many parts frames are summed up, and the frames of a part: whole blocks of FRAMES."""
    wanted = max(1, min(MAX_PARTS, PROGRAMS // -(-num_channels // _block(num_channels))))
    blocks = -(-num_frames // FRAMES)
    each = -(-blocks // wanted)
    return -(-blocks // each), each * FRAMES


def _draw_groups(num_inputs: int) -> int:
    """Groups of draws whose inputs are loaded together: some eight loads of a thread."""
    return max(1, power_of_two(NUM_DRAW_GROUPS // num_inputs + 1) // 2)
