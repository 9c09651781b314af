import math
from pathlib import Path
from typing import Any

from sweeps import keep, make_space, trial

from tuning.feed import TrialFeed
from tuning.population import Population
from tuning.records import Records, TrialRecord
from tuning.search import PointSearch, Search
from tuning.settings import PbtConfig

POINTS = [{"optimizer.lr": rate} for rate in (0.1, 0.2, 0.3)]
REPORT = {"kind": "evaluation", "time_s": 5.0, "epoch": 1, "global_step": 10, "wer": 0.5, "loss": 1.0, "num_words": 9}


class Nobody:
    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        pass


def feed(records: Records, search: Search | None = None, room: int = 2, num_trials: float = 3) -> TrialFeed:
    return TrialFeed(
        records,
        search or PointSearch(POINTS),
        settings_of=lambda record: {"run": str(record.number), "parent": record.parent},
        room=lambda: room,
        num_trials=num_trials,
        audience=Nobody(),
    )


def end(feed: TrialFeed, trial_id: str, status: str = "finished", error: str = "") -> None:
    feed.on_trial_result(trial_id, {"kind": "attempt", "time_s": 1.0})
    feed.on_trial_result(trial_id, {"kind": "start", "time_s": 2.0, "num_parameters": 7, "workers": 2})
    feed.on_trial_result(trial_id, REPORT)
    feed.on_trial_complete(trial_id, {"kind": "end", "time_s": 6.0, "status": status, "error": error})


def test_no_more_trials_are_given_out_than_the_cluster_holds(tmp_path: Path) -> None:
    given = feed(keep(tmp_path))
    first: Any = given.suggest("a")
    assert first["run"] == "0" and given.suggest("b") and given.suggest("c") is None
    end(given, "a")
    assert given.suggest("c") and given.running == [1, 2]
    end(given, "b")
    assert given.suggest("d") == "FINISHED"


def test_every_report_is_written_down_at_once(tmp_path: Path) -> None:
    given = feed(keep(tmp_path))
    given.suggest("a")
    end(given, "a", "diverged", "losses were not finite")
    again = Records(str(tmp_path))
    again.load()
    (record,) = again
    assert record.status == "diverged" and record.error == "losses were not finite" and record.has_ended
    assert record.best_wer == 0.5 and record.workers == 2 and record.seconds == 5.0
    assert record.best is not None and record.best.words == 9


def test_after_an_interruption_unfinished_trials_come_first_and_ended_ones_not_at_all(tmp_path: Path) -> None:
    records = keep(tmp_path, trial(0, POINTS[0], [0.5]), trial(1, POINTS[1], [0.4], "running"))
    given = feed(records)
    resumed: Any = given.suggest("a")
    new: Any = given.suggest("b")
    assert (resumed["run"], new["run"]) == ("1", "2") and records.by_number[1].best_wer == 0.4
    end(given, "a")
    assert given.suggest("c") == "FINISHED"


def test_a_trial_that_the_scheduler_stops_keeps_the_evaluation_that_decided(tmp_path: Path) -> None:
    records = keep(tmp_path)
    given = feed(records)
    given.suggest("a")
    given.on_trial_result("a", {"kind": "attempt", "time_s": 1.0})
    given.on_trial_complete("a", REPORT)
    assert records.by_number[0].status == "stopped" and records.by_number[0].best_wer == 0.5


def test_a_lost_trial_says_why_and_is_taken_up_by_the_next_command(tmp_path: Path) -> None:
    records = keep(tmp_path)
    given = feed(records)
    given.suggest("a")
    given.on_trial_result("a", {"kind": "attempt", "time_s": 1.0})
    given.on_trial_result("a", {"kind": "lost", "time_s": 2.0, "error": "worker 1 was lost"})
    given.on_trial_complete("a", None, error=True)
    assert records.by_number[0].status == "lost" and "worker 1 was lost" in records.by_number[0].error
    again: Any = feed(records).suggest("b")
    assert again["run"] == "0" and records.by_number[0].status == "running" and records.by_number[0].error == ""


def test_a_generation_waits_for_the_one_before(tmp_path: Path) -> None:
    space = make_space(optimizer__lr={"loguniform": [0.01, 0.1]})
    people = Population(space, PbtConfig(interval_epochs=2), size=2, epochs=4, seed=0)
    given = feed(keep(tmp_path), people, room=8, num_trials=people.num_points or math.inf)
    assert given.suggest("a") and given.suggest("b") and given.suggest("c") is None
    end(given, "a")
    assert given.suggest("c") is None
    end(given, "b")
    child: Any = given.suggest("c")
    assert child["parent"] in (0, 1)
