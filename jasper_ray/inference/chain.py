"""The blocks of a folded model as a chain of layers: which channels of which buffer each of them reads and writes.

All outputs of a dense chain lie in one wide buffer, so that a block's residual product reads them without copying.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from jasper_ray.inference.folded import FoldedBlock, FoldedConv

LayerT = TypeVar("LayerT")


@dataclass(frozen=True)
class Step(Generic[LayerT]):
    """A convolution and what follows it."""

    convolve: LayerT
    bias: Tensor
    activates: bool

    @property
    def outputs(self) -> int:
        """Channels."""
        return len(self.bias)


@dataclass(frozen=True)
class Link(Generic[LayerT]):
    """A block's place in the chain."""

    steps: tuple[Step[LayerT], ...]
    residual: Tensor | None
    """`(C', channels that it reads)`."""
    source: slice
    """The block's input in the wide buffer."""
    read: slice
    """What the residual product reads there."""
    target: slice
    """Where its output comes: in the same buffer, or first in a new one."""
    new_width: int
    """Channels of that new buffer; 0 for the same."""


def chain(
    blocks: tuple[FoldedBlock, ...], inputs: int, dtype: torch.dtype, layer: Callable[[FoldedConv], LayerT]
) -> tuple[Link[LayerT], ...]:
    """The links of blocks that begin with so many channels; all but the layers of convolutions in `dtype`."""
    links = []
    begin, end = 0, inputs  # of the newest output in the wide buffer
    for number, block in enumerate(blocks):
        is_dense = block.reads == "dense"
        source, read = slice(begin, end), slice(0 if is_dense else begin, end)
        begin, end = (end, end + block.filters) if is_dense else (0, block.filters)
        steps = tuple(Step(layer(conv), conv.bias.to(dtype), conv.activates) for conv in block.convs)
        new_width = 0 if is_dense else chain_width(blocks[number + 1 :], block.filters)
        residual = None if block.residual is None else block.residual.to(dtype)
        links.append(Link(steps, residual, source, read, slice(begin, end), new_width))
    return tuple(links)


def chain_width(blocks: tuple[FoldedBlock, ...], inputs: int) -> int:
    """Channels of a buffer for an output and those of the dense blocks that follow it."""
    dense = itertools.takewhile(lambda block: block.reads == "dense", blocks)
    return inputs + sum(block.filters for block in dense)
