from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from sweeps import keep, trial

from jasper_ray.errors import ConfigError
from tuning.scheduling import make_scheduler, rungs, standing
from tuning.settings import AshaConfig, SweepConfig

SWEEP = SweepConfig.model_validate({"space": {"optimizer.lr": {"choice": [0.1]}}, "budget": {"trials": 4}})


def test_the_worse_half_stops_at_a_rung_and_nothing_else_does(tmp_path: Path) -> None:
    sweep = SWEEP.model_copy(update={"asha": AshaConfig(grace_epochs=1, reduction_factor=2)})
    scheduler = make_scheduler(sweep, epochs=8, records=keep(tmp_path, trial(0, {}, [0.5, 0.2]), trial(1, {}, [0.6])))
    new = SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, new)
    for report in ({"kind": "attempt"}, {"kind": "progress"}):
        assert scheduler.on_trial_result(None, new, report) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, new, {"epoch": 1, "wer": 0.4}) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, new, {"epoch": 2, "wer": 0.4}) == TrialScheduler.STOP


def test_rungs_lie_before_the_end_of_the_run(tmp_path: Path) -> None:
    assert rungs(SWEEP, epochs=45) == [1, 3, 9, 27]
    assert rungs(SWEEP.model_copy(update={"scheduler": "none"}), epochs=45) == []
    with pytest.raises(ConfigError, match=r"asha.grace_epochs=1 must be below training.epochs=1"):
        make_scheduler(SWEEP, epochs=1, records=keep(tmp_path))


def test_a_population_has_no_other_scheduler(tmp_path: Path) -> None:
    scheduler = make_scheduler(SWEEP.model_copy(update={"search": "pbt"}), epochs=8, records=keep(tmp_path))
    assert type(scheduler) is FIFOScheduler


def test_while_word_error_rates_are_saturated_the_loss_decides(tmp_path: Path) -> None:
    sweep = SWEEP.model_copy(update={"asha": AshaConfig(grace_epochs=1, reduction_factor=2)})
    scheduler = make_scheduler(sweep, epochs=8, records=keep(tmp_path))
    decisions = []
    for number, (wer, loss) in enumerate([(0.95, 19.0), (1.0, 8.0), (0.95, 15.0), (0.89, 30.0), (1.0, None)]):
        trial = SimpleNamespace(trial_id=str(number))
        scheduler.on_trial_add(None, trial)
        decisions.append(scheduler.on_trial_result(None, trial, {"epoch": 1, "wer": wer, "loss": loss}))
    go, stop = TrialScheduler.CONTINUE, TrialScheduler.STOP
    assert decisions == [go, go, stop, go, stop]
    assert standing(0.5, None) == 0.5 < standing(0.9, 0.0) < standing(1.0, 8.0) < standing(0.9, 9.0)
    assert standing(1.2, float("nan")) > standing(1.0, 1e9) > standing(0.899, 1e9)
