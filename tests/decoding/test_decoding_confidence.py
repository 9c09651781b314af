from pathlib import Path

import numpy as np
import pytest

from jasper_ray.decoding.alignment import WordSpan, frame_entropies
from jasper_ray.decoding.confidence import (
    correct_words,
    fit_calibration,
    read_calibrations,
    reliability,
    write_calibration,
)
from jasper_ray.errors import DataError


def sure_of_themselves(count: int, seed: int) -> tuple[list[WordSpan], list[bool]]:
    """Words that are right far less often than they say."""
    rng = np.random.default_rng(seed)
    probabilities, entropies = rng.uniform(0.05, 0.95, count), rng.uniform(0, 0.5, count)
    right = rng.uniform(size=count) < np.clip(probabilities - entropies / 2, 0.02, 1)
    sharpened = probabilities**0.25
    words = [WordSpan("x", 0, 1, float(c), float(h)) for c, h in zip(sharpened, entropies, strict=True)]
    return words, right.tolist()


def test_a_fit_makes_confidences_probabilities_on_words_that_it_has_not_seen() -> None:
    words, right = sure_of_themselves(4000, seed=0)
    calibration = fit_calibration(words, right)
    fresh, truth = sure_of_themselves(4000, seed=1)
    before = reliability([word.confidence for word in fresh], truth)
    after = reliability([word.confidence for word in calibration.apply(fresh)], truth)
    assert before.error > 0.2 and after.error < 0.04


def test_confidences_that_are_right_have_no_error_and_others_their_distance() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(size=20_000)
    assert reliability(confidences, rng.uniform(size=20_000) < confidences).error < 0.02
    certain = reliability([0.95] * 100, [True] * 60 + [False] * 40)
    assert certain.error == pytest.approx(0.35) and certain.bins[0].num_words == 100
    assert reliability([1.0], [True]).error == 0.0
    assert reliability([], []).num_words == 0


def test_few_words_or_words_all_right_have_a_fit_too() -> None:
    words = [WordSpan("x", 0, 1, 0.6, 0.2)] * 3
    (fitted,) = fit_calibration(words, [True] * 3).apply(words[:1])
    assert 0.6 < fitted.confidence < 1.0
    with pytest.raises(ValueError, match="0 words"):
        fit_calibration([], [])


def test_a_word_is_right_by_the_alignment_of_the_error_rate() -> None:
    assert correct_words("the cat sat down", "a the cat said") == [False, True, True, False]
    assert correct_words("", "a b") == [False, False]
    assert correct_words("a b", "") == []


def test_calibrations_lie_beside_the_weights_by_way_of_decoding(tmp_path: Path) -> None:
    assert read_calibrations(str(tmp_path)) == {}
    first, second = (fit_calibration(*sure_of_themselves(100, seed)) for seed in (0, 1))
    write_calibration(str(tmp_path), "greedy", first)
    write_calibration(str(tmp_path), "beam", second)
    assert read_calibrations(str(tmp_path)) == {"greedy": first, "beam": second}
    (tmp_path / "confidence.json").write_text("{}x")
    with pytest.raises(DataError, match=r"jobs\.calibrate"):
        read_calibrations(str(tmp_path))


def test_entropy_is_none_for_a_certain_frame_and_all_for_a_guess() -> None:
    certain = np.log(np.array([[1 - 3e-12, 1e-12, 1e-12, 1e-12], [0.25] * 4]))
    assert frame_entropies(certain) == pytest.approx([0.0, 1.0], abs=1e-9)
