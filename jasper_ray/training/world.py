"""The workers of a run as training sees them: rank, size, device and the few collective operations it needs."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")
Item = TypeVar("Item")


@dataclass(frozen=True)
class World:
    """One of `size` workers. With size 1 nothing is communicated and no process group is needed."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Rank 0: the worker that writes and reports."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Element-wise sum over all workers, in place; every worker must call it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, item: Item) -> list[Item]:
        """`item` of every worker in rank order, on every worker."""
        if self.size == 1:
            return [item]
        items: list[Item | None] = [None] * self.size
        dist.all_gather_object(items, item)
        return items  # type: ignore[return-value]

    def from_first(self, item: Item) -> Item:
        """Rank 0's `item` on every worker."""
        if self.size == 1:
            return item
        holder = [item]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]
