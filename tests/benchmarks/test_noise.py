import math
import random

import pytest

from jobs.benchmarks.noise import FALSE_ALARMS, centre, changes, noise_limit, student_quantile


@pytest.mark.parametrize(
    ("degrees", "chance", "quantile"),
    # From tables of Student's distribution, two sides.
    [(2, 0.05, 4.303), (4, 0.01, 4.604), (8, 0.05, 2.306), (8, 0.001, 5.041), (30, 0.05, 2.042)],
)
def test_quantiles_are_those_of_the_tables(degrees: int, chance: float, quantile: float) -> None:
    assert student_quantile(degrees, chance) == pytest.approx(quantile, abs=6e-4)


def test_an_odd_number_of_degrees_counts_as_one_less() -> None:
    assert student_quantile(5, 0.01) == student_quantile(4, 0.01)


def passes(rng: random.Random, middle: float, noise: float, count: int = 5) -> list[float]:
    return [middle * math.exp(rng.gauss(0, noise)) for _ in range(count)]


def test_two_equal_runs_are_called_different_no_more_often_than_promised() -> None:
    rng, alarms, runs = random.Random(0), 0, 1500
    for _ in range(runs):
        noise = {f"figure {number}": 0.002 * 3**number for number in range(6)}
        two = [{name: passes(rng, 2.0, spread) for name, spread in noise.items()} for _ in range(2)]
        alarms += any(not change.is_noise for change in changes(*two))
    # Shared out among six figures, so a little below; three standard errors of the count above.
    assert alarms / runs < FALSE_ALARMS + 3 * math.sqrt(FALSE_ALARMS / runs)
    assert alarms > 0


def test_a_loss_of_a_tenth_is_found_behind_a_spread_of_a_hundredth() -> None:
    rng = random.Random(1)
    before, after = {"step": passes(rng, 3.0, 0.01)}, {"step": passes(rng, 2.7, 0.01)}
    (change,) = changes(before, after)
    assert not change.is_noise
    assert change.relative == pytest.approx(-0.1, abs=0.02)


def test_faster_and_slower_by_the_same_factor_are_judged_alike() -> None:
    slow, fast = [1.0, 1.01, 0.99], [1.3, 1.31, 1.29]
    (up,), (down,) = changes({"a": slow}, {"a": fast}), changes({"a": fast}, {"a": slow})
    assert up.limit == pytest.approx(down.limit) and up.is_noise == down.is_noise


def test_the_limit_grows_with_the_spread_and_with_the_number_of_figures() -> None:
    quiet, loud = [1.0, 1.01, 0.99, 1.0], [1.0, 1.1, 0.9, 1.0]
    assert noise_limit(quiet, quiet, 10) < noise_limit(loud, quiet, 10) < noise_limit(loud, loud, 10)
    assert noise_limit(quiet, quiet, 1) < noise_limit(quiet, quiet, 10)


def test_a_figure_that_only_one_run_has_is_not_compared() -> None:
    assert [change.name for change in changes({"a": [1.0, 1.1]}, {"a": [1.0, 1.1], "b": [2.0, 2.1]})] == ["a"]


def test_a_figure_is_the_geometric_mean_of_its_passes() -> None:
    assert centre([1.0, 4.0]) == pytest.approx(2.0)
