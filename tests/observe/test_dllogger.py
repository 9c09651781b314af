import json
from pathlib import Path
from typing import Any

import pytest
from run_events import tell

from jasper_ray.config.schema import RunConfig
from jasper_ray.observe.dllogger import DLLoggerFile


def read(path: Path) -> list[dict[str, Any]]:
    """As NVIDIA's parsers do: `DLLL ` and a JSON object on every line."""
    lines = path.read_text().splitlines()
    assert all(line.startswith("DLLL ") for line in lines)
    return [json.loads(line.removeprefix("DLLL ")) for line in lines]


def logged(path: Path) -> list[tuple[Any, dict[str, Any]]]:
    return [
        (line["step"], line["data"]) for line in read(path) if line["type"] == "LOG" and line["step"] != "PARAMETER"
    ]


def test_the_log_has_nvidias_keys_steps_and_units(tmp_path: Path) -> None:
    tell(DLLoggerFile(RunConfig(output=str(tmp_path))))
    iteration = {"train_loss": 3.0, "train_throughput": 8.0, "train_took": 0.5, "train_lrate": 0.01}
    dev = {"dev_loss": 2.0, "dev_took": 0.25}
    ema = {"dev_ema_loss": 1.5, "dev_ema_took": 0.25}
    average = {"train_avg_throughput": 8.0, "train_avg_took": 1.0}
    second = {key: value for key, value in iteration.items() if key != "train_loss"}
    assert logged(tmp_path / "nvlog.json") == [
        ([1, 1, 2], iteration),
        ([1, 2, 2], {**iteration, "train_loss": 1.0, "train_wer": 50.0}),
        ([1], {**dev, "dev_wer": 60.0}),
        ([1], {**ema, "dev_ema_wer": 50.0}),
        ([1], {**average, "train_avg_loss": 2.0}),
        ([2, 1, 2], {**second, "train_wer": 50.0}),
        ([2, 2, 2], {**iteration, "train_wer": 50.0}),
        ([2], {**dev, "dev_wer": 35.0}),
        ([2], {**ema, "dev_ema_wer": 25.0}),
        ([2], {**average, "train_avg_loss": 3.0}),
        ([], {"train_avg_throughput": 8.0, "train_avg_loss": 3.0, "train_avg_benchmark_epochs_num": 1}),
        ([], {**dev, "dev_wer": 35.0, **ema, "dev_ema_wer": 25.0}),
    ]


def test_its_lines_look_like_those_of_nvidias_own_log(nvidia_fixtures: Path, tmp_path: Path) -> None:
    tell(DLLoggerFile(RunConfig(output=str(tmp_path))))
    theirs, ours = read(nvidia_fixtures / "nvlog_sample.json"), read(tmp_path / "nvlog.json")
    metadata = {line["metric"]: line["metadata"] for line in theirs if line["type"] == "METADATA"}
    for line in ours:
        if line["type"] == "METADATA":
            assert line["metadata"] == metadata[line["metric"]]
    arguments = {key for line in theirs if line.get("step") == "PARAMETER" for key in line["data"]}
    assert {key for line in ours if line.get("step") == "PARAMETER" for key in line["data"]} <= arguments

    def shapes(lines: list[dict[str, Any]]) -> set[tuple[int, frozenset[str]]]:
        steps = (line for line in lines if line["type"] == "LOG" and line["step"] != "PARAMETER")
        return {(len(line["step"]), frozenset(line["data"])) for line in steps}

    known = {key for _, keys in shapes(theirs) for key in keys}
    assert {key for _, keys in shapes(ours) for key in keys} <= known
    assert (3, frozenset({"train_loss", "train_wer", "train_throughput", "train_took", "train_lrate"})) in (
        shapes(ours) & shapes(theirs)
    )


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    for _ in range(2):
        tell(DLLoggerFile(RunConfig(output=str(tmp_path))))
    assert len(logged(tmp_path / "nvlog.json")) == 24


@pytest.mark.parametrize("decay", [0.0, 0.999])
def test_what_is_deployed_is_dev_ema_only_where_weights_are_averaged(tmp_path: Path, decay: float) -> None:
    config = RunConfig(output=str(tmp_path), training={"ema_decay": decay})
    reporter = DLLoggerFile(config)
    reporter.report("evaluation", {"wer": 0.5, "loss": 1.0, "took_s": 1.0, "epoch": 1, "global_step": 2})
    name = "dev_ema" if decay else "dev"
    assert logged(tmp_path / "nvlog.json") == [([1], {f"{name}_loss": 1.0, f"{name}_wer": 50.0, f"{name}_took": 1.0})]
