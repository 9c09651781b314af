"""A run's log with NVIDIA's DLLogger keys, so that parsers of their Jasper's `nvlog.json` read ours."""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import StorageError
from jasper_ray.storage import object_store
from jasper_ray.training.report import EventKind, LineFile

FILE = "nvlog.json"
UNITS = {
    "train_lrate": ("lrate", None, ":>3.2e"),
    "train_loss": ("loss", None, ":>7.2f"),
    "train_wer": ("wer", "%", ":>6.2f"),
    "train_throughput": ("utts/s", "samples/s", ":>5.0f"),
    "train_took": ("took", "s", ":>5.2f"),
    "train_avg_loss": ("avg train loss", None, ":>7.2f"),
    "train_avg_throughput": ("avg train utts/s", "samples/s", ":>5.0f"),
    "train_avg_took": ("took", "s", ":>5.2f"),
    "dev_loss": ("  avg dev loss", None, ":>7.2f"),
    "dev_wer": ("  avg dev wer", "%", ":>6.2f"),
    "dev_took": ("took", "s", ":>5.2f"),
    "dev_ema_loss": ("  EMA dev loss", None, ":>7.2f"),
    "dev_ema_wer": ("  EMA dev wer", "%", ":>6.2f"),
    "dev_ema_took": ("took", "s", ":>5.2f"),
}


class DLLoggerFile:
    """Writes `nvlog.json` in the run's folder: lines `DLLL {...}` of types METADATA and LOG, after those of older jobs.

    A line per progress event stands for all steps since the one before; its `train_wer` is that of the last training
    sample. Error rates are in percent, and `dev_ema` is what is deployed where weights are averaged.

    Args:
        config: The run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._averaged = config.training.ema_decay > 0
        self._started_s = time.time()
        uri = object_store.join(config.output, FILE)
        self._file = LineFile(uri, _lines(uri))
        self._sample_wer: float | None = None
        self._epoch: _Epoch | None = None
        self._last_dev: dict[str, Any] = {}
        self._last_average: dict[str, Any] = {}
        for metric, (name, unit, form) in UNITS.items():
            self._write(
                {"type": "METADATA", "metric": metric, "metadata": {"name": name, "unit": unit, "format": form}}
            )
        for name, value in nvidia_arguments(config).items():
            self._log("PARAMETER", {name: value})

    def report(self, kind: EventKind, values: Mapping[str, Any]) -> None:
        """Take one event."""
        if kind == "sample" and values.get("wer") is not None:
            self._sample_wer = 100 * values["wer"]
        elif kind == "progress":
            self._progress(values)
        elif kind == "evaluation":
            self._evaluation(values)
        elif kind == "end":
            self._end_epoch()
            final = {key: value for key, value in self._last_average.items() if key != "train_avg_took"}
            self._log([], {**final, "train_avg_benchmark_epochs_num": 1} if final else {}, put=True)
            self._log([], self._last_dev, put=True)

    def _progress(self, values: Mapping[str, Any]) -> None:
        if self._epoch is None or self._epoch.number != values["epoch"]:
            self._end_epoch()
            self._epoch = _Epoch(values["epoch"])
        self._epoch.add(values)
        data = {
            "train_loss": values["loss"],
            "train_wer": self._sample_wer,
            "train_throughput": values["utterances_per_s"],
            "train_took": values["step_s"],
            "train_lrate": values["lr"],
        }
        known = {key: value for key, value in data.items() if value is not None}
        self._log([values["epoch"], values["step"], values["steps_in_epoch"]], known)

    def _evaluation(self, values: Mapping[str, Any]) -> None:
        deployed = "dev_ema" if self._averaged else "dev"
        sets = {deployed: (values["loss"], values["wer"])}
        if self._averaged and "plain_wer" in values:
            sets = {"dev": (values["plain_loss"], values["plain_wer"]), **sets}
        epoch = self._epoch.number if self._epoch else values["epoch"]
        self._last_dev = {}
        for name, (loss, wer) in sets.items():
            data = {f"{name}_loss": loss, f"{name}_wer": 100 * wer, f"{name}_took": values["took_s"]}
            self._last_dev |= data
            self._log([epoch], data, put=True)

    def _end_epoch(self) -> None:
        if self._epoch is not None:
            self._last_average = self._epoch.averages()
            self._log([self._epoch.number], self._last_average)
            self._epoch = None

    def _log(self, step: str | list[int], data: Mapping[str, Any], *, put: bool = False) -> None:
        if data:
            self._write({"type": "LOG", "step": step, "data": dict(data)}, put=put)

    def _write(self, content: Mapping[str, Any], *, put: bool = False) -> None:
        now_s = time.time()
        when = {
            "timestamp": str(now_s),
            "elapsedtime": str(round(now_s - self._started_s, 6)),
            "datetime": str(datetime.fromtimestamp(now_s)),
        }
        self._file.append("DLLL " + json.dumps({**when, **content}), put=put)


class _Epoch:
    """Sums over an epoch's progress events."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._seconds, self._utterances = 0.0, 0.0
        self._losses: list[float] = []
        self._last_step = 0

    def add(self, values: Mapping[str, Any]) -> None:
        seconds = values["step_s"] * max(1, values["step"] - self._last_step)
        self._last_step = values["step"]
        self._seconds += seconds
        self._utterances += values["utterances_per_s"] * seconds
        self._losses += [] if values["loss"] is None else [values["loss"]]

    def averages(self) -> dict[str, float]:
        figures = {"train_avg_throughput": self._utterances / self._seconds, "train_avg_took": self._seconds}
        if self._losses:
            figures["train_avg_loss"] = sum(self._losses) / len(self._losses)
        return figures


def nvidia_arguments(config: RunConfig) -> dict[str, Any]:
    """The knobs that have a name among the arguments of NVIDIA's train.py (docs/from-nvidia.md)."""
    batching, training, schedule = config.batching, config.training, config.schedule
    workers = config.cluster.max_workers
    return {
        "epochs": training.epochs,
        "warmup_epochs": schedule.warmup_epochs,
        "hold_epochs": schedule.hold_epochs,
        "cudnn_benchmark": training.cudnn_benchmark,
        "amp": training.precision in ("fp16", "bf16"),
        "seed": config.seed,
        "batch_size": batching.utterances_per_microbatch * batching.microbatches_per_step // workers,
        "lr": config.optimizer.lr,
        "min_lr": schedule.min_lr,
        "lr_policy": {"polynomial": "legacy"}.get(schedule.policy, schedule.policy),
        "lr_exp_gamma": schedule.gamma,
        "weight_decay": config.optimizer.weight_decay,
        "grad_accumulation_steps": max(1, batching.microbatches_per_step // workers),
        "optimizer": config.optimizer.name,
        "ema": training.ema_decay,
        "dali_device": config.loader.device if config.loader.backend == "dali" else "none",
        "resume": config.resume != "never",
        "ckpt": config.init_from,
        "save_frequency": config.checkpoint.every_epochs,
        "keep_milestones": list(config.checkpoint.keep_epochs),
        "save_best_from": config.checkpoint.best_from_epoch,
        "eval_frequency": training.evaluate_every_steps,
        "log_frequency": training.log_every_steps,
        "prediction_frequency": training.sample_every_steps,
        "train_manifests": [dataset.path for dataset in config.data.train],
        "val_manifests": [dataset.path for dataset in config.data.evaluation],
        "output_dir": config.output,
    }


def _lines(uri: str) -> list[str]:
    """Of the jobs before this one."""
    try:
        return object_store.read_bytes(uri).decode().splitlines()
    except StorageError:
        return []
