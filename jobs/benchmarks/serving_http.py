"""What a request costs over HTTP: this service beside an empty Ray Serve deployment that only reads the body."""

import asyncio
import io
import math
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import soundfile
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from torch import Tensor

from jasper_ray.audio.decode import decode_audio
from jasper_ray.cluster.trainer import connected_to_ray
from jasper_ray.inference.long_audio import Compute, Piece, Source
from jasper_ray.inference.transcriber import Transcript
from jobs.serve import QUIET, free_port
from serve.app import ONE_LOOP
from serve.http_app import build_api
from serve.recognizer import LocalRecognizer, ModelCard
from serve.uploads import Limits

RATE_HZ = 16000
CARD = ModelCard("jasper", RATE_HZ, 0, {})
LIMITS = Limits(25 * 2**20, 600.0)
VARIANTS = ("empty", "empty_fastapi", "at_once", "in_replica", "by_handle")


@dataclass(frozen=True)
class HttpBenchmark:
    """What is measured."""

    step_ms: float = 3.0
    """What the stub model takes for a batch."""
    audio_s: float = 7.0
    requests: int = 150
    """Per variant and round, the variants in turn."""
    concurrency: int = 16
    rounds: int = 5
    variants: tuple[str, ...] = VARIANTS
    """`in_replica` and `empty_fastapi` are needed; `at_once` is the service with a model that takes no time."""


