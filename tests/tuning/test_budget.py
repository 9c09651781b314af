import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from sweeps import keep, trial

from jasper_ray.config.schema import ClusterConfig
from jasper_ray.errors import ConfigError
from tuning.budget import BudgetStopper, check_budget, hours_used
from tuning.records import Attempt, TrialRecord
from tuning.settings import BudgetConfig


def test_hours_count_once_where_trials_overlap_and_not_between_two_commands() -> None:
    assert hours_used([(0, 3600), (1800, 5400), (100_000, 103_600)]) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"trials": 1}, False),
        ({"hours": 0.9}, True),
        ({"hours": 1.1}, False),
        ({"gpu_hours": 1.9}, True),
        ({"gpu_hours": 2.1}, False),
    ],
)
def test_a_sweep_ends_when_its_hours_or_gpu_hours_are_used_up(
    budget: dict[str, float], expected: bool, tmp_path: Path
) -> None:
    running = TrialRecord(0, {}, attempts=(Attempt(time.time() - 3600),), workers=2)
    feed = SimpleNamespace(running=[0])
    stopper = BudgetStopper(BudgetConfig.model_validate(budget), keep(tmp_path, running), feed)  # type: ignore[arg-type]
    assert stopper.stop_all() is expected and not stopper("0", {})


def test_gpu_hours_need_gpus(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"budget.gpu_hours=3, but the run has cluster.use_gpu=false"):
        check_budget(BudgetConfig(gpu_hours=3), ClusterConfig())
    check_budget(BudgetConfig(gpu_hours=3), ClusterConfig(use_gpu=True))
    assert trial(0, {}, [0.5]).seconds == 70
