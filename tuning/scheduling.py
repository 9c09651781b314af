"""Which trials go on: all of them, or asynchronous successive halving on the word error rate."""

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from jasper_ray.errors import ConfigError
from tuning.records import Evaluation, Records
from tuning.settings import SweepConfig

SATURATED = 0.9
"""From this word error rate on it does not say how far a model has come: no word at all is 1, a lucky one less."""


class Halving(AsyncHyperBandScheduler):  # type: ignore[misc]  # Ray has no types
    """Asynchronous successive halving on the standing of a trial's evaluations."""

    def on_trial_result(self, controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """What becomes of a trial after a report."""
        decision: str = super().on_trial_result(controller, trial, _with_standing(result))
        return decision

    def on_trial_complete(self, controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """A trial has ended."""
        super().on_trial_complete(controller, trial, _with_standing(result))


def standing(wer: float, loss: float | None) -> float:
    """What trials are compared by, lower is better: the word error rate, and while that is saturated the loss.

    Args:
        wer: On data.evaluation.
        loss: There, in nats per utterance; None if it was not finite.
    """
    if wer < SATURATED:
        return wer
    if loss is None or not math.isfinite(loss):
        return SATURATED + 1
    return SATURATED + max(0.0, loss) / (1 + max(0.0, loss))


def _with_standing(result: Mapping[str, Any]) -> dict[str, Any]:
    return {**result, "standing": standing(result["wer"], result.get("loss"))} if "wer" in result else dict(result)


def make_scheduler(sweep: SweepConfig, *, epochs: int, records: Records) -> TrialScheduler:
    """The scheduler that a sweep asks for, as far on as its ended trials have brought it.

    Args:
        sweep: The sweep.
        epochs: Length of each trial.
        records: Trials from before a restart.

    Raises:
        ConfigError: The first rung lies at the end of the run.
    """
    if sweep.scheduler == "none" or sweep.search == "pbt":
        return FIFOScheduler()
    if sweep.asha.grace_epochs >= epochs:
        raise ConfigError(
            f"asha.grace_epochs={sweep.asha.grace_epochs} must be below training.epochs={epochs}: "
            "no trial would be stopped early. Lower it, or take scheduler=none"
        )
    asha = Halving(
        time_attr="epoch",
        metric="standing",
        mode="min",
        # Rungs before the end only: who has come so far also writes its bundle.
        max_t=max(sweep.asha.grace_epochs, epochs - 1),
        grace_period=sweep.asha.grace_epochs,
        reduction_factor=sweep.asha.reduction_factor,
        stop_last_trials=False,
    )
    _repeat(asha, records)
    return asha


def rungs(sweep: SweepConfig, *, epochs: int) -> list[int]:
    """The epochs at which asynchronous successive halving compares trials."""
    rung, found = float(sweep.asha.grace_epochs), []
    if sweep.scheduler == "none" or sweep.search == "pbt":
        return []
    while rung <= epochs - 1:
        found.append(int(rung))
        rung *= sweep.asha.reduction_factor
    return found


def _repeat(scheduler: Any, records: Records) -> None:
    """Tell the scheduler of ended trials in the order in which they were heard of; the others report again."""
    evaluations = [
        (item.time_s, record.number, item) for record in records if record.has_ended for item in record.evaluations
    ]
    stand_ins = {record.number: SimpleNamespace(trial_id=f"before-{record.number}") for record in records}
    known = set()
    for _, number, evaluation in sorted(evaluations, key=lambda item: item[:2]):
        if number not in known:
            known.add(number)
            scheduler.on_trial_add(None, stand_ins[number])
        scheduler.on_trial_result(None, stand_ins[number], _report(evaluation))


def _report(evaluation: Evaluation) -> dict[str, Any]:
    return {"epoch": evaluation.epoch, "wer": evaluation.wer, "loss": evaluation.loss}
