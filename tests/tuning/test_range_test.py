import math
from itertools import pairwise
from pathlib import Path

import pytest
from tones import _train, tone_config

from jasper_ray.config.schema import RunConfig, ScheduleConfig
from jasper_ray.errors import DataError
from jasper_ray.training.schedule import learning_rate
from jasper_ray.training.world import World
from tuning.range_test import RangeConfig, range_figures, range_run, read_curve, write_range_report


def test_the_rate_rises_by_equal_factors_from_the_lowest_to_the_highest() -> None:
    schedule = ScheduleConfig(policy="constant", warmup_epochs=2.5, warmup_shape="exponential", min_lr=1e-4)
    rates = [
        learning_rate(update, peak_lr=1.0, schedule=schedule, steps_per_epoch=8, epochs=3) for update in range(1, 21)
    ]
    assert rates[-1] == 1.0 and rates[0] == pytest.approx(1e-4 * 1e4 ** (1 / 20))
    assert [b / a for a, b in pairwise(rates)] == pytest.approx([1e4 ** (1 / 20)] * 19)


def test_the_figures_name_where_the_loss_falls_is_lowest_and_has_risen_again() -> None:
    rates = [1e-4 * 1e4 ** (step / 199) for step in range(200)]
    # Falls around 1e-2, is lowest near 0.1, rises after that.
    curve = [(lr, 5 / (1 + (lr / 1e-2) ** 2) + 1 + 20 * max(0.0, math.log10(lr / 0.1))) for lr in rates]
    found = range_figures(curve)
    assert 4e-3 < found.steepest_lr < 4e-2 and 0.05 < found.lowest_lr < 0.25
    assert found.blown_up_lr is not None and found.blown_up_lr > found.lowest_lr
    assert range_figures(curve[:120]).blown_up_lr is None


def test_too_few_losses_are_refused() -> None:
    with pytest.raises(DataError, match="only 3 steps had a finite loss"):
        range_figures([(0.1, 1.0)] * 3)


def test_a_run_of_the_test_gives_a_curve_of_all_its_steps_and_a_page(tones: Path, tmp_path: Path) -> None:
    config = range_run(tone_config(tones, tmp_path), RangeConfig(steps=30), steps_per_epoch=4)
    assert RunConfig.model_validate(config.model_dump()) == config
    _train(config, World())
    curve = read_curve(config.output)
    assert len(curve) == 30 and curve[-1][0] == pytest.approx(1.0)
    report = write_range_report(config, curve)
    assert "steepest" in Path(report["report"]).read_text()
