"""Lists of tensors in chunks, one for each program of a kernel: a launch for all of them (`chunk_kernels.py`)."""

import functools
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

CHUNK = 16384
"""Numbers that a program works on: 20,000 programs for Jasper 10x5."""
BLOCK = 1024


def are_alike(tensors: Sequence[Tensor], device: torch.device) -> bool:
    """Whether kernels can work on tensors of one shape, number by number: all are fp32 on that device, and have their
    numbers in one order in memory, without gaps.
    """
    if any(one.dtype != torch.float32 or one.device != device or one.layout != torch.strided for one in tensors):
        return False
    if tensors[0].numel() == 0:
        return False
    # Nearly always so, and quickly said: there are hundreds of tensors a step.
    if all(one.is_contiguous() for one in tensors):
        return True
    first, *others = (_steps(one.shape, one.stride()) for one in tensors)
    return first is not None and all(steps == first for steps in others)


@functools.cache
def _steps(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...] | None:
    """Size and stride of each dimension in which there is more than one number; none where memory has gaps between."""
    steps = tuple((size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1)
    expected = 1
    for size, stride in sorted(steps, key=lambda step: step[1]):
        if stride != expected:
            return None
        expected *= size
    return steps


class ChunkTables:
    """Which program works on what, and where that lies; sent to the device only when it has changed."""

    def __init__(self) -> None:
        self._sizes: tuple[int, ...] = ()
        self._addresses: tuple[int, ...] = ()
        self._pointers = self._owners = self._numbers = torch.empty(0)
        self.first = torch.empty(0)
        """`(tensors + 1,)`: the first program of each."""

    def set(self, rows: Sequence[Sequence[Tensor]]) -> bool:
        """Describe tensors, as many in each row, those of a row alike (`are_alike`); whether their sizes are new.

        Args:
            rows: At least one.
        """
        device = rows[0][0].device
        sizes = tuple(row[0].numel() for row in rows)
        is_new = (sizes, device) != (self._sizes, self._pointers.device)
        if is_new:
            chunks = [-(-size // CHUNK) for size in sizes]
            owners = [tensor for tensor, count in enumerate(chunks) for _ in range(count)]
            self._owners = _on(device, owners, torch.int32)
            self.first = _on(device, [0, *accumulate(chunks)], torch.int32)
            self._numbers = _on(device, sizes, torch.int64)
            self._sizes, self._addresses = sizes, ()
        addresses = tuple(tensor.data_ptr() for row in rows for tensor in row)
        if addresses != self._addresses:
            self._pointers, self._addresses = _on(device, addresses, torch.int64), addresses
        return is_new

    @property
    def pointers(self) -> Tensor:
        """`(rows x columns,)` addresses, row by row."""
        return self._pointers

    @property
    def num_programs(self) -> int:
        """Chunks of all tensors."""
        return len(self._owners)

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What kernels take first: `pointers`, `owners`, `first` and `sizes`."""
        return self._pointers, self._owners, self.first, self._numbers


def _on(device: torch.device, values: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on the device, without waiting for it: pinned memory is not used again before it has been read."""
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)
