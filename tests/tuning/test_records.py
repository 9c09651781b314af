from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sweeps import keep, trial

from jasper_ray.errors import DataError
from tuning.records import Evaluation, Records, write_results


def test_records_come_back_from_their_folder_as_they_were(tmp_path: Path) -> None:
    kept = keep(
        tmp_path, trial(0, {"optimizer.lr": 0.1}, [0.5, 0.4]), trial(1, {"accumulation": 2}, [], "diverged", "x")
    )
    again = Records(str(tmp_path))
    again.load()
    assert list(again) == list(kept) and len(again) == 2


def test_an_evaluation_of_the_same_step_counts_once() -> None:
    record = trial(0, {}, [0.5, 0.4])
    again = record.with_evaluation(Evaluation(2, 20, 0.4, 2.0, 9.0))
    assert [item.step for item in again.evaluations] == [10, 20]


def test_the_best_evaluation_is_the_first_of_equals_because_its_bundle_is_the_one_that_is_kept() -> None:
    best = trial(0, {}, [0.5, 0.4, 0.4]).best
    assert best is not None and best.epoch == 2


def test_a_failed_trial_is_not_the_best_one(tmp_path: Path) -> None:
    records = keep(tmp_path, trial(0, {}, [0.1], "failed"), trial(1, {}, [0.3], "stopped"), trial(2, {}, [0.2]))
    assert records.best is not None and records.best.number == 2


def test_results_have_a_row_per_trial_with_settings_and_curve(tmp_path: Path) -> None:
    mixed = [trial(0, {"a": 1, "b": "x"}, [0.5, 0.4]), trial(1, {"a": 0.5, "b": True}, [], "diverged", "nan")]
    rows = pq.read_table(write_results(keep(tmp_path, *mixed))).to_pylist()
    assert [row["a"] for row in rows] == [1.0, 0.5] and [row["b"] for row in rows] == ["x", "True"]
    assert rows[0]["wer"] == 0.4 and rows[0]["epochs"] == 2 and rows[0]["training_seconds"] == 120
    assert [point["wer"] for point in rows[0]["curve"]] == [0.5, 0.4]
    assert rows[1]["status"] == "diverged" and rows[1]["error"] == "nan" and rows[1]["wer"] is None


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    keep(tmp_path, trial(0, {}, []))
    (tmp_path / "trials" / "0000" / "record.json").write_text("{")
    with pytest.raises(DataError, match=r"trials/0000/record.json is not the record of a trial"):
        Records(str(tmp_path)).load()
