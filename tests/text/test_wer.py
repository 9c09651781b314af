import json
import math
from pathlib import Path

import pytest

from jasper_ray.text.wer import ErrorCounts, count_errors


def test_error_rates_are_nvidias(nvidia_fixtures: Path) -> None:
    for case in json.loads((nvidia_fixtures / "decode_wer.json").read_text())["wer"]:
        counts = count_errors(case["ref"], case["hyp"])
        wer, scores, words = (float(value) for value in case["wer,scores,words"])
        assert (counts.wer, counts.word_edits, counts.words) == (pytest.approx(wer), scores, words), case


def test_substitutions_deletions_and_insertions_each_count_once() -> None:
    counts = count_errors(["a b c d"], ["a x c d e"])
    assert (counts.word_edits, counts.words, counts.wer) == (2, 4, 0.5)


def test_characters_count_spaces() -> None:
    counts = count_errors(["ab cd"], ["abcd"])
    assert (counts.character_edits, counts.characters) == (1, 5)
    assert counts.cer == 0.2


def test_words_heard_in_silence_are_insertions() -> None:
    counts = count_errors(["", "a"], ["b c", "a"])
    assert counts == ErrorCounts(word_edits=2, words=1, character_edits=3, characters=1)


def test_nothing_said_and_nothing_heard_is_no_error() -> None:
    assert count_errors([""], [""]).wer == 0.0
    assert count_errors([], []) == ErrorCounts()
    assert ErrorCounts().cer == 0.0


def test_edits_without_reference_words_are_an_infinite_rate() -> None:
    assert math.isinf(count_errors([""], ["word"]).wer)


def test_counts_of_parts_add_up_to_the_whole() -> None:
    references, hypotheses = ["a b", "c d e", ""], ["a", "c x e", "y"]
    parts = [count_errors([r], [h]) for r, h in zip(references, hypotheses, strict=True)]
    assert sum(parts, ErrorCounts()) == count_errors(references, hypotheses)


def test_a_missing_hypothesis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 references but 1"):
        count_errors(["a", "b"], ["a"])
