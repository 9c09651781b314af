"""Edges of words moved by what a model is systematically early or late.

CTC only asks for labels in the right order: a model gives a word's first letter somewhat after the word begins, and its
last one before it ends or after, by about as much in every word. The median over words whose edges are known takes that
away.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jasper_ray.decoding.alignment import WordSpan


@dataclass(frozen=True)
class Shift:
    """Seconds that are added to beginnings and ends of words."""

    start_s: float = 0.0
    end_s: float = 0.0


def fit_shift(found: Sequence[WordSpan], edges_s: Sequence[tuple[float, float]]) -> Shift:
    """The shift that leaves as many words early as late.

    Args:
        found: Words as a model gives them.
        edges_s: Where each of them really begins and ends.

    Raises:
        ValueError: There are no words, or more of one than of the other.
    """
    if not found or len(found) != len(edges_s):
        raise ValueError(f"{len(found)} words and {len(edges_s)} known edges: a fit needs one for each, and some")
    pairs = list(zip(found, edges_s, strict=True))
    return Shift(
        statistics.median(start_s - word.start_s for word, (start_s, _) in pairs),
        statistics.median(end_s - word.end_s for word, (_, end_s) in pairs),
    )


def shifted(
    words: Sequence[WordSpan], shift: Shift, *, begin_s: float = 0.0, end_s: float = float("inf")
) -> list[WordSpan]:
    """Words with moved edges, in order and not overlapping: neighbours that would overlap meet halfway.

    Args:
        words: In order and not overlapping.
        shift: What is added.
        begin_s: No word begins before this; kept as far as the first word's middle allows.
        end_s: No word ends after this, unless it did so before.
    """
    if not words or shift == Shift():
        return list(words)
    # Whatever the shift, an edge stays this side of its word's middle: a word keeps some of its time.
    latest_s = [word.start_s + (word.end_s - word.start_s) / 4 for word in words]
    earliest_s = [word.end_s - (word.end_s - word.start_s) / 4 for word in words]
    starts_s = [min(word.start_s + shift.start_s, limit_s) for word, limit_s in zip(words, latest_s, strict=True)]
    ends_s = [max(word.end_s + shift.end_s, limit_s) for word, limit_s in zip(words, earliest_s, strict=True)]
    for left in range(len(words) - 1):
        if ends_s[left] > starts_s[left + 1]:
            meet_s = (ends_s[left] + starts_s[left + 1]) / 2
            ends_s[left] = starts_s[left + 1] = min(max(meet_s, earliest_s[left]), latest_s[left + 1])
    starts_s[0] = max(starts_s[0], min(begin_s, latest_s[0]))
    ends_s[-1] = min(ends_s[-1], max(end_s, words[-1].end_s))
    moved = zip(words, starts_s, ends_s, strict=True)
    return [replace(word, start_s=start_s, end_s=until_s) for word, start_s, until_s in moved]
