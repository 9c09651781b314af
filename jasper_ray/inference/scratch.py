"""Memory that the layers of a forward pass share."""

import math
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor


class HasAxes(Protocol):
    """How the rows of a batch lie on one time axis."""

    def new_axis(self, channels: int, dtype: torch.dtype) -> Tensor:
        """Room for so many channels of all rows."""
        ...


RowsT = TypeVar("RowsT", bound=HasAxes)


class Scratch(Generic[RowsT]):
    """Memory of a forward pass that is used again and again: fresh memory costs a page fault for each 4 kB of it."""

    def __init__(self, rows: RowsT, dtype: torch.dtype) -> None:
        self.rows, self._dtype = rows, dtype
        self._axes: dict[int, list[Tensor]] = {}
        self._buffers: dict[str, Tensor] = {}

    def other_than(self, x: Tensor, channels: int) -> Tensor:
        """One of two axes of a width, in turn: what one layer writes the next one reads."""
        if channels not in self._axes:
            self._axes[channels] = [self.rows.new_axis(channels, self._dtype) for _ in range(2)]
        axes = self._axes[channels]
        return axes[1] if x is axes[0] else axes[0]

    def buffer(self, name: str, *shape: int) -> Tensor:
        """What is in it counts until the name is asked for again."""
        size = math.prod(shape)
        if name not in self._buffers or len(self._buffers[name]) < size:
            self._buffers[name] = torch.empty(size, dtype=self._dtype)
        return self._buffers[name][:size].view(shape)
