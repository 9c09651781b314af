import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.confidence import Calibration
from jasper_ray.decoding.word_times import Shift, fit_shift, shifted

SHIFTS_S = st.floats(-0.5, 0.5)


@st.composite
def word_rows(draw: st.DrawFn) -> list[WordSpan]:
    """Words in order, of one frame of 20 ms or more, some of them without a pause between."""
    words, frame = [], draw(st.integers(0, 20))
    for _ in range(draw(st.integers(0, 6))):
        length = draw(st.integers(1, 30))
        words.append(WordSpan("a", 0.02 * frame, 0.02 * (frame + length), 0.5))
        frame += length + draw(st.integers(0, 10))
    return words


def test_a_fit_takes_away_what_is_systematic() -> None:
    edges_s = [(0.5 * number, 0.5 * number + 0.3) for number in range(1, 6)]
    late = [WordSpan("a", start_s + 0.06, end_s - 0.09, 1.0) for start_s, end_s in edges_s]
    shift = fit_shift(late, edges_s)

    assert [shift.start_s, shift.end_s] == pytest.approx([-0.06, 0.09])
    found_s = [edge_s for word in shifted(late, shift) for edge_s in (word.start_s, word.end_s)]
    assert found_s == pytest.approx([edge_s for pair in edges_s for edge_s in pair])


def test_a_fit_needs_an_edge_for_each_word() -> None:
    with pytest.raises(ValueError, match="0 words"):
        fit_shift([], [])
    with pytest.raises(ValueError, match="1 words and 0 known edges"):
        fit_shift([WordSpan("a", 0, 1, 1.0)], [])


@given(word_rows(), SHIFTS_S, SHIFTS_S)
def test_words_stay_in_order_whatever_the_shift(words: list[WordSpan], start_s: float, end_s: float) -> None:
    duration_s = max((word.end_s for word in words), default=0.0)
    moved = shifted(words, Shift(start_s, end_s), end_s=duration_s)

    assert [word.word for word in moved] == [word.word for word in words]
    before_s = 0.0
    for word in moved:
        assert before_s - 1e-9 <= word.start_s < word.end_s <= duration_s + 1e-9
        before_s = word.end_s


def test_neighbours_that_would_overlap_meet_halfway() -> None:
    words = [WordSpan("a", 0.2, 0.4, 1.0), WordSpan("b", 0.44, 0.8, 1.0)]
    first, second = shifted(words, Shift(-0.04, 0.04))

    assert first.end_s == second.start_s == pytest.approx(0.42)
    assert [first.start_s, second.end_s] == pytest.approx([0.16, 0.84])


def test_a_calibration_without_figures_changes_nothing() -> None:
    words = [WordSpan("a", 0.2, 0.4, 0.7, 0.1)]
    assert Calibration().apply(words) == words


def test_a_calibration_moves_words_within_the_audio() -> None:
    (moved,) = Calibration(start_shift_s=-0.1, end_shift_s=0.1).apply([WordSpan("a", 0.05, 0.4, 0.7)], end_s=0.45)
    assert (moved.start_s, moved.end_s, moved.confidence) == (0.0, 0.45, 0.7)
    (open_end,) = Calibration(end_shift_s=0.1).apply([WordSpan("a", 0.05, 0.4, 0.7)])
    assert math.isclose(open_end.end_s, 0.5)
