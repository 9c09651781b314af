import numpy as np
import pytest
import torch

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.packing import RowShape, lay_out
from jasper_ray.errors import DataError


def test_utterances_follow_each_other_with_gaps_until_a_row_is_full() -> None:
    places = lay_out([100, 50, 30, 120, 200], row_frames=200, gap_frames=10)
    assert places == [(0, 0), (0, 112), (1, 0), (1, 40), (2, 0)]
    assert lay_out([], row_frames=200, gap_frames=10) == []


@pytest.mark.parametrize("seed", range(20))
def test_random_layouts_keep_order_gaps_rows_and_alignment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row_frames, gap, align = int(rng.integers(100, 400)), int(rng.integers(0, 60)), int(rng.integers(1, 17))
    lengths = rng.integers(1, row_frames + 1, 30).tolist()
    places = lay_out(lengths, row_frames=row_frames, gap_frames=gap, align_frames=align)
    assert places == sorted(places) and {row for row, _ in places} == set(range(places[-1][0] + 1))
    for (_, start), length in zip(places, lengths, strict=True):
        assert start % align == 0 and start + length <= row_frames
    for (row, start), length, (next_row, next_start) in zip(places, lengths, places[1:], strict=False):
        if next_row == row:
            assert next_start >= start + length + gap
        else:
            assert next_start == 0


@pytest.mark.parametrize("seed", range(20))
def test_shorter_utterances_never_need_more_rows_than_longer_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planned = rng.integers(10, 300, 40)
    actual = planned - rng.integers(0, 10, 40)
    rows = [lay_out(frames.tolist(), row_frames=600, gap_frames=56)[-1][0] for frames in (actual, planned)]
    assert rows[0] <= rows[1]


def test_an_utterance_longer_than_a_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"utterance 1 of a micro-batch has 201 feature frames, a row has 200"):
        lay_out([10, 201], row_frames=200, gap_frames=0)


def test_rows_are_no_shorter_and_gaps_no_narrower_than_asked() -> None:
    batching = BatchingConfig(policy="packed", row_seconds=30.005, rows_per_microbatch=4, gap_seconds=0.555)
    assert RowShape.of_config(batching, FeatureConfig()) == RowShape(num_rows=4, num_frames=3008, gap_frames=56)
    exact = batching.model_copy(update={"row_seconds": 40.0, "gap_seconds": 0.56})
    assert RowShape.of_config(exact, FeatureConfig()) == RowShape(num_rows=4, num_frames=4000, gap_frames=56)


def test_unused_rows_stay_so_that_batches_have_one_shape() -> None:
    features, places = RowShape(num_rows=3, num_frames=64, gap_frames=8).fill([torch.ones(2, 30)])
    assert features.shape == (3, 2, 64) and features.sum() == 60 and places == [(0, 0)]
