"""Which utterances share a row under policy `packed`: little is left empty, and who meets whom is a matter of chance.

Utterances come shuffled and are taken in pools of `POOL_UTTERANCES`. Inside a pool the longest is placed first, each
into the fullest row that still holds it (best fit, decreasing). Then all rows of the epoch, or of a block of shards,
are shuffled. So utterances of a row are chance neighbours in a pool of thousands, rows of a step come from anywhere.

Rows are counted in units of `ALIGN_FRAMES`, an utterance with the gap behind it and one frame to spare, so that
`packing.lay_out` finds room for the true frames of a plan's micro-batches in as many rows or fewer.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from jasper_ray.config.data import ALIGN_FRAMES, BatchingConfig

POOL_UTTERANCES = 4096


@dataclass(frozen=True)
class RowRoom:
    """What fits into a row, in frames."""

    row_frames: int
    gap_frames: int
    hop_s: float
    """Seconds per feature frame."""

    @classmethod
    def of_config(cls, batching: BatchingConfig, hop_s: float) -> Self:
        """Rows and gaps of a config."""
        return cls(
            row_frames=math.ceil(round(batching.row_seconds / hop_s, 6)),
            gap_frames=math.ceil(round(batching.gap_seconds / hop_s, 6)),
            hop_s=hop_s,
        )

    @property
    def units(self) -> int:
        """Units of a row; its last utterance needs no gap behind it."""
        return (self.row_frames + self.gap_frames) // ALIGN_FRAMES

    def frames_of(self, durations_s: np.ndarray) -> np.ndarray:
        """`(num_utterances,)` frames that each utterance may have at most."""
        # One more than the exact count: lengths are rounded to samples, at the file's rate and at the features'.
        return np.asarray(np.ceil(np.round(durations_s / self.hop_s, 6)), dtype=np.int64) + 1

    def units_of(self, durations_s: np.ndarray) -> np.ndarray:
        """`(num_utterances,)` units that each utterance takes, its gap included."""
        units = -(-(self.frames_of(durations_s) + self.gap_frames) // ALIGN_FRAMES)
        # One that fills a row takes all of it, whatever rounding says: it begins at its start.
        return np.asarray(np.minimum(units, self.units))


def pack_rows(units: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Put shuffled utterances into rows.

    Args:
        units: `(num_utterances,)` size of each.
        room: Size of a row, at least that of the largest.

    Returns:
        Positions in `units`, row after row, and the number of utterances in each row.
    """
    positions, counts = [], []
    for start in range(0, len(units), POOL_UTTERANCES):
        pool = units[start : start + POOL_UTTERANCES]
        longest_first = np.argsort(-pool, kind="stable")
        row_of = np.array(_best_fit(pool[longest_first].tolist(), room), dtype=np.int64)
        positions.append(start + longest_first[np.argsort(row_of, kind="stable")])
        counts.append(np.bincount(row_of))
    return np.concatenate(positions), np.concatenate(counts)


def _best_fit(sizes: list[int], room: int) -> list[int]:
    """The row of each size: the one with the least room left that still holds it, else a new one.

    Rows are listed by the room left in them, and a whole number holds a bit for each list that is not empty: the first
    list with enough room is its lowest bit from `size` up.
    """
    by_room: list[list[int]] = [[] for _ in range(room + 1)]
    filled, num_rows = 0, 0
    row_of = []
    for size in sizes:
        candidates = filled >> size
        if candidates:
            left = (candidates & -candidates).bit_length() - 1
            rows = by_room[left + size]
            row = rows.pop()
            if not rows:
                filled &= ~(1 << (left + size))
        else:
            row, left = num_rows, room - size
            num_rows += 1
        row_of.append(row)
        if left:
            by_room[left].append(row)
            filled |= 1 << left
    return row_of
