import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import ToneTranscriber, tones

from serve.segmenter import Segment, Segmenter, SegmentRules

RULES = SegmentRules(0.8, 10.0)


def cut_up(samples: np.ndarray, rules: SegmentRules = RULES, piece: int = 3200) -> list[Segment]:
    segmenter = Segmenter(16000, rules)
    segments = []
    for start in range(0, len(samples), piece):
        segments += segmenter.feed(samples[start : start + piece])
    last = segmenter.cut()
    return [*segments, last] if last else segments


def said(segment: Segment) -> str:
    return ToneTranscriber().transcribe([segment.waveform])[0].text


def test_an_utterance_ends_in_the_middle_of_a_pause() -> None:
    samples = tones(["one", "two", 0.9, "three", 0.3, "four"])  # a longer pause is left out in part
    first, second = cut_up(samples)
    assert (said(first), said(second)) == ("one two", "three four")
    assert first.at_pause and not second.at_pause
    assert first.start_s == 0 and second.start_s == pytest.approx(len(first.waveform) / 16000)
    np.testing.assert_array_equal(np.concatenate([first.waveform, second.waveform]), samples)


def test_silence_is_left_out_and_times_stay() -> None:
    segmenter = Segmenter(16000, RULES)
    assert segmenter.feed(tones([60.0])) == []
    assert segmenter.held_s <= 1.1
    (segment, *_) = segmenter.feed(tones(["five", 1.0]))
    assert said(segment) == "five" and 58 < segment.start_s < 60.6


def test_speech_without_a_pause_is_cut_between_words_before_it_is_too_long() -> None:
    words = [["one", "two", "three"][number % 3] for number in range(60)]
    segments = cut_up(tones(words))
    assert len(segments) > 3 and all(len(segment.waveform) <= 10 * 16000 for segment in segments)
    assert " ".join(said(segment) for segment in segments).split() == words


def test_without_pauses_nothing_is_cut_or_left_out_before_the_limit() -> None:
    (segment,) = cut_up(tones([3.0, "one", 3.0]), SegmentRules(None, 10.0))
    assert len(segment.waveform) == len(tones([3.0, "one", 3.0]))


def test_a_louder_background_is_learnt() -> None:
    noise = np.random.default_rng(1).normal(scale=0.01, size=16000 * 40).astype(np.float32)
    loud = tones(["one", 1.5, "two", 1.5]) + noise[: len(tones(["one", 1.5, "two", 1.5]))]
    segments = cut_up(np.concatenate([tones([1.0]), noise, loud]))
    assert [said(segment) for segment in segments if said(segment)] == ["one", "two"]


@given(
    st.lists(st.one_of(st.sampled_from(["one", "seven"]), st.floats(0, 2)), max_size=12),
    st.lists(st.integers(1, 20_000), min_size=1, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_cuts_do_not_depend_on_the_pieces_in_which_samples_arrive(words: list[str | float], sizes: list[int]) -> None:
    samples = tones(words)
    whole = cut_up(samples, piece=len(samples))
    segmenter, place, number, pieces = Segmenter(16000, RULES), 0, 0, []
    while place < len(samples):
        size = sizes[number % len(sizes)]
        pieces += segmenter.feed(samples[place : place + size])
        place, number = place + size, number + 1
    last = segmenter.cut()
    pieces += [last] if last else []
    assert [(one.start_s, len(one.waveform), one.has_speech) for one in pieces] == [
        (one.start_s, len(one.waveform), one.has_speech) for one in whole
    ]


@pytest.mark.parametrize("rules", [(0.05, 10.0), (0.5, 0.5)])
def test_rules_that_cut_all_the_time_are_refused(rules: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="at least"):
        SegmentRules(*rules)
