import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jasper_ray.decoding.alignment import align, align_words
from jasper_ray.model.ctc import greedy_decode
from jasper_ray.text.alphabet import Alphabet

BLANK = 2


def random_log_probs(num_frames: int, num_labels: int, seed: int) -> np.ndarray:
    values = torch.randn(num_frames, num_labels, generator=torch.Generator().manual_seed(seed)) * 2
    return torch.log_softmax(values, dim=1).numpy()


def collapse(path: tuple[int, ...]) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != BLANK]


@settings(max_examples=60, deadline=None)
@given(
    num_frames=st.integers(1, 6), labels=st.lists(st.integers(0, 1), min_size=1, max_size=3), seed=st.integers(0, 999)
)
def test_the_alignment_is_the_best_of_all_paths(num_frames: int, labels: list[int], seed: int) -> None:
    log_probs = random_log_probs(num_frames, 3, seed)
    paths = [path for path in itertools.product(range(3), repeat=num_frames) if collapse(path) == labels]
    if not paths:
        with pytest.raises(ValueError, match="too long"):
            align(log_probs, labels, blank=BLANK)
        return
    best = max(paths, key=lambda path: sum(log_probs[frame, label] for frame, label in enumerate(path)))
    spans = align(log_probs, labels, blank=BLANK)
    found = [BLANK] * num_frames
    for label, span in zip(labels, spans, strict=True):
        found[span.start : span.end] = [label] * (span.end - span.start)
    assert tuple(found) == best


def test_what_greedy_decoding_reads_is_aligned_to_the_frames_it_was_read_from() -> None:
    log_probs = random_log_probs(40, 5, seed=3)
    (labels,) = greedy_decode(torch.from_numpy(log_probs)[None], torch.tensor([40]), blank=4)
    for label, span in zip(labels, align(log_probs, labels, blank=4), strict=True):
        assert (log_probs[span.start : span.end].argmax(axis=1) == label).all()


def test_words_get_times_in_order_inside_the_audio() -> None:
    alphabet = Alphabet(" ab")
    text = "ab a bb"
    log_probs = random_log_probs(30, 4, seed=5)
    words = align_words(log_probs, text, alphabet.encode(text), blank=alphabet.blank, frame_s=0.02)
    assert [word.word for word in words] == ["ab", "a", "bb"]
    edges = [edge for word in words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges)
    assert edges[0] >= 0 and edges[-1] <= 30 * 0.02
    assert all(0 <= word.confidence <= 1 for word in words)


def test_certain_frames_give_certain_words() -> None:
    alphabet = Alphabet(" ab")
    log_probs = np.log(np.full((6, 4), 1e-9))
    for frame, label in enumerate([3, 1, 1, 3, 0, 2]):
        log_probs[frame, label] = 0.0
    first, second = align_words(log_probs, "a b", alphabet.encode("a b"), blank=3, frame_s=0.02)
    assert (first.start_s, first.end_s) == (0.02, 0.06)
    assert (second.start_s, second.end_s) == pytest.approx((0.1, 0.12))
    assert first.confidence == second.confidence == 1.0


def test_no_text_has_no_spans() -> None:
    assert align(random_log_probs(4, 3, 0), [], blank=2) == []


def test_a_text_of_hundreds_of_letters_is_aligned() -> None:
    labels = [number % 2 for number in range(400)]
    path = [label for label in labels for _ in range(2)]
    log_probs = np.log(np.full((len(path), 3), 1e-6))
    log_probs[np.arange(len(path)), path] = 0.0
    spans = align(log_probs, labels, blank=BLANK)
    assert [(span.start, span.end) for span in spans] == [(2 * number, 2 * number + 2) for number in range(400)]
