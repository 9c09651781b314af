import re
from pathlib import Path

import pytest
from figures import Figures

from jasper_ray.observe.device_peaks import peak_flops_per_s
from jasper_ray.observe.metric_catalogue import BY_NAME, CATALOGUE, metric_table
from jasper_ray.observe.metrics import DriverMetrics, PreparationMetrics, Totals, WorkerMetrics

REPOSITORY = Path(__file__).parents[2]
PROGRESS = {
    "loss": 2.5, "lr": 0.01, "grad_norm": 3.0, "epoch": 1, "global_step": 20, "total_steps": 100, "step_s": 0.5,
    "utterances_per_s": 8.0, "audio_s_per_s": 40.0, "padding_share": 0.1, "loader_wait_share": 0.02,
    "skipped_steps": 0, "shard_hits": 3, "shard_downloads": 1, "shard_bytes": 1000, "shard_download_ms": 1500,
}  # fmt: skip


def worker_metrics(sink: Figures, *, rank: int = 0) -> WorkerMetrics:
    return WorkerMetrics(sink, run="r", rank=rank, flops_per_audio_s=1e9, peak_flops_per_s=1e12)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_are_prometheus_s(metric: object) -> None:
    name, kind = metric.name, metric.kind  # type: ignore[attr-defined]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    if not name.startswith("nv_"):
        assert name.startswith("jasper_")
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(ms|minutes|percent|kb|mb)(_|$)", name)
    assert metric.help and not metric.help.endswith(".")  # type: ignore[attr-defined]
    assert bool(metric.buckets) == (kind == "histogram")  # type: ignore[attr-defined]


def test_no_name_comes_twice() -> None:
    assert len(BY_NAME) == len(CATALOGUE)


def test_the_docs_have_the_catalogues_table() -> None:
    assert metric_table() in (REPOSITORY / "docs" / "monitoring.md").read_text()


def test_progress_becomes_figures_of_the_run_and_of_its_first_worker() -> None:
    sink = Figures()
    worker_metrics(sink).report("progress", PROGRESS)
    assert sink.of("jasper_train_loss", run="r") == 2.5
    assert sink.of("jasper_train_flops_per_second", run="r") == 40e9
    assert sink.of("jasper_train_flops_utilization_ratio", run="r") == pytest.approx(0.04)
    assert sink.of("jasper_train_step_seconds", run="r", rank="0") == 0.5
    assert sink.of("jasper_shard_download_seconds_total", run="r", rank="0") == 1.5


def test_another_worker_tells_of_itself_only() -> None:
    sink = Figures()
    metrics = worker_metrics(sink, rank=3)
    metrics.report("progress", PROGRESS)
    metrics.report("evaluation", {"loss": 1.0, "wer": 0.5, "best_wer": 0.4, "took_s": 2.0})
    assert all(dict(labels).get("rank") == "3" for _, labels in sink.values)
    assert sink.of("jasper_train_loader_wait_ratio", run="r", rank="3") == 0.02


def test_totals_that_begin_anew_go_on_counting() -> None:
    sink = Figures()
    totals = Totals(sink, {"run": "r", "rank": "0"})
    for total in (5, 5, 7, 2):
        totals.reach("jasper_shard_cache_hits_total", total)
    assert sink.of("jasper_shard_cache_hits_total", run="r", rank="0") == 9


def test_a_loss_that_is_not_known_is_left_out_and_skipped_steps_are_counted() -> None:
    sink = Figures()
    metrics = worker_metrics(sink)
    for _ in range(2):
        metrics.report("progress", {**PROGRESS, "loss": None, "skipped_steps": 2})
    assert sink.of("jasper_train_loss", run="r") is None
    assert sink.of("jasper_train_skipped_steps_total", run="r") == 4


def test_starts_and_progress_are_kept_where_workers_cannot_take_them_with_them() -> None:
    sink, clock = Figures(), iter(range(100, 200))
    driver = DriverMetrics(sink, run="r", now_s=lambda: float(next(clock)))
    assert sink.of("jasper_train_running", run="r") == 1
    assert sink.of("jasper_train_last_progress_timestamp_seconds", run="r") == 100
    for _ in range(3):
        driver.report("start", {"workers": 2})
    driver.report("progress", PROGRESS)
    driver.end()
    assert sink.of("jasper_train_last_progress_timestamp_seconds", run="r") == 102
    assert sink.of("jasper_train_last_checkpoint_timestamp_seconds", run="r") == 101
    assert sink.of("jasper_train_starts_total", run="r") == 3
    assert sink.of("jasper_train_restarts_total", run="r") == 2
    assert sink.of("jasper_train_running", run="r") == 0


def test_a_preparation_counts_its_shards() -> None:
    sink = Figures()
    metrics = PreparationMetrics(sink, dataset="d", now_s=lambda: 9.0)
    for _ in range(2):
        metrics.shard_done(utterances=10, audio_s=50.0, rejected=1)
    metrics.end()
    assert sink.of("jasper_prepare_utterances_total", dataset="d") == 20
    assert sink.of("jasper_prepare_rejected_total", dataset="d") == 2
    assert sink.of("jasper_prepare_running", dataset="d") == 0


def test_peaks_are_known_by_a_devices_name() -> None:
    assert peak_flops_per_s("NVIDIA H200", "bf16") == 989e12
    assert peak_flops_per_s("NVIDIA A100-SXM4-80GB", "tf32") == 156e12
    assert peak_flops_per_s("Tesla V100-SXM2-16GB", "bf16") is None
    assert peak_flops_per_s("CPU", "fp32") is None
