"""What metrics cost a training and a service: short segments with them and without, in turn in one process.

Both are the real ones: the training loop over a dataset with its loader, and the HTTP application over its scheduler
and model. Only the sink of their figures changes from segment to segment: Ray's metrics, or one that forgets. What
Ray's thread does to send figures to its agent cannot be switched off, so it is measured apart.
"""

import asyncio
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
import torch

from jasper_ray.audio.decode import decode_audio
from jasper_ray.cluster.ray_metrics import NoMetrics, RayMetrics
from jasper_ray.cluster.trainer import connected_to_ray
from jasper_ray.config.schema import RunConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.data.loaders import make_loader
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import Bundle, BundleConfig, build_model
from jasper_ray.observe.metrics import PROGRESS_GAUGES, WORKER_GAUGES, DriverMetrics, Sink, WorkerMetrics
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.training.assembly import train_run
from jasper_ray.training.report import EventKind, Reporter
from jasper_ray.training.world import World
from jobs.benchmarks.book_pass import MODEL, MODEL_NAME
from jobs.benchmarks.corpus import make_corpus
from jobs.benchmarks.serving_http import StubTranscriber
from serve.http_app import build_api
from serve.metrics import LoadMetrics
from serve.recognizer import LocalRecognizer, ModelCard
from serve.uploads import Limits

RATE_HZ = 16000
STEPS = 2
"""Of training in a segment; one request is a segment of serving. Neighbours share what disturbs the machine."""
CALLS = 2000
AUDIO_S = 2.0
EXPORT_S = 20.0
LIMIT = 1.01


@dataclass
class Segments:
    """Seconds of processor and of the clock of segments, with metrics and without in turn."""

    with_metrics: list[tuple[float, float]] = field(default_factory=list)
    without: list[tuple[float, float]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """The cost, as a ratio to the time without: median of the ratios of neighbours."""
        return {
            "pairs": min(len(self.with_metrics), len(self.without)),
            "cpu": _ratio(self.with_metrics, self.without, column=0),
            "wall": _ratio(self.with_metrics, self.without, column=1),
            "segment_ms": round(1e3 * statistics.median(wall for _, wall in self.without), 1),
        }


def _ratio(ours: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]], *, column: int) -> Any:
    """Median of the pairs' ratios and the interval that holds it 95 times in 100, by the order of the pairs."""
    ratios = sorted(one[column] / other[column] for one, other in zip(ours, others, strict=False))
    half = 0.98 * math.sqrt(len(ratios))  # 1.96 standard deviations of a binomial with chance 1/2
    low, high = max(0, math.floor(len(ratios) / 2 - half)), min(len(ratios) - 1, math.ceil(len(ratios) / 2 + half))
    return {"ratio": statistics.median(ratios), "at_least": ratios[low], "at_most": ratios[high]}


class AlternatingRuns:
    """A reporter that hands a run's events to one of two reporters in turn and times what lies between."""

    def __init__(self, with_metrics: Sequence[Reporter], without: Sequence[Reporter], warmup: int) -> None:
        self.segments = Segments()
        self._reporters = (with_metrics, without)
        self._number = -warmup
        self._began: tuple[float, float] | None = None

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event; a segment goes from one progress event to the next, the report at its beginning included."""
        is_progress = kind == "progress"
        now = time.process_time(), time.perf_counter()
        if is_progress and self._began is not None and self._number > 0:
            taken = self.segments.without if _is_without(self._number - 1) else self.segments.with_metrics
            taken.append((now[0] - self._began[0], now[1] - self._began[1]))
        if is_progress:
            self._began = now
        for reporter in self._reporters[_is_without(self._number)]:
            reporter.report(kind, values)
        self._number += is_progress


def _is_without(number: int) -> bool:
    """On, off, off, on: a drift of the machine's speed hits both alike."""
    return number % 4 in (1, 2)


def measure_training_cost(folder: Path, pairs: int) -> dict[str, Any]:
    """A run of one worker on this process, whose steps are all the same two utterances.

    With other utterances in every step the pairs' ratios spread by 30 %, and the interval over 600 of them by 6 points.
    """
    corpus = make_corpus(folder / "corpus", 2)
    config = RunConfig.model_validate(
        {
            "name": "metrics-cost",
            "output": str(folder / "run"),
            "data": {"train": [{"path": str(folder / "corpus" / "dataset")}], "cache_dir": str(folder / "cache")},
            "batching": {"policy": "fixed", "utterances_per_microbatch": 2, "microbatches_per_step": 1},
            "model": {"preset": None, "blocks": [{"filters": 64, "kernel": 11, "stride": stride} for stride in (2, 1)]},
            "loader": {"num_threads": 1},
            "training": {
                "epochs": 10**4, "stop_after_steps": STEPS * (2 * pairs + 8), "log_every_steps": STEPS,
                "sample_every_steps": 10**6, "ema_decay": 0.99,
            },
            "checkpoint": {"every_epochs": 10**4},
        }
    )  # fmt: skip
    alternating = AlternatingRuns(_reporters(RayMetrics()), _reporters(NoMetrics()), warmup=4)
    loader = lambda: make_loader(config.features, config.loader)  # noqa: E731
    train_run(config, world=World(), make_loader=loader, reporters=[alternating])
    return {"corpus": corpus.kind, "steps": STEPS, **alternating.segments.figures()}


