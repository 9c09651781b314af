import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import descendants
from tones import CONFIG_FILE, tone_config

from jasper_ray.cluster.trainer import connected_to_ray
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import CapacityError, ConfigError
from tuning.records import Records, TrialRecord
from tuning.runner import run_sweep, sweep_folder
from tuning.settings import SweepConfig
from tuning.spaces import Space

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[2]
QUICK = ("training.epochs=6", "training.evaluate_every_epochs=1", "training.log_utterances=false")
SWEEP_YAML = """
space:
  optimizer.lr: {choice: [0.03, 0.0001, 0.02, 0.00003]}
  accumulation: {choice: [1]}
search: grid
asha: {grace_epochs: 2, reduction_factor: 2}
max_concurrent: 1
"""


class Nobody:
    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[None]:
    with connected_to_ray(num_cpus=2, log_to_driver=False):
        yield


def sweep_of(**values: object) -> SweepConfig:
    rates = {"optimizer.lr": {"choice": [0.02, 0.03]}}
    return SweepConfig.model_validate({"name": "s", "space": rates, "search": "grid", "scheduler": "none", **values})


def swept(config: RunConfig, sweep: SweepConfig) -> Records:
    records = Records(sweep_folder(config, sweep))
    run_sweep(config, sweep, Space(sweep.space, config, source="s.yaml"), records, Nobody())
    return records


def command(tones: Path, output: Path, sweep_file: Path) -> list[str]:
    data = [f"data.train=[{{path: {tones}/train}}]", f"data.evaluation=[{{path: {tones}/evaluation}}]"]
    job = [sys.executable, "-m", "jobs.tune", str(CONFIG_FILE), str(sweep_file)]
    return [*job, *data, f"output={output}", *QUICK, "training.epochs=10", "schedule.hold_epochs=4"]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 600) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.2)


def statuses(folder: Path) -> list[str]:
    records = Records(str(folder))
    records.load()
    return [record.status for record in records]


@pytest.mark.usefixtures("cluster")
def test_a_sweep_of_whole_runs_ends_with_every_trial_evaluated_and_a_bundle_of_each(
    tones: Path, tmp_path: Path
) -> None:
    config = tone_config(tones, tmp_path, *QUICK, "training.epochs=2", "schedule.hold_epochs=0")
    records = swept(config, sweep_of())
    assert [record.status for record in records] == ["finished", "finished"]
    assert [len(record.evaluations) for record in records] == [2, 2]
    assert all((tmp_path / f"sweeps/s/trials/000{n}/bundle/config.json").exists() for n in (0, 1))
    assert all(a.first_step_s and a.built_s and a.started_s < a.built_s for r in records for a in r.attempts)


@pytest.mark.usefixtures("cluster")
def test_what_cannot_work_is_refused_before_anything_is_written(tones: Path, tmp_path: Path) -> None:
    config = tone_config(tones, tmp_path / "out", *QUICK)
    with pytest.raises(CapacityError, match=r"asks for 3 workers of 1 CPU each, the cluster holds 2"):
        swept(tone_config(tones, tmp_path / "out", *QUICK, "cluster.num_workers=3"), sweep_of())
    with pytest.raises(ConfigError, match=r"data.evaluation names no dataset"):
        swept(tone_config(tones, tmp_path / "out", *QUICK, "data.evaluation=[]"), sweep_of())
    with pytest.raises(ConfigError, match=r"budget.gpu_hours=1, but the run has cluster.use_gpu=false"):
        swept(config, sweep_of(budget={"gpu_hours": 1}))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sweep_whose_driver_is_killed_goes_on_and_chooses_what_an_uninterrupted_one_chooses(
    tones: Path, tmp_path: Path
) -> None:
    sweep_file = tmp_path / "s.yaml"
    sweep_file.write_text(SWEEP_YAML)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

    def run(output: str) -> None:
        subprocess.run(command(tones, tmp_path / output, sweep_file), check=True, cwd=REPOSITORY, env=environment)

    run("whole")
    job = subprocess.Popen(command(tones, tmp_path / "killed", sweep_file), cwd=REPOSITORY, env=environment)
    folder = tmp_path / "killed" / "sweeps" / "s"
    checkpoints = folder / "trials" / "0002" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("*/CHECKSUMS")), "a checkpoint of the third trial")
    started = descendants(job.pid)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    before = statuses(folder)
    assert before == ["finished", "stopped", "running"]
    ended = [(folder / "trials" / f"000{number}" / "log.jsonl").read_bytes() for number in (0, 1)]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "its processes to end", 120)
    run("killed")
    records = [Records(str(tmp_path / output / "sweeps" / "s")) for output in ("whole", "killed")]
    for known in records:
        known.load()
    whole, killed = ([(r.status, r.params, r.best_wer) for r in known] for known in records)
    assert whole == killed
    assert records[0].best is not None and records[1].best is not None
    assert records[0].best.number == records[1].best.number
    assert [len(record.attempts) for record in records[1]] == [1, 1, 2, 1]
    assert [(folder / "trials" / f"000{number}" / "log.jsonl").read_bytes() for number in (0, 1)] == ended
    events = (folder / "trials" / "0002" / "log.jsonl").read_text()
    assert '"resumed_from": null' not in events  # it went on from its checkpoint
