"""Hands trials to Ray Tune, never more at once than the cluster holds, and writes down what becomes of them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ray.tune.search import Searcher

from tuning.records import Attempt, Evaluation, Records, TrialRecord
from tuning.search import Search


class Audience(Protocol):
    """Sees the state of the sweep whenever it changes."""

    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        """Show it; `kind` is what has happened to the changed trial."""


class Audiences:
    """Shows every change to several."""

    def __init__(self, audiences: Sequence[Audience]) -> None:
        self._audiences = audiences

    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        """Show it."""
        for audience in self._audiences:
            audience.show(records, changed, kind)


class TrialFeed(Searcher):  # type: ignore[misc]  # Ray has no types
    """A searcher of Ray Tune that knows the sweep's records.

    Trials that a restart finds unfinished come first, with the settings they had.

    Args:
        records: All trials so far.
        search: Where new settings come from.
        settings_of: What `run_trial` is given for a trial.
        room: How many trials the cluster holds now.
        num_trials: How many there may be in all.
        audience: Is shown every change.
    """

    def __init__(
        self,
        records: Records,
        search: Search,
        *,
        settings_of: Callable[[TrialRecord], dict[str, Any]],
        room: Callable[[], int],
        num_trials: float,
        audience: Audience,
    ) -> None:
        super().__init__()
        self._records = records
        self._search = search
        self._settings_of = settings_of
        self._room = room
        self._num_trials = num_trials
        self._audience = audience
        self._numbers: dict[str, int] = {}
        self._given_s: dict[str, float] = {}
        self._waiting = [record.number for record in records if not record.has_ended]
        for record in records:
            search.adopt(record)
            if record.has_ended:
                search.ended(record)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune saves searchers with its experiment, the sweep goes on from its own records."""
        return {}

    @property
    def running(self) -> list[int]:
        """Numbers of the trials that Ray Tune has."""
        return list(self._numbers.values())

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; None while the cluster has no room for it."""
        number = self._waiting[0] if self._waiting else len(self._records)
        if number >= self._num_trials:
            return str(Searcher.FINISHED)
        if len(self._numbers) >= max(1, self._room()):
            return None
        record = self._records.by_number[self._waiting.pop(0)] if self._waiting else self._search.next_trial(number)
        if record is None:  # it waits for others; where none runs they were lost, and only the same command brings them
            return None if self._numbers else str(Searcher.FINISHED)
        record = replace(record, status="running", error="")
        self._numbers[trial_id] = number
        self._given_s[trial_id] = time.time()
        self._keep(record, "given")
        return self._settings_of(record)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Write a trial's report down."""
        record = self._records.by_number[self._numbers[trial_id]]
        kind, time_s = result.get("kind", ""), float(result.get("time_s", time.time()))
        if kind == "attempt":
            # The first attempt counts from when there was room for it: with its process's start.
            started_s = min(self._given_s.pop(trial_id, time_s), time_s)
            record = replace(record, attempts=(*record.attempts, Attempt(started_s)), error="")
        elif kind == "start":
            record = replace(record, num_parameters=result["num_parameters"], workers=result["workers"])
            record = record.with_attempt(built_s=time_s, last_s=time_s)
        elif kind == "progress":
            record = record.with_attempt(first_step_s=time_s, last_s=time_s)
        elif kind == "evaluation":
            record = record.with_evaluation(_evaluation(result)).with_attempt(last_s=time_s)
        elif kind == "end":
            record = record.with_attempt(last_s=time_s)
        elif kind == "lost":
            record = replace(record.with_attempt(last_s=time_s), error=result["error"])
        self._keep(record, kind)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Write down how a trial ended: by itself, by the scheduler, or for want of workers."""
        number = self._numbers.get(trial_id)
        if number is None:
            return
        result = result or {}
        if result.get("kind") not in (None, "end"):
            self.on_trial_result(trial_id, result)  # Ray Tune brings the report that made the scheduler stop it here
        del self._numbers[trial_id]
        record = self._records.by_number[number]
        if error:
            reason = record.error or "the process that looks after it is gone"
            record = replace(
                record, status="lost", error=f"taken up {len(record.attempts)} times, the last time: {reason}"
            )
        elif result.get("kind") == "end":
            record = replace(record, status=result["status"], error=result["error"])
            record = record.with_attempt(last_s=float(result["time_s"]))
        else:
            record = replace(record, status="stopped")
        if record.has_ended:
            self._search.ended(record)
        self._keep(record, "end")

    def save(self, checkpoint_path: str) -> None:
        """Ray Tune expects a file."""
        Path(checkpoint_path).write_bytes(b"")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the records are there."""

    def _keep(self, record: TrialRecord, kind: str) -> None:
        self._records.put(record)
        self._audience.show(self._records, record, kind)


def _evaluation(result: Mapping[str, Any]) -> Evaluation:
    loss = result["loss"]
    finite = loss is not None and math.isfinite(loss)
    return Evaluation(
        epoch=int(result["epoch"]),
        step=int(result["global_step"]),
        wer=float(result["wer"]),
        loss=float(loss) if finite else None,
        time_s=float(result["time_s"]),
        words=int(result.get("num_words", 0)),
    )
