"""Which trials go on: all of them, or asynchronous successive halving on the word error rate."""

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from jasper_ray.errors import ConfigError
from tuning.records import Records
from tuning.settings import SweepConfig


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
    asha = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="wer",
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
        scheduler.on_trial_result(None, stand_ins[number], {"epoch": evaluation.epoch, "wer": evaluation.wer})
