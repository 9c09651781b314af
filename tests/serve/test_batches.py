import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.batches import BatchLimits, choose_batch, padded_seconds

DURATIONS = st.lists(st.floats(0.01, 60), min_size=1, max_size=80)


@given(DURATIONS, st.integers(1, 16), st.floats(1, 200), st.floats(0, 1), st.floats(0, 5))
def test_a_batch_holds_the_oldest_and_stays_within_its_limits(
    durations_s: list[float], max_count: int, max_seconds: float, max_padding: float, short_s: float
) -> None:
    chosen = choose_batch(durations_s, BatchLimits(max_count, max_seconds, max_padding, short_s))
    assert chosen[0] == 0 and chosen == sorted(set(chosen)) and len(chosen) <= max_count
    lengths = [max(durations_s[index], short_s) for index in chosen]
    if len(chosen) > 1:
        assert padded_seconds(lengths) <= max_seconds
        assert min(lengths) >= (1 - max_padding) * max(lengths)


@given(DURATIONS, st.integers(1, 16))
def test_every_utterance_is_computed_within_as_many_steps_as_were_before_it(
    durations_s: list[float], max_count: int
) -> None:
    waiting = list(enumerate(durations_s))
    limits = BatchLimits(max_count)
    step = 0
    while waiting:
        chosen = choose_batch([duration_s for _, duration_s in waiting], limits)
        assert all(waiting[index][0] >= step for index in chosen)
        waiting = [one for index, one in enumerate(waiting) if index not in chosen]
        step += 1


def test_like_lengths_come_together_whatever_their_order() -> None:
    durations_s = [10.0, 2.0, 9.8, 2.1, 10.1, 1.9]
    assert choose_batch(durations_s, BatchLimits()) == [0, 2, 4]
    assert choose_batch(durations_s, BatchLimits(max_seconds=21)) == [0, 4]


def test_equal_utterances_fill_a_batch_in_their_order() -> None:
    assert choose_batch([5.0] * 40, BatchLimits(max_count=8)) == list(range(8))
    assert choose_batch([5.0] * 40, BatchLimits(max_count=32, max_seconds=20)) == [0, 1, 2, 3]


def test_short_ones_share_a_step_at_any_length() -> None:
    assert choose_batch([0.1, 0.9, 0.4], BatchLimits()) == [0, 1, 2]


def test_one_that_is_too_long_goes_alone() -> None:
    assert choose_batch([500.0, 500.0, 1.0], BatchLimits()) == [0]


def test_limits_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="max_count must be at least 1"):
        BatchLimits(max_count=0)
