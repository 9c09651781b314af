"""How much a language model should count: word error rate over a grid of its weights, from stored log-probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jasper_ray.decoding.decoder import BeamSearch
from jasper_ray.text.wer import ErrorCounts, count_errors


@dataclass(frozen=True)
class Point:
    """One setting and what it gave."""

    lm_weight: float
    word_bonus: float
    errors: ErrorCounts


def measure_weights(
    search: BeamSearch,
    utterances: Sequence[np.ndarray],
    references: Sequence[str],
    *,
    lm_weights: Sequence[float],
    word_bonuses: Sequence[float],
    report: Callable[[Point], None],
) -> list[Point]:
    """Decode everything with each pair of weights.

    Args:
        search: With its language model loaded; its own weights are not used.
        utterances: `(T, V)` natural log-probabilities of development utterances.
        references: Their transcripts.
        lm_weights: To try.
        word_bonuses: To try with each of them.
        report: Told every point as it comes.
    """
    points = []
    for lm_weight in lm_weights:
        for word_bonus in word_bonuses:
            found = search.search(utterances, weights=(lm_weight, word_bonus))
            errors = count_errors(references, [hypotheses[0].text for hypotheses in found])
            points.append(Point(lm_weight, word_bonus, errors))
            report(points[-1])
    return points


def best_point(points: Sequence[Point]) -> Point:
    """The fewest word errors, then the fewest character errors, then the smallest weights."""
    return min(
        points,
        key=lambda point: (
            point.errors.word_edits,
            point.errors.character_edits,
            point.lm_weight,
            abs(point.word_bonus),
        ),
    )
