from hypothesis import given
from hypothesis import strategies as st

from jasper_ray.decoding.alignment import WordSpan
from serve.stable_words import SETTLED_S, StableWords


def spoken(text: str, each_s: float = 0.5) -> list[WordSpan]:
    return [WordSpan(word, n * each_s, (n + 1) * each_s, 0.9) for n, word in enumerate(text.split())]


def texts(words: tuple[WordSpan, ...]) -> str:
    return " ".join(word.word for word in words)


def test_a_word_is_stable_once_two_looks_agree_and_it_lies_back() -> None:
    words = StableWords()
    assert words.look(spoken("one two for"), 1.5) == ()
    assert texts(words.look(spoken("one two four five"), 2.0)) == "one two"
    assert texts(words.look(spoken("one two four five six"), 2.5)) == "four"
    assert (texts(words.stable), texts(words.tail)) == ("one two four", "five six")


def test_what_contradicts_a_stable_word_changes_only_what_follows() -> None:
    words = StableWords()
    words.look(spoken("one two three"), 3.0)
    words.look(spoken("one two three four"), 3.0)
    assert texts(words.stable) == "one two three"
    words.look(spoken("won two three four five"), 3.0)
    assert (texts(words.stable), texts(words.tail)) == ("one two three four", "five")
    assert words.rest(spoken("won two three four five")) is None
    assert texts(words.rest(spoken("one two three four five six")) or ()) == "five six"


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=6), max_size=8))
def test_stable_words_only_grow(looks: list[list[str]]) -> None:
    words, before = StableWords(), ()
    for number, look in enumerate(looks):
        new = words.look(spoken(" ".join(look)), 1 + number * 0.4)
        assert words.stable == before + new
        assert all(word.end_s <= 1 + number * 0.4 - SETTLED_S for word in new)
        before = words.stable
