from hypothesis import given
from hypothesis import strategies as st

from jasper_ray.decoding.alignment import WordSpan
from serve.subtitles import MAX_CHARACTERS, MAX_SEGMENT_S, segments_of, srt, vtt


def spoken(*words: tuple[str, float, float]) -> list[WordSpan]:
    return [WordSpan(word, start_s, end_s, 0.5) for word, start_s, end_s in words]


def test_a_pause_ends_a_segment() -> None:
    segments = segments_of(spoken(("a", 0, 1), ("b", 1.5, 2), ("c", 2.7, 3)))
    assert [(one.text, one.start_s, one.end_s) for one in segments] == [("a b", 0, 2), ("c", 2.7, 3)]


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=30), st.floats(0, 1), st.floats(0.02, 3)), max_size=40))
def test_segments_hold_every_word_once_and_stay_readable(steps: list[tuple[str, float, float]]) -> None:
    now, words = 0.0, []
    for word, pause_s, length_s in steps:
        words.append(WordSpan(word, now + pause_s, now + pause_s + length_s, 0.5))
        now += pause_s + length_s
    segments = segments_of(words)
    assert [word for segment in segments for word in segment.words] == words
    for segment in segments:
        assert len(segment.words) == 1 or segment.end_s - segment.start_s <= MAX_SEGMENT_S
        assert len(segment.text) <= MAX_CHARACTERS


def test_clocks_carry_over_an_hour_and_round() -> None:
    segments = segments_of(spoken(("a", 3599.9996, 3661.5)))
    assert srt(segments) == "1\n01:00:00,000 --> 01:01:01,500\na\n\n"
    assert vtt(segments) == "WEBVTT\n\n01:00:00.000 --> 01:01:01.500\na\n\n"


def test_silence_is_an_empty_subtitle() -> None:
    assert srt([]).strip() == "" and vtt([]).strip() == "WEBVTT"
