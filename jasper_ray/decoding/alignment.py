"""Where in the audio a text was said: the best CTC alignment of a given transcript.

Source: Graves et al. 2006; Viterbi's recursion over the transcript with blanks between its labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jasper_ray.model.ctc import required_frames


@dataclass(frozen=True)
class Span:
    """Frames of one label: the first and the one behind the last, and the mean probability of the label in them."""

    start: int
    end: int
    probability: float


@dataclass(frozen=True)
class WordSpan:
    """A word and where it was said."""

    word: str
    start_s: float
    end_s: float
    confidence: float
    """Geometric mean of the probabilities of its labels, from 0 to 1; calibrated, the probability that it is right."""
    entropy: float = 0.0
    """Mean entropy of its frames as a share of the largest there is: 0 certain, 1 guessing."""


def align(log_probs: np.ndarray, labels: Sequence[int], *, blank: int) -> list[Span]:
    """The most probable alignment of a label sequence.

    Args:
        log_probs: `(T, V)` natural log-probabilities of an utterance's frames, without padding.
        labels: Label ids of the transcript.
        blank: Index of the CTC blank.

    Returns:
        A span per label, in order, not overlapping. Ties go to the later start.

    Raises:
        ValueError: The labels need more frames than there are.
    """
    num_frames = len(log_probs)
    if required_frames(labels) > num_frames:
        raise ValueError(
            f"{len(labels)} labels need {required_frames(labels)} frames, there are {num_frames}: the text is too long"
        )
    if not labels:
        return []
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    steps = _best_steps(log_probs[:, states].astype(np.float64), _may_skip(states))
    return _spans(log_probs, labels, _path(*steps))


def align_words(
    log_probs: np.ndarray, text: str, labels: Sequence[int], *, blank: int, frame_s: float
) -> list[WordSpan]:
    """When each word of a transcript was said.

    Args:
        log_probs: As `align`.
        text: The transcript, words separated by single spaces.
        labels: Its label ids, one per character.
        blank: Index of the CTC blank.
        frame_s: Seconds per frame.

    Raises:
        ValueError: As `align`; or text and labels differ in length.
    """
    if len(text) != len(labels):
        raise ValueError(f"{len(text)} characters but {len(labels)} labels: each character has one")
    spans = align(log_probs, labels, blank=blank)
    entropies = frame_entropies(log_probs)
    words, position = [], 0
    for word in text.split(" "):
        part = spans[position : position + len(word)]
        position += len(word) + 1
        if part:
            confidence = float(np.exp(np.mean(np.log([max(span.probability, 1e-10) for span in part]))))
            start, end = part[0].start, part[-1].end
            entropy = float(entropies[start:end].mean())
            words.append(WordSpan(word, start * frame_s, end * frame_s, confidence, entropy))
    return words


def frame_entropies(log_probs: np.ndarray) -> np.ndarray:
    """`(T,)` entropy of each frame as a share of the largest there is: 0 certain, 1 guessing."""
    entropies: np.ndarray = -(np.exp(log_probs) * np.maximum(log_probs, -1e4)).sum(axis=1)
    return entropies / math.log(max(log_probs.shape[1], 2))


def _may_skip(states: np.ndarray) -> np.ndarray:
    """`(S,)` whether a state may follow the one two before it: labels that differ need no blank between them."""
    skip = np.zeros(len(states), dtype=bool)
    skip[3::2] = states[3::2] != states[1:-2:2]
    return skip


def _best_steps(scores: np.ndarray, may_skip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many states each frame's state lies behind the best one before it, `(T, S)`, and the last frame's scores."""
    best = np.full(scores.shape[1], -np.inf)
    best[:2] = scores[0, :2]
    steps = np.zeros(scores.shape, dtype=np.int8)
    for frame in range(1, len(scores)):
        candidates = np.full((3, len(best)), -np.inf)
        candidates[0] = best
        candidates[1, 1:] = best[:-1]
        candidates[2, 2:] = np.where(may_skip[2:], best[:-2], -np.inf)
        steps[frame] = candidates.argmax(axis=0)
        best = candidates.max(axis=0) + scores[frame]
    return steps, best


def _path(steps: np.ndarray, last: np.ndarray) -> np.ndarray:
    """`(T,)` state of each frame."""
    state = len(last) - 1 if last[-1] > last[-2] else len(last) - 2
    path = np.zeros(len(steps), dtype=np.int64)
    for frame in range(len(steps) - 1, -1, -1):
        path[frame] = state
        state -= int(steps[frame, state])  # of int8, in which long texts have no room
    return path


def _spans(log_probs: np.ndarray, labels: Sequence[int], path: np.ndarray) -> list[Span]:
    frames = np.flatnonzero(path % 2)
    positions = path[frames] // 2
    starts = np.searchsorted(positions, np.arange(len(labels)))
    ends = np.searchsorted(positions, np.arange(len(labels)), side="right")
    return [
        Span(
            int(frames[start]),
            int(frames[end - 1]) + 1,
            float(np.exp(log_probs[frames[start:end], label]).mean()),
        )
        for label, start, end in zip(labels, starts, ends, strict=True)
    ]
