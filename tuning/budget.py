"""How much of its budget a sweep has used, from the records of its trials."""

import time
from collections.abc import Iterable
from typing import Any

from ray.tune import Stopper

from jasper_ray.config.schema import ClusterConfig
from jasper_ray.errors import ConfigError
from tuning.feed import TrialFeed
from tuning.records import Records
from tuning.settings import BudgetConfig


def check_budget(budget: BudgetConfig, cluster: ClusterConfig) -> None:
    """Refuse a budget that nothing would ever count against.

    Raises:
        ConfigError: GPU-hours of a run without GPUs.
    """
    if budget.gpu_hours is not None and not cluster.use_gpu:
        raise ConfigError(
            f"budget.gpu_hours={budget.gpu_hours:g}, but the run has cluster.use_gpu=false and would use none of them: "
            "give budget.hours or budget.trials"
        )


def hours_used(intervals: Iterable[tuple[float, float]]) -> float:
    """Hours in which at least one trial ran; the time between two runs of the sweep does not count.

    Args:
        intervals: Begin and end of every attempt in seconds.
    """
    used_s, end_s = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        used_s += max(0.0, end - max(begin, end_s))
        end_s = max(end, end_s)
    return used_s / 3600


class BudgetStopper(Stopper):  # type: ignore[misc]  # Ray has no types
    """Ends the sweep when its hours are used up; trials that run then could go on under a larger budget.

    Args:
        budget: What there is.
        records: All trials.
        feed: Knows which ones run.
    """

    def __init__(self, budget: BudgetConfig, records: Records, feed: TrialFeed) -> None:
        self._budget = budget
        self._records = records
        self._feed = feed

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Trials are not stopped one by one."""
        return False

    def stop_all(self) -> bool:
        """Whether the budget is used up."""
        if self._budget.hours is None and self._budget.gpu_hours is None:
            return False
        now_s, running = time.time(), set(self._feed.running)
        intervals, gpu_s = [], 0.0
        for record in self._records:
            for attempt in record.attempts:
                is_open = record.number in running and attempt is record.attempts[-1]
                end_s = now_s if is_open else (attempt.last_s or attempt.started_s)
                intervals.append((attempt.started_s, end_s))
                gpu_s += (end_s - attempt.started_s) * record.workers
        hours = self._budget.hours is not None and hours_used(intervals) >= self._budget.hours
        return hours or (self._budget.gpu_hours is not None and gpu_s / 3600 >= self._budget.gpu_hours)
