"""Several utterances in one row of a batch, one behind the other with gaps between them.

Masks keep the gaps at zero before every convolution, so that none sees across a gap at least as wide as its reach; then
an utterance has the log-probs it would have alone (docs/packing.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from jasper_ray.config.data import ALIGN_FRAMES, BatchingConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.errors import DataError


def lay_out(
    num_frames: Sequence[int], *, row_frames: int, gap_frames: int, align_frames: int = ALIGN_FRAMES
) -> list[tuple[int, int]]:
    """Where each utterance lies, as (row, first frame): behind the one before it, or at the start of the next row.

    In order and as early as possible, so no other layout in this order needs fewer rows.

    Args:
        num_frames: Feature frames of each utterance.
        row_frames: Feature frames of a row.
        gap_frames: Fewest frames between two utterances of a row.
        align_frames: Starts are multiples of this.

    Raises:
        DataError: An utterance is longer than a row.
    """
    places: list[tuple[int, int]] = []
    row, end = -1, row_frames  # as if a full row lay before the first one
    for position, frames in enumerate(num_frames):
        if frames > row_frames:
            raise DataError(
                f"utterance {position} of a micro-batch has {frames} feature frames, a row has {row_frames}: raise "
                "batching.row_seconds, or lower data.max_duration_s"
            )
        start = -(-(end + gap_frames) // align_frames) * align_frames
        if start + frames > row_frames:
            row, start = row + 1, 0
        places.append((row, start))
        end = start + frames
    return places


@dataclass(frozen=True)
class RowShape:
    """The one shape of a run's packed batches."""

    num_rows: int
    num_frames: int
    """Feature frames of a row."""
    gap_frames: int
    """Fewest feature frames between two utterances of a row."""

    @classmethod
    def of_config(cls, batching: BatchingConfig, features: FeatureConfig) -> Self:
        """Rows of at least `row_seconds` and gaps of at least `gap_seconds`, in whole frames."""
        multiple = features.pad_to_multiple
        row_frames = math.ceil(round(batching.row_seconds / features.hop_s, 6))
        return cls(
            num_rows=batching.rows_per_microbatch,
            num_frames=-(-row_frames // multiple) * multiple,
            gap_frames=math.ceil(round(batching.gap_seconds / features.hop_s, 6)),
        )

    def fill(self, features: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Features `(F, T_i)` of utterances laid out in rows `(R, F, T)`, the rest zero, and where each lies.

        Raises:
            DataError: They do not fit into the rows.
        """
        lengths = [feature.shape[1] for feature in features]
        places = lay_out(lengths, row_frames=self.num_frames, gap_frames=self.gap_frames)
        if places[-1][0] >= self.num_rows:
            raise DataError(
                f"{len(lengths)} utterances of {sum(lengths)} feature frames need {places[-1][0] + 1} rows of "
                f"{self.num_frames} frames, a micro-batch has {self.num_rows}: was its plan made with other durations, "
                "batching.row_seconds, batching.gap_seconds or batching.rows_per_microbatch?"
            )
        rows = features[0].new_zeros(self.num_rows, features[0].shape[0], self.num_frames)
        for feature, (row, start) in zip(features, places, strict=True):
            rows[row, :, start : start + feature.shape[1]] = feature
        return rows, places
