import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jasper_ray.decoding.alignment import align_words
from jasper_ray.decoding.timing import greedy_words
from jasper_ray.model.ctc import greedy_decode
from jasper_ray.text.alphabet import Alphabet

ALPHABET = Alphabet(" abc")
BLANK = 4


def path_log_probs(path: list[int], probability: float = 0.8) -> torch.Tensor:
    probabilities = torch.full((len(path), 5), (1 - probability) / 4)
    probabilities[range(len(path)), path] = probability
    return probabilities.log()


def test_words_begin_and_end_with_their_letters() -> None:
    path = [BLANK, BLANK, 1, 1, BLANK, 2, 0, BLANK, 3, BLANK]
    log_probs = path_log_probs(path)[None]
    (words,) = greedy_words(log_probs, torch.tensor([10]), ALPHABET, frame_s=0.02)
    assert [(word.word, word.start_s, word.end_s) for word in words] == [
        ("ab", pytest.approx(0.04), pytest.approx(0.12)),
        ("c", pytest.approx(0.16), pytest.approx(0.18)),
    ]
    assert [word.confidence for word in words] == [pytest.approx(0.8), pytest.approx(0.8)]


def test_padding_says_nothing_and_silence_has_no_words() -> None:
    batch = torch.stack([path_log_probs([1, 1, 2, 2]), path_log_probs([BLANK] * 4)])
    first, second = greedy_words(batch, torch.tensor([2, 4]), ALPHABET, frame_s=0.02)
    assert [word.word for word in first] == ["a"] and second == []
    assert greedy_words(batch, torch.tensor([0, 0]), ALPHABET, frame_s=0.02) == [[], []]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_the_words_are_those_of_greedy_decoding_and_of_the_best_alignment(path: list[int]) -> None:
    log_probs = path_log_probs(path, probability=0.9)
    lengths = torch.tensor([len(path)])
    (words,) = greedy_words(log_probs[None], lengths, ALPHABET, frame_s=1.0)
    (ids,) = greedy_decode(log_probs[None], lengths, blank=BLANK)
    text = ALPHABET.decode(ids)
    assert [word.word for word in words] == text.split()
    aligned = align_words(log_probs.numpy(), text, ids, blank=BLANK, frame_s=1.0)
    assert [(word.word, word.start_s, word.end_s) for word in words] == [
        (word.word, word.start_s, word.end_s) for word in aligned
    ]
    assert np.allclose([word.confidence for word in words], [word.confidence for word in aligned], atol=1e-5)
