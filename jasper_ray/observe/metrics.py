"""Figures on their way to Prometheus: who takes them, and how the events of a run become figures."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from jasper_ray.storage.request_counts import request_counts
from jasper_ray.training.report import EventKind

PROGRESS_GAUGES = {
    "loss": "jasper_train_loss",
    "lr": "jasper_train_learning_rate",
    "grad_norm": "jasper_train_gradient_norm",
    "epoch": "jasper_train_epoch",
    "global_step": "jasper_train_step",
    "total_steps": "jasper_train_steps",
    "utterances_per_s": "jasper_train_utterances_per_second",
    "audio_s_per_s": "jasper_train_audio_seconds_per_second",
    "padding_share": "jasper_train_padding_ratio",
}
WORKER_GAUGES = {
    "step_s": "jasper_train_step_seconds",
    "worker_s": "jasper_train_worker_seconds",
    "loader_wait_share": "jasper_train_loader_wait_ratio",
}
EVALUATION_GAUGES = {
    "loss": "jasper_train_evaluation_loss",
    "wer": "jasper_train_wer_ratio",
    "best_wer": "jasper_train_best_wer_ratio",
    "took_s": "jasper_train_evaluation_seconds",
}
SHARD_COUNTERS = {
    "shard_hits": ("jasper_shard_cache_hits_total", 1.0),
    "shard_downloads": ("jasper_shard_downloads_total", 1.0),
    "shard_bytes": ("jasper_shard_download_bytes_total", 1.0),
    "shard_download_ms": ("jasper_shard_download_seconds_total", 0.001),
}
LAST_EVENTS: dict[str, str] = {
    "progress": "jasper_train_last_progress_timestamp_seconds",
    "checkpoint": "jasper_train_last_checkpoint_timestamp_seconds",
}


class Sink(Protocol):
    """Takes figures of the metrics in the catalogue."""

    def record(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """A gauge's value, a counter's increment, or one observation of a histogram."""


class Totals:
    """Counters from totals: what is recorded is what a total has grown by.

    Args:
        sink: Takes the increments.
        labels: Of all of them.
    """

    def __init__(self, sink: Sink, labels: Mapping[str, str]) -> None:
        self._sink, self._labels = sink, labels
        self._seen: dict[str, float] = {}

    def reach(self, name: str, total: float) -> None:
        """The counter stands at `total`; one that fell has begun anew."""
        before = self._seen.get(name, 0.0)
        grown = total - before if total >= before else total
        self._seen[name] = total
        if grown > 0:
            self._sink.record(name, grown, self._labels)


class WorkerMetrics:
    """A reporter of each worker: figures of the run from the first one, its own from every one.

    Args:
        sink: Takes the figures.
        run: Name of the run.
        rank: Of this worker.
        flops_per_audio_s: Arithmetic of a step per second of audio.
        peak_flops_per_s: What the devices of all workers could do; none where that is not known.
    """

    def __init__(
        self, sink: Sink, *, run: str, rank: int, flops_per_audio_s: float, peak_flops_per_s: float | None
    ) -> None:
        self._sink, self._is_first = sink, rank == 0
        self._run = {"run": run}
        self._worker = {"run": run, "rank": str(rank)}
        self._totals = Totals(sink, self._worker)
        self._flops, self._peak = flops_per_audio_s, peak_flops_per_s

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event."""
        if kind == "progress":
            self._set(WORKER_GAUGES, values, self._worker)
            self._count_data(values)
        if not self._is_first:
            return
        if kind == "start":
            self._sink.record("jasper_train_workers", _number(values["workers"]), self._run)
        elif kind == "progress":
            self._progress(values)
        elif kind == "evaluation":
            self._set(EVALUATION_GAUGES, values, self._run)
        elif kind == "checkpoint":
            self._sink.record("jasper_train_checkpoints_total", 1, self._run)
            self._set({"took_s": "jasper_train_checkpoint_seconds"}, values, self._run)

    def _progress(self, values: Mapping[str, object]) -> None:
        self._set(PROGRESS_GAUGES, values, self._run)
        flops_per_s = self._flops * _number(values["audio_s_per_s"])
        self._sink.record("jasper_train_flops_per_second", flops_per_s, self._run)
        if self._peak:
            self._sink.record("jasper_train_flops_utilization_ratio", flops_per_s / self._peak, self._run)
        skipped = _number(values.get("skipped_steps", 0))
        if skipped:
            self._sink.record("jasper_train_skipped_steps_total", skipped, self._run)

    def _count_data(self, values: Mapping[str, object]) -> None:
        for key, (name, factor) in SHARD_COUNTERS.items():
            self._totals.reach(name, factor * _number(values.get(key, 0)))
        counts = request_counts()
        self._totals.reach("jasper_store_requests_total", counts.requests)
        self._totals.reach("jasper_store_request_seconds_total", counts.seconds)
        self._totals.reach("jasper_store_retries_total", counts.retries)
        self._totals.reach("jasper_store_failures_total", counts.failures)

    def _set(self, gauges: Mapping[str, str], values: Mapping[str, object], labels: Mapping[str, str]) -> None:
        for key, name in gauges.items():
            if values.get(key) is not None:
                self._sink.record(name, _number(values[key]), labels)


class DriverMetrics:
    """A reporter in the process that started the run, which outlives its workers: starts, and when it last moved.

    Args:
        sink: Takes the figures.
        run: Name of the run.
        now_s: Seconds since 1970.
    """

    def __init__(self, sink: Sink, *, run: str, now_s: Callable[[], float] = time.time) -> None:
        self._sink, self._labels, self._now_s = sink, {"run": run}, now_s
        self._has_started = False
        sink.record("jasper_train_running", 1, self._labels)
        for event in LAST_EVENTS.values():  # a run that never begins is one without progress
            sink.record(event, now_s(), self._labels)

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event."""
        if kind in LAST_EVENTS:
            self._sink.record(LAST_EVENTS[kind], self._now_s(), self._labels)
        if kind == "start":
            self._sink.record("jasper_train_starts_total", 1, self._labels)
            if self._has_started:
                self._sink.record("jasper_train_restarts_total", 1, self._labels)
            self._has_started = True

    def end(self) -> None:
        """The run is over."""
        self._sink.record("jasper_train_running", 0, self._labels)


def _number(value: object) -> float:
    assert isinstance(value, int | float), value
    return float(value)


class PreparationMetrics:
    """Counts shards as they are done, in the process that hands them out.

    Args:
        sink: Takes the figures.
        dataset: Where it is written.
        now_s: Seconds since 1970.
    """

    def __init__(self, sink: Sink, *, dataset: str, now_s: Callable[[], float] = time.time) -> None:
        self._sink, self._labels, self._now_s = sink, {"dataset": dataset}, now_s
        sink.record("jasper_prepare_running", 1, self._labels)

    def shard_done(self, *, utterances: int, audio_s: float, rejected: int) -> None:
        """One more shard."""
        self._sink.record("jasper_prepare_shards_total", 1, self._labels)
        self._sink.record("jasper_prepare_utterances_total", utterances, self._labels)
        self._sink.record("jasper_prepare_audio_seconds_total", audio_s, self._labels)
        self._sink.record("jasper_prepare_rejected_total", rejected, self._labels)
        self._sink.record("jasper_prepare_last_shard_timestamp_seconds", self._now_s(), self._labels)

    def end(self) -> None:
        """The preparation is over."""
        self._sink.record("jasper_prepare_running", 0, self._labels)
