from pathlib import Path

import numpy as np
import pytest

from jasper_ray.config.schema import ScheduleConfig
from jasper_ray.training.schedule import learning_rate


def lrs(count: int, schedule: ScheduleConfig, epochs: int, peak_lr: float = 0.01) -> list[float]:
    return [
        learning_rate(update, peak_lr=peak_lr, schedule=schedule, steps_per_epoch=10, epochs=epochs)
        for update in range(1, count + 1)
    ]


def test_exponential_recipe_equals_nvidias_for_every_step(nvidia_fixtures: Path) -> None:
    expected = np.load(nvidia_fixtures / "lr_schedules.npz")["exp_train_sh"]
    schedule = ScheduleConfig(warmup_epochs=2, hold_epochs=140, gamma=0.981)
    np.testing.assert_allclose(lrs(len(expected), schedule, epochs=440), expected, rtol=1e-6)


def test_polynomial_recipe_equals_nvidias_for_every_step(nvidia_fixtures: Path) -> None:
    expected = np.load(nvidia_fixtures / "lr_schedules.npz")["legacy"]
    schedule = ScheduleConfig(policy="polynomial", warmup_epochs=0, hold_epochs=0)
    peak = expected[0] / ((4000 - 1) / 4000) ** 2
    np.testing.assert_allclose(lrs(len(expected), schedule, epochs=400, peak_lr=peak), expected, rtol=1e-6)


def test_warmup_rises_to_the_peak_and_the_hold_stays_there() -> None:
    rates = lrs(30, ScheduleConfig(warmup_epochs=1, hold_epochs=1, gamma=0.5), epochs=3)
    assert rates[:9] == sorted(rates[:9]) and rates[0] < 0.002
    assert rates[9:19] == pytest.approx([0.01] * 10)
    assert rates[29] < 0.01


def test_the_rate_never_falls_below_the_minimum() -> None:
    schedule = ScheduleConfig(policy="polynomial", warmup_epochs=0, hold_epochs=0, min_lr=1e-4)
    assert min(lrs(60, schedule, epochs=5)) == 1e-4


def test_a_cosine_falls_from_the_peak_over_its_half_in_the_middle_to_nothing() -> None:
    schedule = ScheduleConfig(policy="cosine", warmup_epochs=0, hold_epochs=1, min_lr=0)
    rates = lrs(30, schedule, epochs=3)
    assert rates[:10] == pytest.approx([0.01] * 10, rel=1e-2)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[19] == pytest.approx(0.005)
    assert rates[14] == pytest.approx(0.01 * (1 + 2**-0.5) / 2)
    assert rates[29] == pytest.approx(0)
