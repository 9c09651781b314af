"""What a folded model computes around its products, one kernel each: features to rows, epilogues, log-softmax.

The host neither waits nor reads, so all of it can be captured in a CUDA graph once it has run outside of one (Triton
compiles a kernel when it is first launched). Tensors lie on an NVIDIA GPU.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from jasper_ray.model.triton_trial import power_of_two

FRAMES_PER_PROGRAM = 32
MAX_MELS_PER_PROGRAM = 64
MAX_CHANNELS_PER_PROGRAM = 128
FEW_VALUES, MANY_VALUES = 1024, 4096
"""Of a program: 8 or 32 for each of its 128 threads."""
VALUES_OF_PARTS = 512
"""Of a program that adds parts up: 4 for each thread, 16 bytes of each part."""
NUM_PROGRAMS = 528
"""Four for each processor of an H100 or H200: a program has few values as long as there would not be so many."""
SCORES_PER_PROGRAM = 512


def rows_of_features(features: Tensor, lengths: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Features `(R, F, T)`, not strided, to rows `(R * T, F)`; zero behind the `(R,)` lengths, whatever is there."""
    assert features.is_contiguous()
    num_utterances, num_mels, num_frames = features.shape
    rows = features.new_empty((num_utterances * num_frames, num_mels), dtype=dtype)
    mels = min(MAX_MELS_PER_PROGRAM, power_of_two(num_mels))
    grid = (num_utterances, -(-num_frames // FRAMES_PER_PROGRAM), -(-num_mels // mels))
    sizes = {"FRAMES": FRAMES_PER_PROGRAM, "MELS": mels}
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call] # Triton launches on the current device
        _kernels().rows_kernel[grid](features, lengths, rows, num_mels, num_frames, **sizes)
    return rows


def epilogue_(
    rows: Tensor,
    bias: Tensor,
    lengths: Tensor,
    *,
    frame_step: int,
    bounds: tuple[float, float],
    copy: Tensor | None = None,
    parts: Tensor | None = None,
    adds: bool = True,
) -> Tensor:
    """A bias, a non-linearity that is two bounds, and zeros for padding, in place.

    Args:
        rows: `(R * T, C)`, not strided.
        bias: `(C)` float32.
        lengths: `(R,)` valid feature frames.
        frame_step: Feature frames from one frame of `rows` to the next.
        bounds: Of the values.
        copy: `(R * T, C)`, columns of a wider tensor: gets the same values.
        parts: `(P, R * T, C)` float32, not strided: their sum is added, in the order that they have.
        adds: Whether the rows hold anything yet; if not, values are those of the parts alone.

    Returns:
        The rows.
    """
    (num_rows, channels), num_utterances = rows.shape, len(lengths)
    assert rows.is_contiguous() and num_rows % num_utterances == 0
    assert copy is None or (copy.shape == rows.shape and copy.dtype == rows.dtype and copy.stride(1) == 1)
    assert adds or parts is not None
    assert parts is None or (parts.is_contiguous() and parts.shape[1:] == rows.shape)
    columns = min(MAX_CHANNELS_PER_PROGRAM, power_of_two(channels))
    blocks = -(-channels // columns)
    values = MANY_VALUES if num_rows * blocks * columns >= NUM_PROGRAMS * MANY_VALUES else FEW_VALUES
    if parts is not None:
        values = VALUES_OF_PARTS
    block_rows = values // columns
    second = (rows, channels) if copy is None else (copy, copy.stride(0))
    num_parts = 0 if parts is None else len(parts)
    sizes = (num_parts, num_rows, num_rows // num_utterances, channels, second[1], frame_step, *bounds)
    shape = {"ROWS": block_rows, "CHANNELS": columns, "COPIES": copy is not None, "ADDS": adds}
    shape["PARTS"] = power_of_two(num_parts) if num_parts else 0
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        grid = (-(-num_rows // block_rows) * blocks,)
        _kernels().epilogue_kernel[grid](
            rows, bias, lengths, second[0], bias if parts is None else parts, *sizes, **shape
        )
    return rows


def log_softmax(scores: Tensor, bias: Tensor) -> Tensor:
    """Scores `(R * T, at least V)` and a `(V)` float32 bias to log-probabilities `(R * T, V)` float32.

    Columns of scores behind the V-th are not read.
    """
    num_rows, num_labels = len(scores), len(bias)
    assert scores.stride(1) == 1 and scores.shape[1] >= num_labels
    log_probs = scores.new_empty((num_rows, num_labels), dtype=torch.float32)
    labels = power_of_two(num_labels)
    block_rows = max(1, SCORES_PER_PROGRAM // labels)
    sizes = (num_rows, num_labels, scores.stride(0))
    with torch.cuda.device_of(scores):  # type: ignore[no-untyped-call]
        grid = (-(-num_rows // block_rows),)
        _kernels().log_softmax_kernel[grid](scores, bias, log_probs, *sizes, ROWS=block_rows, LABELS=labels)
    return log_probs


def _kernels() -> Any:
    return importlib.import_module("jasper_ray.inference.epilogue_kernels")  # it needs Triton, which few machines have
