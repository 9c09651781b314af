import numpy as np
import pytest

from jasper_ray.text.confidence import compare_rates, rate_interval


def drawn(rng: np.random.Generator, rate: float, lengths: np.ndarray) -> np.ndarray:
    return rng.binomial(lengths, rate)


def test_the_interval_holds_the_true_rate_in_95_of_100_tests() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        lengths = rng.integers(5, 25, size=150)
        interval = rate_interval(drawn(rng, 0.1, lengths), lengths, seed=trial)
        held += interval.low <= 0.1 <= interval.high
    assert 0.90 <= held / 200 <= 0.99


def test_speakers_who_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    speakers = np.repeat(np.arange(10), 40)
    lengths = np.full(400, 10)
    edits = drawn(rng, np.repeat(rng.uniform(0, 0.4, size=10), 40), lengths)  # type: ignore[arg-type]
    by_utterance = rate_interval(edits, lengths)
    by_speaker = rate_interval(edits, lengths, groups=speakers)
    assert by_speaker.rate == by_utterance.rate
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


def test_recognisers_that_do_not_differ_are_told_apart_in_1_of_20_tests() -> None:
    rng = np.random.default_rng(2)
    p_values = []
    for trial in range(150):
        lengths = rng.integers(5, 25, size=60)
        first, second = drawn(rng, 0.1, lengths), drawn(rng, 0.1, lengths)
        p_values.append(compare_rates(first, second, lengths, seed=trial).p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.1
    assert 0.4 < np.median(p_values) < 0.6


def test_a_better_recogniser_is_recognised() -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(5, 25, size=500)
    comparison = compare_rates(drawn(rng, 0.12, lengths), drawn(rng, 0.08, lengths), lengths)
    assert comparison.difference.high < 0
    assert comparison.difference.rate == pytest.approx(-0.04, abs=0.015)
    assert comparison.p_value < 0.001


def test_without_references_there_is_no_rate() -> None:
    assert rate_interval(np.array([1]), np.array([0])).high == 0
    assert compare_rates(np.array([1]), np.array([0]), np.array([0])).p_value == 1
