from pathlib import Path

from figures import Figures

from tuning.records import Evaluation, Records, TrialRecord
from tuning.sweep_metrics import SweepMetrics


def test_a_sweeps_state_is_told(tmp_path: Path) -> None:
    sink = Figures()
    metrics = SweepMetrics(sink, sweep="s", now_s=lambda: 5.0)
    records = Records(str(tmp_path))
    metrics.show(records, TrialRecord(0, {}), "given")
    assert sink.of("jasper_tune_best_wer_ratio", sweep="s") is None
    evaluated = TrialRecord(0, {}).with_evaluation(Evaluation(epoch=1, step=10, wer=0.4, loss=1.0, time_s=1.0))
    for record in (evaluated, TrialRecord(1, {}, status="diverged"), TrialRecord(2, {})):
        records.put(record)
    metrics.show(records, evaluated, "evaluation")
    metrics.end()
    assert sink.of("jasper_tune_trials", sweep="s", status="running") == 2
    assert sink.of("jasper_tune_trials", sweep="s", status="diverged") == 1
    assert sink.of("jasper_tune_best_wer_ratio", sweep="s") == 0.4
    assert sink.of("jasper_tune_trial_wer_ratio", sweep="s", trial="0") == 0.4
    assert sink.of("jasper_tune_last_event_timestamp_seconds", sweep="s") == 5.0
    assert sink.of("jasper_tune_running", sweep="s") == 0