def _reporters(sink: Sink) -> list[Reporter]:
    """What a run has: a worker's reporter and the driver's."""
    worker = WorkerMetrics(sink, run="metrics-cost", rank=0, flops_per_audio_s=1e9, peak_flops_per_s=1e12)
    return [worker, DriverMetrics(sink, run="metrics-cost")]


def measure_serving_cost(pairs: int) -> dict[str, Any]:
    """Uploads to the HTTP application in this process, one after the other."""
    torch.manual_seed(0)
    config = BundleConfig(features=FeatureConfig(), text=TextConfig(), model=MODEL)
    model = build_model(config.model, config.features, config.text).eval()
    recognizer = LocalRecognizer(Transcriber(Bundle(model, config, Alphabet(config.text.alphabet))))
    sink = RayMetrics()
    card, limits = ModelCard("jasper", RATE_HZ, 0, {}), Limits(25 * 2**20, 600.0)
    apps = [build_api(recognizer, card, limits, name_requests=False, sink=given) for given in (sink, None)]
    looks: list[Callable[[], None]] = [LoadMetrics(sink, recognizer, model="jasper").look, lambda: None]
    segments = asyncio.run(_serve_in_turn(apps, looks, pairs))
    return {"model": MODEL_NAME, "audio_s": AUDIO_S, **segments.figures()}


async def _serve_in_turn(apps: Sequence[Any], looks: Sequence[Callable[[], None]], pairs: int) -> Segments:
    content, segments = _wav(), Segments()
    clients = [httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") for app in apps]
    for number in range(-4, 2 * pairs):
        without = _is_without(number)
        began = time.process_time(), time.perf_counter()
        files, data = {"file": ("a.wav", content)}, {"model": "jasper"}
        reply = await clients[without].post("/v1/audio/transcriptions", files=files, data=data, timeout=60)
        reply.raise_for_status()
        looks[without]()  # once a second in a service; here in every segment
        taken = time.process_time() - began[0], time.perf_counter() - began[1]
        if number >= 0:
            (segments.without if without else segments.with_metrics).append(taken)
    for client in clients:
        await client.aclose()
    return segments


def _wav() -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).normal(scale=0.1, size=int(AUDIO_S * RATE_HZ))
    soundfile.write(buffer, samples, RATE_HZ, format="WAV")
    assert len(decode_audio(buffer.getvalue(), sample_rate_hz=RATE_HZ)) == len(samples)
    return buffer.getvalue()


def _idle_cpu(seconds: float) -> float:
    """Share of a core that this process takes while it does nothing."""
    began = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - began) / seconds


def measure_calls() -> dict[str, float]:
    """Microseconds of processor that single calls take: what a progress event, a look and a request add."""
    sink = RayMetrics()
    progress = dict.fromkeys((*PROGRESS_GAUGES, *WORKER_GAUGES), 1.0)
    reporters = _reporters(sink)
    recognizer = LocalRecognizer(StubTranscriber(0.0))
    labels = {"model": "jasper", "api": "openai"}

    def report() -> None:
        for reporter in reporters:
            reporter.report("progress", progress)

    def request() -> None:
        sink.record("jasper_serve_requests_total", 1, {**labels, "status": "200"})
        sink.record("jasper_serve_request_seconds", 0.1, labels)

    look = LoadMetrics(sink, recognizer, model="jasper").look
    return {name: _microseconds(call) for name, call in (("progress", report), ("look", look), ("request", request))}


def _microseconds(call: Callable[[], None]) -> float:
    began = time.thread_time()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.thread_time() - began) / CALLS


def measure_metrics_cost(pairs: int, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Both, and what sending the figures takes.

    Args:
        pairs: Of segments with metrics and without, of each.
        say: Is told what comes out.

    Returns:
        Ratios of processor and clock time with metrics to that without; `export_cpu_share` is the share of a core that
        sending takes beyond what a process of Ray's takes anyway; `within` whether the medians are below `LIMIT`.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="jasper-metrics-cost-") as folder, connected_to_ray(log_to_driver=False):
        before = _idle_cpu(EXPORT_S)
        calls = measure_calls()
        say(", ".join(f"{name}: {value:.0f} us" for name, value in calls.items()))
        training = measure_training_cost(Path(folder), pairs)
        say(_line("training", training))
        serving = measure_serving_cost(pairs)
        say(_line("serving", serving))
        after = _idle_cpu(EXPORT_S)
    share = after - before
    within = all(part["cpu"]["ratio"] + share <= LIMIT for part in (training, serving))
    say(f"sending the figures: {100 * share:.3f} % of a core")
    figures = {"calls_us": calls, "training": training, "serving": serving, "export_cpu_share": share}
    return {**figures, "limit": LIMIT, "within": within}


def _line(name: str, part: Mapping[str, Any]) -> str:
    cpu = part["cpu"]
    return (
        f"{name} with metrics: {100 * (cpu['ratio'] - 1):+.2f} % of processor time"
        f" ({100 * (cpu['at_least'] - 1):+.2f} to {100 * (cpu['at_most'] - 1):+.2f} %), {part['pairs']} pairs of"
        f" {part['segment_ms']:g} ms"
    )
