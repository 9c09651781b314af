import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import descendants
from tones import CONFIG_FILE

from jasper_ray.training.report import read_log
from tuning.records import Records, TrialRecord

pytestmark = [pytest.mark.ray, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]
SWEEP_YAML = """
space:
  optimizer.lr: {choice: [0.0001, 0.03, 0.02, 0.00003]}
search: grid
asha: {grace_epochs: 2, reduction_factor: 2}
max_concurrent: 1
"""
OVERRIDES = ("training.epochs=8", "schedule.hold_epochs=4", "training.evaluate_every_epochs=1")


def command(tones: Path, output: Path, sweep_file: Path) -> list[str]:
    data = [f"data.train=[{{path: {tones}/train}}]", f"data.evaluation=[{{path: {tones}/evaluation}}]"]
    job = [sys.executable, "-m", "jobs.tune", str(CONFIG_FILE), str(sweep_file)]
    return [*job, *data, f"output={output}", *OVERRIDES]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.1)


def read(folder: Path) -> Records:
    records = Records(str(folder / "sweeps" / "s"))
    records.load()
    return records


def outcome(record: TrialRecord) -> tuple[object, ...]:
    return record.status, record.params, [(item.step, item.wer, item.loss) for item in record.evaluations]


def test_a_sweep_whose_driver_is_killed_goes_on_and_chooses_what_an_uninterrupted_one_chooses(
    tones: Path, tmp_path: Path
) -> None:
    sweep_file = tmp_path / "s.yaml"
    sweep_file.write_text(SWEEP_YAML)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

    def run(output: str) -> None:
        subprocess.run(command(tones, tmp_path / output, sweep_file), check=True, cwd=REPOSITORY, env=environment)

    run("whole")
    whole = read(tmp_path / "whole")
    job = subprocess.Popen(command(tones, tmp_path / "killed", sweep_file), cwd=REPOSITORY, env=environment)
    trials = tmp_path / "killed" / "sweeps" / "s" / "trials"
    wait_for(lambda: any((trials / "0002" / "checkpoints").glob("*/CHECKSUMS")), "the third trial's checkpoint", 400)
    started = descendants(job.pid)
    job.send_signal(signal.SIGKILL)
    job.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "its processes to end", 120)
    before = read(tmp_path / "killed")
    assert [record.has_ended for record in before] == [True, True, False]
    logs = [(trials / f"000{number}" / "log.jsonl").read_bytes() for number in (0, 1)]
    run("killed")
    killed = read(tmp_path / "killed")
    assert [outcome(record) for record in killed] == [outcome(record) for record in whole]
    assert {record.status for record in whole} == {"finished", "stopped"}
    assert killed.best is not None and whole.best is not None and killed.best.number == whole.best.number
    assert [killed.by_number[number] for number in (0, 1)] == [before.by_number[number] for number in (0, 1)]
    assert [(trials / f"000{number}" / "log.jsonl").read_bytes() for number in (0, 1)] == logs
    assert [len(record.attempts) for record in killed] == [1, 1, 2, 1]
    starts = [event for event in read_log(str(trials / "0002")) if event["event"] == "start"]
    assert starts[0]["resumed_from"] is None and starts[-1]["resumed_from"]
    best = [tmp_path / name / "sweeps" / "s" / "best" / "bundle" / "model.safetensors" for name in ("whole", "killed")]
    assert best[0].read_bytes() == best[1].read_bytes()
