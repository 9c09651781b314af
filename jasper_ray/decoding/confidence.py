"""How sure a recogniser is of a word, as a probability that it is right: fitted on development utterances.

What the frames say (mean probability of the letters, entropy of the frames) is too sure of itself or too timid, and
differs from model to model; a logistic regression makes a probability of it. It lies beside the weights of a bundle as
`confidence.json`, by way of decoding, and whoever transcribes applies it. With it go the shifts of word times.

Sources: Guo et al. 2017, "On Calibration of Modern Neural Networks" (reliability, expected calibration error); Laptev
and Ginsburg 2022, "Fast Entropy-Based Methods of Word-Level Confidence Estimation".
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import ValidationError

from jasper_ray.config.strict import StrictModel
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.word_times import Shift, shifted
from jasper_ray.errors import DataError, StorageError
from jasper_ray.storage import object_store
from jasper_ray.text.edits import word_edits

CALIBRATION_FILE = "confidence.json"
NUM_BINS = 10
RIDGE = 1e-2
LEAST = 1e-6
"""Probabilities are kept so far from 0 and 1, whose logits are infinite."""

Method = Literal["greedy", "beam"]


class Calibration(StrictModel):
    """Probability that a word is right: sigmoid(scale * logit(confidence) + entropy_weight * entropy + offset).

    And by how much its edges are moved. As made without arguments it changes nothing.
    """

    scale: float = 1.0
    """Of the log odds of the mean probability of its letters."""
    entropy_weight: float = 0.0
    """Of the mean entropy of its frames."""
    offset: float = 0.0
    """Log odds of a word of which nothing is known."""
    num_words: int = 0
    """Words that it was fitted on."""
    source: str = ""
    """The utterances they come from."""
    start_shift_s: float = 0.0
    """Added to where words begin."""
    end_shift_s: float = 0.0
    """Added to where words end."""
    num_timed_words: int = 0
    """Words with known edges that the shifts were fitted on."""

    def apply(self, words: Iterable[WordSpan], *, begin_s: float = 0.0, end_s: float = float("inf")) -> list[WordSpan]:
        """The words with calibrated confidences, and edges moved within the bounds, see `shifted`."""
        shift = Shift(self.start_shift_s, self.end_shift_s)
        spans = shifted(list(words), shift, begin_s=begin_s, end_s=end_s)
        if (self.scale, self.entropy_weight, self.offset) == (1.0, 0.0, 0.0):
            return spans
        logits = _features(spans) @ np.array([self.scale, self.entropy_weight, self.offset])
        return [replace(span, confidence=_sigmoid(float(logit))) for span, logit in zip(spans, logits, strict=True)]


class _File(StrictModel):
    format_version: Literal[1] = 1
    greedy: Calibration | None = None
    beam: Calibration | None = None


@dataclass(frozen=True)
class Bin:
    """Words of about the same confidence."""

    low: float
    high: float
    num_words: int
    confidence: float
    """Their mean."""
    accuracy: float
    """Share that is right."""


@dataclass(frozen=True)
class Reliability:
    """Confidences beside what they promise."""

    num_words: int
    accuracy: float
    """Share of all words that is right."""
    error: float
    """Expected calibration error: mean distance of confidence and accuracy over the bins, weighted by words."""
    bins: list[Bin]
    """From low to high; without those that are empty."""


def correct_words(reference: str, hypothesis: str) -> list[bool]:
    """Of each word of the hypothesis, whether it is right, by the alignment that the error rate is counted from."""
    return [edit.kind == "equal" for edit in word_edits(reference, hypothesis) for _ in edit.hypothesis]


def reliability(confidences: Sequence[float], correct: Sequence[bool], *, num_bins: int = NUM_BINS) -> Reliability:
    """Confidences in bins of equal width.

    Raises:
        ValueError: There are more of one than of the other.
    """
    if len(confidences) != len(correct):
        raise ValueError(f"{len(confidences)} confidences but {len(correct)} words: each word has one")
    values, right = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=float)
    if not len(values):
        return Reliability(0, 0.0, 0.0, [])
    numbers = np.minimum((values * num_bins).astype(int), num_bins - 1)
    bins = []
    for number in np.unique(numbers):
        members = numbers == number
        low, high = float(number) / num_bins, (float(number) + 1) / num_bins
        bins.append(Bin(low, high, int(members.sum()), float(values[members].mean()), float(right[members].mean())))
    error = sum(one.num_words * abs(one.confidence - one.accuracy) for one in bins) / len(values)
    return Reliability(len(values), float(right.mean()), error, bins)


def fit_calibration(words: Sequence[WordSpan], correct: Sequence[bool], *, source: str = "") -> Calibration:
    """Logistic regression by Newton's method, with a little ridge so that few or separable words have a fit too.

    Args:
        words: Uncalibrated ones of development utterances.
        correct: Which of them are right.
        source: Said in the result.

    Raises:
        ValueError: There are no words, or more of one than of the other.
    """
    if not words or len(words) != len(correct):
        raise ValueError(f"{len(words)} words and {len(correct)} judgements: a fit needs one for each, and some")
    features, right = _features(words), np.asarray(correct, dtype=float)
    weights = np.array([1.0, 0.0, 0.0])
    prior = weights.copy()  # few words: confidences stay as they are
    for _ in range(50):
        probabilities = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (probabilities - right) + RIDGE * (weights - prior)
        curvature = (features * (probabilities * (1 - probabilities))[:, None]).T @ features + RIDGE * np.eye(3)
        step = np.linalg.solve(curvature, gradient)
        length = float(np.abs(step).max())
        weights = weights - step * min(1.0, 2.0 / max(length, 1e-12))
        if length < 1e-8:
            break
    scale, entropy_weight, offset = (float(weight) for weight in weights)
    return Calibration(scale=scale, entropy_weight=entropy_weight, offset=offset, num_words=len(words), source=source)


def read_calibrations(bundle: str) -> dict[Method, Calibration]:
    """Calibrations in a bundle's folder, by way of decoding; none where nobody has fitted any.

    Raises:
        DataError: The file cannot be read as what it should be.
    """
    uri = object_store.join(bundle, CALIBRATION_FILE)
    try:
        if not object_store.exists(uri):
            return {}
        found = _File.model_validate(json.loads(object_store.read_bytes(uri)))
    except (ValidationError, ValueError, StorageError) as error:
        raise DataError(f"{uri} cannot be read: {error}. Write it again with python -m jobs.calibrate") from error
    pairs: tuple[tuple[Method, Calibration | None], ...] = (("greedy", found.greedy), ("beam", found.beam))
    return {method: calibration for method, calibration in pairs if calibration is not None}


def write_calibration(bundle: str, method: Method, calibration: Calibration) -> None:
    """Put a calibration into a bundle's folder, beside that of another way of decoding."""
    both: Mapping[Method, Calibration] = {**read_calibrations(bundle), method: calibration}
    file = _File(greedy=both.get("greedy"), beam=both.get("beam"))
    content = file.model_dump_json(indent=2) + "\n"
    object_store.write_bytes(object_store.join(bundle, CALIBRATION_FILE), content.encode())


def _features(words: Sequence[WordSpan]) -> np.ndarray:
    confidences = np.clip([word.confidence for word in words], LEAST, 1 - LEAST)
    logits = np.log(confidences / (1 - confidences))
    return np.stack([logits, [word.entropy for word in words], np.ones(len(words))], axis=1)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-min(max(value, -30.0), 30.0)))
