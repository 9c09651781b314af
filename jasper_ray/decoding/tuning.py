"""How much language models should count: word error rate over a grid of weights, from stored log-probabilities."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jasper_ray.decoding.beam import Hypothesis
from jasper_ray.decoding.decoder import BeamSearch
from jasper_ray.decoding.rescoring import ranked
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


@dataclass(frozen=True)
class RescoringPoint:
    """Weights of a ranking by a neural model and what they gave."""

    rescoring_weight: float
    rescoring_lm_weight: float
    errors: ErrorCounts


def measure_rescoring(
    utterances: Sequence[Sequence[Hypothesis]],
    neural: Mapping[str, float],
    references: Sequence[str],
    *,
    lm_weight: float,
    rescoring_weights: Sequence[float],
    rescoring_lm_weights: Sequence[float],
) -> list[RescoringPoint]:
    """Rank the hypotheses of every utterance with each pair of weights.

    Args:
        utterances: What a search found for each development utterance.
        neural: Natural log of the probability of every text among them by the neural model.
        references: Transcripts of the utterances.
        lm_weight: Weight of the n-grams in that search.
        rescoring_weights: Of the neural model, to try.
        rescoring_lm_weights: Of the n-grams, to try with each of them.
    """
    points = []
    for weight in rescoring_weights:
        for of_ngrams in rescoring_lm_weights:
            best = [
                ranked(
                    hypotheses,
                    [neural[one.text] for one in hypotheses],
                    lm_weight=lm_weight,
                    rescoring_weight=weight,
                    rescoring_lm_weight=of_ngrams,
                )[0].text
                for hypotheses in utterances
            ]
            points.append(RescoringPoint(weight, of_ngrams, count_errors(references, best)))
    return points


def best_rescoring(points: Sequence[RescoringPoint]) -> RescoringPoint:
    """The fewest word errors, then the fewest character errors, then the smallest weight of the neural model."""
    return min(
        points, key=lambda point: (point.errors.word_edits, point.errors.character_edits, point.rescoring_weight)
    )


def oracle_errors(utterances: Sequence[Sequence[Hypothesis]], references: Sequence[str]) -> ErrorCounts:
    """Errors if the best of each utterance's hypotheses were always chosen: what no ranking can beat."""
    total = ErrorCounts()
    for hypotheses, reference in zip(utterances, references, strict=True):
        total += min(
            (count_errors([reference], [one.text]) for one in hypotheses),
            key=lambda errors: (errors.word_edits, errors.character_edits),
        )
    return total


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
