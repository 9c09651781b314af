import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jasper_ray.text.edits import count_edits, word_edits
from jasper_ray.text.wer import count_errors

texts = st.lists(st.sampled_from(["a", "b", "ab", "c'", "dd"]), max_size=6).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_counts_are_those_of_jiwer(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = (list(texts) for texts in zip(*pairs, strict=True))
    words, characters = (count_edits(references, hypotheses, characters=flag) for flag in (False, True))
    errors = count_errors(references, hypotheses)
    assert (words.edits.sum(), words.lengths.sum()) == (errors.word_edits, errors.words)
    assert (characters.edits.sum(), characters.lengths.sum()) == (errors.character_edits, errors.characters)
    for row, (reference, hypothesis) in enumerate(pairs):
        if reference:
            output = jiwer.process_words(reference, hypothesis)
            assert words.substitutions[row] == output.substitutions
            assert (words.deletions[row], words.insertions[row]) == (output.deletions, output.insertions)


def test_what_became_of_what_is_counted() -> None:
    table = count_edits(["the cat sat", "the dog"], ["the hat sat down", "dog"])
    assert table.substituted == {("cat", "hat"): 1}
    assert table.deleted == {"the": 1}
    assert table.inserted == {"down": 1}
    np.testing.assert_array_equal(table.edits, [2, 1])


def test_an_alignment_holds_every_word_of_both_texts_in_order() -> None:
    edits = word_edits("the cat sat on it", "a the cat at it")
    assert " ".join(word for edit in edits for word in edit.reference) == "the cat sat on it"
    assert " ".join(word for edit in edits for word in edit.hypothesis) == "a the cat at it"
    assert [edit.kind for edit in word_edits("a b", "")] == ["delete"]
    assert word_edits("", "") == []


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 references but 1 hypotheses"):
        count_edits(["a", "b"], ["a"])
