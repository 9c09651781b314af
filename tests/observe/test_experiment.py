from pathlib import Path

import pytest
from run_events import EVENTS, tell

from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError
from jasper_ray.observe.experiment import MlflowReporter, Shielded, WandbReporter, flat_config, run_id
from jasper_ray.observe.reporters import build_reporters, check_reporters
from jasper_ray.observe.tensorboard import TensorBoardReporter


def config_of(output: Path, **logs: object) -> RunConfig:
    return RunConfig(output=str(output), logs=logs)


def test_mlflow_holds_metrics_and_knobs_and_a_resumed_run_is_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # their server and databases need more packages
    tracking = pytest.importorskip("mlflow.tracking")
    uri = str(tmp_path / "mlruns")
    config = config_of(tmp_path / "run", mlflow_uri=uri, mlflow_experiment="digits")
    for _ in range(2):
        tell(MlflowReporter(config, uri=uri))
    client = tracking.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.epochs"] == "440"
    assert [m.value for m in client.get_metric_history(run.info.run_id, "evaluation/wer")][:2] == [0.5, 0.25]


def test_wandb_keeps_a_run_on_the_disk_when_it_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    reporter = WandbReporter(config_of(tmp_path / "run", wandb_project="p"), project="p")
    tell(reporter, EVENTS[:-1])
    summary = dict(reporter._run.summary)
    assert (summary["evaluation/wer"], summary["train/loader_wait_share"], summary["global_step"]) == (0.25, 0.02, 4)
    assert reporter._run.config["training.epochs"] == 440
    tell(reporter, EVENTS[-1:])
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert written.stat().st_size > 0


def test_every_knob_has_a_flat_name_and_a_run_an_id_of_its_output() -> None:
    flat = flat_config(RunConfig())
    assert flat["training.epochs"] == 440 and flat["training.gradients.compression"] == "none"
    assert run_id(RunConfig(output="a")) == run_id(RunConfig(output="a", seed=3)) != run_id(RunConfig(output="b"))


def test_a_package_that_is_missing_is_named_before_workers_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jasper_ray.observe.reporters.find_spec", lambda name: None)
    for logs, package in (({"wandb_project": "p"}, "wandb"), ({"mlflow_uri": "u"}, "mlflow")):
        with pytest.raises(ConfigError, match=rf"needs the package {package}.*pip install 'jasper-ray\[{package}\]'"):
            check_reporters(config_of(tmp_path, tensorboard=False, **logs))
    with pytest.raises(ConfigError, match=r"logs.tensorboard=false"):
        check_reporters(config_of(tmp_path))
    check_reporters(config_of(tmp_path, tensorboard=False))


def test_reporters_are_those_of_the_config(tmp_path: Path) -> None:
    assert build_reporters(config_of(tmp_path, tensorboard=False)) == []
    board, log = build_reporters(config_of(tmp_path, dllogger=True))
    assert isinstance(board, TensorBoardReporter) and (tmp_path / "nvlog.json").exists() and log is not board


def test_a_server_that_is_away_is_told_of_and_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Away:
        def report(self, kind: str, values: object) -> None:
            raise ConnectionError("refused")

    tell(Shielded(Away(), name="MLflow"), EVENTS[:2])
    assert "MLflow did not take the event 'progress' of step 1: refused" in caplog.text
