"""How far an error rate can be trusted: bootstrap over utterances.

Source: Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation".
"""

from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000
CHUNK = 200


@dataclass(frozen=True)
class Interval:
    """A rate and where it lies with 95 % confidence; fractions."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two recognisers on the same utterances."""

    difference: Interval
    """Second rate minus first."""
    p_value: float
    """Probability of a difference at least as large if neither were better (two-sided)."""


def rate_interval(
    edits: np.ndarray, lengths: np.ndarray, *, groups: np.ndarray | None = None, seed: int = 0
) -> Interval:
    """Error rate over all utterances and its 95 % interval.

    Args:
        edits: `(N,)` per utterance.
        lengths: `(N,)` units of the reference.
        groups: `(N,)` ids of speakers: then speakers are drawn and not utterances, whose errors are not independent.
        seed: Of the draws.

    Returns:
        All zero without any reference.
    """
    edits, lengths = _sums(edits, groups), _sums(lengths, groups)
    if lengths.sum() == 0:
        return Interval(0.0, 0.0, 0.0)
    rates = _resampled(edits, lengths, seed)
    low, high = np.quantile(rates, [0.025, 0.975])
    return Interval(float(edits.sum() / lengths.sum()), float(low), float(high))


def compare_rates(
    first: np.ndarray, second: np.ndarray, lengths: np.ndarray, *, groups: np.ndarray | None = None, seed: int = 0
) -> Comparison:
    """Whether the second recogniser's errors differ by more than chance from the first's, on the same utterances.

    Args:
        first: `(N,)` edits of the first.
        second: `(N,)` edits of the second.
        lengths: `(N,)` units of the references.
        groups: As `rate_interval`.
        seed: Of the draws.
    """
    differences, lengths = _sums(np.asarray(second) - np.asarray(first), groups), _sums(lengths, groups)
    if lengths.sum() == 0:
        return Comparison(Interval(0.0, 0.0, 0.0), 1.0)
    observed = float(differences.sum() / lengths.sum())
    resampled = _resampled(differences, lengths, seed)
    low, high = np.quantile(resampled, [0.025, 0.975])
    # Exchanging the two in any utterance changes nothing if neither is better.
    rng = np.random.default_rng(seed + 1)
    larger = 0
    for start in range(0, NUM_RESAMPLES, CHUNK):
        count = min(CHUNK, NUM_RESAMPLES - start)
        signs = rng.integers(0, 2, size=(count, len(differences))) * 2 - 1
        larger += int((np.abs(signs @ differences) >= abs(differences.sum())).sum())
    return Comparison(Interval(observed, float(low), float(high)), (larger + 1) / (NUM_RESAMPLES + 1))


def _sums(values: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    values = np.asarray(values, dtype=np.int64)
    if groups is None:
        return values
    _, inverse = np.unique(groups, return_inverse=True)
    sums: np.ndarray = np.bincount(inverse, weights=values).astype(np.int64)
    return sums


def _resampled(edits: np.ndarray, lengths: np.ndarray, seed: int) -> np.ndarray:
    """Rates of `NUM_RESAMPLES` draws of as many utterances with replacement."""
    rng = np.random.default_rng(seed)
    rates = []
    for start in range(0, NUM_RESAMPLES, CHUNK):
        picks = rng.integers(0, len(edits), size=(min(CHUNK, NUM_RESAMPLES - start), len(edits)))
        rates.append(edits[picks].sum(axis=1) / np.maximum(lengths[picks].sum(axis=1), 1))
    return np.concatenate(rates)
