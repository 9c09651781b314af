"""A sweep's figures for Prometheus."""

import math
import time
from collections.abc import Callable

from jasper_ray.observe.metrics import Sink
from tuning.records import Records, TrialRecord

STATUSES = ("running", "lost", "finished", "stopped", "diverged", "failed")


class SweepMetrics:
    """Hears every change of a sweep.

    Args:
        sink: Takes the figures.
        sweep: Its name.
        now_s: Seconds since 1970.
    """

    def __init__(self, sink: Sink, *, sweep: str, now_s: Callable[[], float] = time.time) -> None:
        self._sink, self._sweep, self._now_s = sink, {"sweep": sweep}, now_s
        sink.record("jasper_tune_running", 1, self._sweep)

    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        """Take a change."""
        for status in STATUSES:
            number = sum(record.status == status for record in records)
            self._sink.record("jasper_tune_trials", number, {**self._sweep, "status": status})
        best = min((record.best_wer for record in records), default=math.inf)
        if math.isfinite(best):
            self._sink.record("jasper_tune_best_wer_ratio", best, self._sweep)
        if kind == "evaluation" and changed.evaluations:
            trial = {**self._sweep, "trial": str(changed.number)}
            self._sink.record("jasper_tune_trial_wer_ratio", changed.evaluations[-1].wer, trial)
        self._sink.record("jasper_tune_last_event_timestamp_seconds", self._now_s(), self._sweep)

    def end(self) -> None:
        """The sweep is over."""
        self._sink.record("jasper_tune_running", 0, self._sweep)
