"""One planned epoch: three arrays, whatever its length, from which any step and any worker's share is a slice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

Step = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class EpochPlan:
    """Which manifest rows make micro-batch m of step s; every row of the manifest is in exactly one.

    Finding a step costs the same anywhere in an epoch of any length: nothing is read or counted on the way to it.
    """

    rows: np.ndarray
    """`(num_utterances,)` int64 manifest rows in the order of training."""
    bounds: np.ndarray
    """`(num_steps * microbatches_per_step + 1,)` int64: where each micro-batch begins in `rows`, and the end."""
    microbatches_per_step: int

    @property
    def num_steps(self) -> int:
        """Steps of the epoch."""
        return (len(self.bounds) - 1) // self.microbatches_per_step

    @property
    def steps(self) -> Sequence[Step]:
        """`steps[s][m]` holds the manifest rows of micro-batch m of step s; made when asked for."""
        return _Steps(self)

    def num_utterances(self, step: int) -> int:
        """Utterances in all micro-batches of a step."""
        first = step * self.microbatches_per_step
        return int(self.bounds[first + self.microbatches_per_step] - self.bounds[first])

    def step_rows(self, step: int) -> np.ndarray:
        """Manifest rows of a step, micro-batch after micro-batch."""
        first = step * self.microbatches_per_step
        return self.rows[self.bounds[first] : self.bounds[first + self.microbatches_per_step]]

    def microbatch(self, step: int, number: int) -> np.ndarray:
        """Manifest rows of one micro-batch."""
        position = step * self.microbatches_per_step + number
        return self.rows[self.bounds[position] : self.bounds[position + 1]]

    def share(self, step: int, *, rank: int, world_size: int) -> list[tuple[int, np.ndarray]]:
        """What one worker does in a step: its non-empty micro-batches with their numbers in the step."""
        numbered = (
            (number, self.microbatch(step, number)) for number in range(rank, self.microbatches_per_step, world_size)
        )
        return [(number, rows) for number, rows in numbered if len(rows)]


class _Steps(Sequence[Step]):
    """The steps of a plan as a sequence of views."""

    def __init__(self, plan: EpochPlan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return self._plan.num_steps

    @overload
    def __getitem__(self, position: int) -> Step: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Step, ...]: ...
    def __getitem__(self, position: int | slice) -> Step | tuple[Step, ...]:
        if isinstance(position, slice):
            return tuple(self[step] for step in range(*position.indices(len(self))))
        if not -len(self) <= position < len(self):
            raise IndexError(f"step {position} of an epoch of {len(self)} steps")
        plan = self._plan
        return tuple(plan.microbatch(position % len(self), number) for number in range(plan.microbatches_per_step))


def rank_microbatches(
    plan: EpochPlan, *, rank: int, world_size: int, start_step: int = 0
) -> Iterator[tuple[int, list[tuple[int, np.ndarray]]]]:
    """What one worker does: (step, its non-empty micro-batches with their numbers in the step)."""
    for step in range(start_step, plan.num_steps):
        yield step, plan.share(step, rank=rank, world_size=world_size)
