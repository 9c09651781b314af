"""Several utterances in one row of a batch, one behind the other with gaps between them.

Masks keep the gaps at zero before every convolution, so that none sees across a gap at least as wide as its reach; then
an utterance has the log-probs it would have alone (docs/packing.md).
"""

from collections.abc import Sequence

from jasper_ray.errors import DataError

ALIGN_FRAMES = 8
"""Every start is a multiple of this many feature frames, itself one of the model's stride: encoder frames line up."""


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