class StubTranscriber:
    """Waits, and has heard nothing."""

    sample_rate_hz = RATE_HZ

    def __init__(self, step_ms: float) -> None:
        self._step_s = step_ms / 1000

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
        """As `Transcriber.transcribe`."""
        if self._step_s:
            time.sleep(self._step_s)
        return [Transcript("", len(waveform) / RATE_HZ, 0.0) for waveform in waveforms]

    def stream(self, source: Source, *, compute: Compute | None = None) -> Iterator[Piece]:
        """Not asked here."""
        raise NotImplementedError

    def log_probs(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Not asked here."""
        raise NotImplementedError


class Empty:
    """Reads the body and answers: Ray Serve's own cost."""

    async def __call__(self, request: Request) -> dict[str, str]:
        """Answer."""
        await request.body()
        return {"text": ""}


@serve.ingress()
class EmptyFastApi:
    """The same through Ray Serve's FastAPI ingress, which any API of more than one path needs."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        api = FastAPI()

        @api.post("/v1/audio/transcriptions")
        async def answer(request: Request) -> dict[str, str]:
            await request.body()
            return {"text": ""}

        return api


@serve.ingress()
class InReplica:
    """The service as it is: HTTP, scheduler and model in one replica."""

    def __init__(self, step_ms: float) -> None:
        self._recognizer = LocalRecognizer(StubTranscriber(step_ms))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._recognizer, CARD, LIMITS, name_requests=False)


class Remote:
    """A scheduler behind a handle."""

    def __init__(self, step_ms: float) -> None:
        self._recognizer = LocalRecognizer(StubTranscriber(step_ms))

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """As `Recognizer.transcribe`."""
        return await self._recognizer.transcribe(waveform)


class HandleRecognizer:
    """A recogniser in another replica."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def pick(self) -> "HandleRecognizer":
        """Itself."""
        return self

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """As `Recognizer.transcribe`."""
        transcript: Transcript = await self._handle.transcribe.remote(waveform)
        return transcript

    def stream(self, source: Source) -> AsyncIterator[Piece]:
        """Not asked here."""
        raise NotImplementedError

    def admit(self, duration_s: float) -> None:
        """The other replica knows."""

    async def check(self) -> float:
        """Not asked here."""
        return 0.0


@serve.ingress()
class ByHandle:
    """What it would be with a gateway: HTTP in one replica, scheduler and model in another."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._recognizer = HandleRecognizer(handle)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._recognizer, CARD, LIMITS, name_requests=False)


def measure_http(benchmark: HttpBenchmark) -> Mapping[str, Any]:
    """Latencies of single requests in turn, and requests per second of a closed loop.

    Returns:
        Medians; what ours adds to the empty deployment around a model that takes no time (to wait for one is dearer
        than its time: the processor falls asleep), as the median of the differences between neighbours, with its 95 %
        interval; and what decoding takes of it.
    """
    port = free_port("127.0.0.1", 0)
    with connected_to_ray():
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=QUIET)
        try:
            _deploy(benchmark)
            return _measure(benchmark, f"http://127.0.0.1:{port}")
        finally:
            serve.shutdown()


def _deploy(benchmark: HttpBenchmark) -> None:
    step_ms = benchmark.step_ms
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}, "max_ongoing_requests": 256}
    remote = serve.deployment(Remote, **options).bind(step_ms)  # type: ignore[call-overload]
    ours = {**options, "ray_actor_options": {**options["ray_actor_options"], "runtime_env": ONE_LOOP}}
    applications = {
        "empty": serve.deployment(Empty, **options).bind(),  # type: ignore[call-overload]
        "empty_fastapi": serve.deployment(EmptyFastApi, **options).bind(),
        "at_once": serve.deployment(InReplica, **ours).bind(0.0),
        "in_replica": serve.deployment(InReplica, **ours).bind(step_ms),
        "by_handle": serve.deployment(ByHandle, **options).bind(remote),
    }
    for name in benchmark.variants:
        serve.run(applications[name], name=name, route_prefix=f"/{name}", logging_config=QUIET)


def _measure(benchmark: HttpBenchmark, url: str) -> Mapping[str, Any]:
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).normal(scale=0.1, size=int(benchmark.audio_s * RATE_HZ))
    soundfile.write(buffer, samples, RATE_HZ, format="WAV")
    content = buffer.getvalue()
    times: dict[str, list[float]] = {variant: [] for variant in benchmark.variants}
    rates: dict[str, list[float]] = {variant: [] for variant in benchmark.variants}
    order = random.Random(0)
    with httpx.Client() as client:
        for number in range(benchmark.rounds + 1):
            round_times: dict[str, list[float]] = {variant: [] for variant in benchmark.variants}
            for _ in range(benchmark.requests):  # neighbours in time: the machine's moods last for seconds
                for variant in order.sample(benchmark.variants, len(benchmark.variants)):
                    round_times[variant].append(_request_ms(client, f"{url}/{variant}", content))
            for variant in benchmark.variants:
                rate = _rate(f"{url}/{variant}", content, benchmark)
                if number:  # the first round warms up
                    times[variant] += round_times[variant]
                    rates[variant].append(rate)
    decode_ms = statistics.median(_decode_ms(content) for _ in range(100))
    added: dict[str, Any] = {}
    for name in {"empty", "empty_fastapi"} & set(benchmark.variants if "at_once" in benchmark.variants else ()):
        differences = [ours - bare for ours, bare in zip(times["at_once"], times[name], strict=True)]
        added[f"added_to_{name}_ms"] = round(statistics.median(differences), 2)
        added[f"added_to_{name}_95_ms"] = _interval_of_median(differences)
    return {
        "audio_s": benchmark.audio_s,
        "upload_bytes": len(content),
        "step_ms": benchmark.step_ms,
        "p50_ms": {variant: round(statistics.median(values), 2) for variant, values in times.items()},
        "requests_per_s": {variant: round(statistics.median(values)) for variant, values in rates.items()},
        "rate_beside_empty_fastapi": _ratio(rates["in_replica"], rates["empty_fastapi"]),
        "p50_beside_empty_fastapi": _ratio(times["in_replica"], times["empty_fastapi"]),
        **added,
        "of_it_decoding_ms": round(decode_ms, 2),
    }


def _ratio(values: list[float], others: list[float]) -> float:
    """Median of the ratios of neighbours."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def _interval_of_median(values: list[float]) -> list[float]:
    """Where the median of more such values lies in 95 of 100 cases: order statistics, whatever the distribution."""
    half_width = 0.98 * math.sqrt(len(values))
    ranks = (max(0, int(len(values) / 2 - half_width)), min(len(values) - 1, int(len(values) / 2 + half_width)))
    return [round(sorted(values)[rank], 2) for rank in ranks]


def _request_ms(client: httpx.Client, url: str, content: bytes) -> float:
    started = time.perf_counter()
    files, data = {"file": ("a.wav", content)}, {"model": "jasper"}
    reply = client.post(f"{url}/v1/audio/transcriptions", files=files, data=data, timeout=60)
    reply.raise_for_status()
    return (time.perf_counter() - started) * 1000


def _rate(url: str, content: bytes, benchmark: HttpBenchmark) -> float:
    """Requests per second of so many clients."""
    each = max(1, benchmark.requests // benchmark.concurrency)

    def client(_: int) -> None:
        with httpx.Client() as session:
            for _ in range(each):
                _request_ms(session, url, content)

    with ThreadPoolExecutor(benchmark.concurrency) as threads:
        started = time.perf_counter()
        list(threads.map(client, range(benchmark.concurrency)))
        return each * benchmark.concurrency / (time.perf_counter() - started)


def _decode_ms(content: bytes) -> float:
    async def decode() -> float:
        started = time.perf_counter()
        await asyncio.to_thread(decode_audio, content, sample_rate_hz=RATE_HZ)
        return (time.perf_counter() - started) * 1000

    return asyncio.run(decode())
