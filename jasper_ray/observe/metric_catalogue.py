"""Every metric that this project exports: name, kind, unit, labels. The docs' table and the dashboards come from here.

Names are Prometheus's: base units, `_total` for counters. Ray exports each with `ray_` before it.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]
Area = Literal["training", "data", "tuning", "serving"]

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
RAY_PREFIX = "ray_"


@dataclass(frozen=True)
class Metric:
    """A metric: what it is called, what it counts, by what."""

    name: str
    kind: Kind
    area: Area
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name that Prometheus sees; of a histogram without `_bucket`, `_sum` and `_count`."""
        is_bare = self.kind == "counter" and not self.name.endswith("_total")
        return RAY_PREFIX + self.name + ("_total" if is_bare else "")


def _metrics(kind: Kind, area: Area, labels: tuple[str, ...], **helps: str) -> tuple[Metric, ...]:
    return tuple(Metric(name, kind, area, text, labels) for name, text in helps.items())


RUN = ("run",)
RANK = ("run", "rank")
MODEL = ("model",)
TRITON = ("model", "version")

CATALOGUE: tuple[Metric, ...] = (
    *_metrics(
        "gauge",
        "training",
        RUN,
        jasper_train_loss="Mean CTC loss per utterance since the last progress event",
        jasper_train_learning_rate="Learning rate of the last step",
        jasper_train_gradient_norm="Norm of all gradients of the last step, before clipping",
        jasper_train_epoch="Epoch that is trained, from 1",
        jasper_train_step="Optimizer steps of the run so far",
        jasper_train_steps="Optimizer steps that the whole run has",
        jasper_train_utterances_per_second="Utterances trained per second, all workers together",
        jasper_train_audio_seconds_per_second="Seconds of audio trained per second, all workers together",
        jasper_train_padding_ratio="Share of the feature frames that was padding",
        jasper_train_flops_per_second="Model arithmetic per second by direct convolution, all workers together",
        jasper_train_flops_utilization_ratio="The same by what the devices' data sheets promise; known GPUs only",
        jasper_train_workers="Workers of the run",
        jasper_train_evaluation_loss="Mean CTC loss of the last evaluation",
        jasper_train_wer_ratio="Word error rate of the last evaluation",
        jasper_train_best_wer_ratio="Lowest word error rate of the run",
        jasper_train_evaluation_seconds="Seconds that the last evaluation took",
        jasper_train_checkpoint_seconds="Seconds that the last checkpoint took",
        jasper_train_last_progress_timestamp_seconds="When a step was last reported, in seconds since 1970",
        jasper_train_last_checkpoint_timestamp_seconds="When a checkpoint was last complete, in seconds since 1970",
        jasper_train_running="1 while the process that started the run waits for it",
    ),
    *_metrics(
        "counter",
        "training",
        RUN,
        jasper_train_skipped_steps_total="Steps left out because loss or gradient was not finite",
        jasper_train_checkpoints_total="Checkpoints written",
        jasper_train_starts_total="Times that workers began, the first one included",
        jasper_train_restarts_total="Times that workers began again, after a loss or with another number of them",
    ),
    *_metrics(
        "gauge",
        "training",
        RANK,
        jasper_train_step_seconds="Seconds per step of this worker since the last progress event",
        jasper_train_worker_seconds="The part of it up to this worker's last backward pass, which waits for the others",
        jasper_train_loader_wait_ratio="Share of the time that this worker waited for its loader",
    ),
    *_metrics(
        "counter",
        "data",
        RANK,
        jasper_shard_cache_hits_total="Shards found on the node's disk",
        jasper_shard_downloads_total="Shards fetched from the object store",
        jasper_shard_download_bytes_total="Bytes of these",
        jasper_shard_download_seconds_total="Seconds spent in these, all threads together",
        jasper_store_requests_total="Requests to object stores that succeeded or failed for good",
        jasper_store_request_seconds_total="Seconds spent in these, pauses and repetitions included",
        jasper_store_retries_total="Requests to object stores that were repeated",
        jasper_store_failures_total="Requests to object stores that failed for good",
    ),
    *_metrics(
        "counter",
        "data",
        ("dataset",),
        jasper_prepare_shards_total="Shards written",
        jasper_prepare_utterances_total="Utterances written",
        jasper_prepare_audio_seconds_total="Seconds of audio written",
        jasper_prepare_rejected_total="Utterances left out",
    ),
    *_metrics(
        "gauge",
        "data",
        ("dataset",),
        jasper_prepare_last_shard_timestamp_seconds="When a shard was last done, in seconds since 1970",
        jasper_prepare_running="1 while the preparation goes on, 0 after its end",
    ),
    Metric("jasper_tune_trials", "gauge", "tuning", "Trials of the sweep by status", ("sweep", "status")),
    *_metrics(
        "gauge",
        "tuning",
        ("sweep",),
        jasper_tune_best_wer_ratio="Lowest word error rate of all trials",
        jasper_tune_last_event_timestamp_seconds="When a trial last said something, in seconds since 1970",
        jasper_tune_running="1 while the sweep goes on, 0 after its end",
    ),
    Metric(
        "jasper_tune_trial_wer_ratio",
        "gauge",
        "tuning",
        "Word error rate of a trial's last evaluation",
        ("sweep", "trial"),
    ),
    Metric("jasper_serve_requests_total", "counter", "serving", "Requests answered", ("model", "api", "status")),
    Metric(
        "jasper_serve_request_seconds",
        "histogram",
        "serving",
        "From the first byte of a request to the last of its answer",
        ("model", "api"),
        LATENCY_BUCKETS_S,
    ),
    *_metrics(
        "gauge",
        "serving",
        MODEL,
        jasper_serve_waiting_utterances="Utterances that wait for the model",
        jasper_serve_waiting_audio_seconds="Seconds of audio that wait for the model",
        jasper_serve_step_age_seconds="How long the batch that is computed has been so; 0 if there is none",
        jasper_serve_healthy="1 if the model moves, 0 if it hangs",
    ),
    *_metrics(
        "counter",
        "serving",
        MODEL,
        jasper_serve_batches_total="Batches computed",
        jasper_serve_utterances_total="Utterances computed",
        jasper_serve_audio_seconds_total="Seconds of audio computed",
        jasper_serve_padded_audio_seconds_total="The same with the padding of batches",
        jasper_serve_model_seconds_total="Seconds spent in batches: by the audio of these, the real-time factor",
        jasper_serve_queue_seconds_total="Seconds that utterances waited for their batch, added up",
        jasper_serve_failed_total="Utterances whose transcript failed",
        jasper_serve_rejected_total="Utterances refused because too much was waiting",
    ),
    *_metrics(
        "counter",
        "serving",
        TRITON,
        nv_inference_request_success="As Triton has it: utterances computed",
        nv_inference_request_failure="As Triton has it: utterances that failed or were refused",
        nv_inference_count="As Triton has it: utterances computed, batches not counted as one",
        nv_inference_exec_count="As Triton has it: batches computed",
        nv_inference_queue_duration_us="As Triton has it: microseconds that utterances waited, added up",
        nv_inference_compute_infer_duration_us="As Triton has it: microseconds spent in batches, added up",
    ),
)

BY_NAME = {metric.name: metric for metric in CATALOGUE}


def metric_table() -> str:
    """The catalogue as a Markdown table."""
    lines = ["| metric | kind | labels | what |", "|---|---|---|---|"]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.exported}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"
