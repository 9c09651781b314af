"""A convolution over so few frames that a GPU waits for its weights: the sum in parts, for an epilogue to add up.

cuDNN has no kernel for this: it reads the 30 MB of a wide layer at a third of what memory could give. Tensors lie on an
NVIDIA GPU.
"""

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

INPUTS_PER_STEP = 64
"""128 bytes of halves: a line of the cache."""
FEWEST_STEPS = 4
"""Of a part: fewer do not pay for its start."""
MAX_PARTS = 16
DTYPES = (torch.float16, torch.bfloat16)
"""That there are kernels for."""


class Tile(NamedTuple):
    """What a program computes, and how."""

    rows: int
    outputs: int
    num_warps: int
    num_stages: int


TILES = (Tile(64, 64, 4, 5), Tile(64, 128, 4, 4), Tile(128, 128, 8, 3), Tile(128, 256, 8, 3))
PROGRAMS_PER_PROCESSOR = (1, 2)
"""That run at a time: one more than all processors hold would have them wait for it."""


class Split(NamedTuple):
    """A way to cut a convolution."""

    tile: Tile
    num_parts: int


class SplitShape(NamedTuple):
    """A convolution with one input frame for each output frame."""

    inputs: int
    outputs: int
    kernel: int
    dilation: int

    @property
    def num_steps(self) -> int:
        """That a tile's whole sum takes."""
        return self.kernel * self.inputs // INPUTS_PER_STEP


def can_split(shape: SplitShape) -> bool:
    """Whether there is a kernel for it."""
    narrowest = min(tile.outputs for tile in TILES)
    return shape.inputs % INPUTS_PER_STEP == 0 and shape.outputs % narrowest == 0


def splits(shape: SplitShape, num_rows: int, num_processors: int) -> Iterator[Split]:
    """Ways that give each multiprocessor nearly the same to do, as far as the sum is long enough for it."""
    for tile in TILES:
        if shape.outputs % tile.outputs or (tile.rows > TILES[0].rows >= num_rows):
            continue
        tiles = -(-num_rows // tile.rows) * (shape.outputs // tile.outputs)
        longest = max(1, min(MAX_PARTS, shape.num_steps // FEWEST_STEPS))
        counts = {min(longest, max(1, times * num_processors // tiles)) for times in PROGRAMS_PER_PROCESSOR}
        yield from (Split(tile, num_parts) for num_parts in sorted(counts))


def split_conv(rows: Tensor, weight: Tensor, split: Split, *, num_utterances: int, dilation: int) -> Tensor:
    """Parts of a convolution's output, in float32.

    Args:
        rows: `(R * T, C)` halves, not strided; C is a multiple of 64. Padding is zero.
        weight: `(C', k, C)` of the same type, not strided; k is odd, C' a multiple of the tile's outputs.
        split: Into what it is cut.
        num_utterances: R.
        dilation: Frames between two taps.

    Returns:
        `(P, R * T, C')`, whose sum over P is the output.
    """
    (num_rows, inputs), (outputs, kernel, _) = rows.shape, weight.shape
    tile, num_parts = split
    assert rows.is_contiguous() and weight.is_contiguous() and weight.shape[2] == inputs
    assert inputs % INPUTS_PER_STEP == 0 and outputs % tile.outputs == 0 and kernel % 2 == 1
    shape = SplitShape(inputs, outputs, kernel, dilation)
    parts = rows.new_empty((num_parts, num_rows, outputs), dtype=torch.float32)
    sizes = (num_rows, num_rows // num_utterances, inputs, outputs, kernel, dilation)
    blocks = {"ROWS": tile.rows, "OUTPUTS": tile.outputs, "INPUTS": INPUTS_PER_STEP}
    grid = (num_parts, -(-num_rows // tile.rows), outputs // tile.outputs)
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call] # Triton launches on the current device
        _kernels().split_kernel[grid](
            rows, weight, parts, *sizes, -(-shape.num_steps // num_parts),
            **blocks, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
    return parts


def _kernels() -> Any:
    return importlib.import_module("jasper_ray.inference.split_kernels")  # it needs Triton, which few machines have
