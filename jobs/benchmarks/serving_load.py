"""The service under load and faults: half load, five times what it can, a killed replica, a rolling update.

Everything runs on this machine and asks 127.0.0.1 only; every phase has an end.
"""

import asyncio
import io
import json
import os
import signal
import statistics
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
import torch
from ray import serve
from ray.serve.config import HTTPOptions

from jasper_ray.cluster.trainer import connected_to_ray
from jasper_ray.inference.transcriber import Transcriber
from jobs.serve import QUIET, free_port
from serve.app import DEPLOYMENT, ServeArgs, build

RATE_HZ = 16000
TIMEOUT_S = 120.0
RETRIES = 5
MODEL = "jasper"
TOGETHER_ROUNDS = 3


@dataclass(frozen=True)
class LoadBenchmark:
    """What is measured."""

    bundle: str
    audio_s: float = 7.0
    overload_s: float = 60.0
    overload_factor: float = 5.0
    half_load_s: float = 60.0
    phase_s: float = 15.0
    """Length of every other phase."""
    concurrency: int = 16
    max_queue: int = 64
    request_timeout_s: float = 20.0
    together: int = 8
    """Utterances in one request of the KServe API."""


@dataclass
class Tally:
    """Answers of a phase."""

    latencies_s: list[float] = field(default_factory=list)
    """Of the requests that were answered with 200."""
    statuses: Counter[str] = field(default_factory=Counter)

    def figures(self, seconds: float) -> dict[str, Any]:
        """Rates and latencies."""
        ordered = sorted(self.latencies_s)
        at = (
            {f"p{share}_ms": round(ordered[int(len(ordered) * share / 100)] * 1000, 1) for share in (50, 90, 99)}
            if ordered
            else {}
        )
        return {"answers": dict(self.statuses), "requests_per_s": round(len(ordered) / seconds, 1), **at}


class Load:
    """Requests to one service."""

    def __init__(self, url: str, content: bytes) -> None:
        self._url, self._content = url, content
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits)

    async def once(self, tally: Tally, *, retries: int = 0) -> None:
        """Ask; as OpenAI's clients do, again after 429 and 5xx."""
        started = time.perf_counter()
        for attempt in range(retries + 1):
            files, data = {"file": ("a.wav", self._content)}, {"model": MODEL}
            try:
                reply = await self._client.post(f"{self._url}/v1/audio/transcriptions", files=files, data=data)
                status = str(reply.status_code)
            except httpx.HTTPError as error:
                status = type(error).__name__
            if status == "200" or attempt == retries:
                break
            await asyncio.sleep(0.2 * 2**attempt)
        tally.statuses[status] += 1
        if status == "200":
            tally.latencies_s.append(time.perf_counter() - started)

    async def closed(self, seconds: float, concurrency: int, *, retries: int = 0) -> Tally:
        """So many clients, each asking again as soon as it is answered."""
        tally, until = Tally(), time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < until:
                await self.once(tally, retries=retries)

        await asyncio.gather(*(client() for _ in range(concurrency)))
        return tally

    async def open(self, seconds: float, rate: float) -> Tally:
        """Requests at a rate, whether or not earlier ones are answered."""
        tally, began, tasks = Tally(), time.perf_counter(), []
        for number in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(self.once(tally)))
        await asyncio.gather(*tasks)
        return tally

    async def together(self, seconds: float, utterances: int) -> float:
        """Utterances per second in requests of several, two requests under way."""
        body, headers = _infer_request([self._content] * utterances)
        answered, began = 0, time.perf_counter()

        async def client() -> None:
            nonlocal answered
            while time.perf_counter() - began < seconds:
                reply = await self._client.post(f"{self._url}/v2/models/{MODEL}/infer", content=body, headers=headers)
                reply.raise_for_status()
                answered += utterances

        await asyncio.gather(client(), client())
        return answered / (time.perf_counter() - began)

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()


def measure_load(benchmark: LoadBenchmark) -> Mapping[str, Any]:
    """All phases, one after the other, on a cluster of its own."""
    port, name = free_port("127.0.0.1", 0), f"load-{os.getpid()}"
    torch.set_num_threads(1)  # as in a replica of half a CPU
    engine = Transcriber.from_bundle(benchmark.bundle)
    engine_ms = _engine_ms(engine, benchmark, 1)
    with connected_to_ray():
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=QUIET)
        try:
            _deploy(benchmark, name, replicas=1)
            url = f"http://127.0.0.1:{port}"
            together = asyncio.run(_together(benchmark, url, engine))
            phases = asyncio.run(_one_replica(benchmark, url, name, engine_ms))
            _deploy(benchmark, name, replicas=2)
            faults = asyncio.run(_two_replicas(benchmark, url, name))
        finally:
            serve.shutdown()
    return {"audio_s": benchmark.audio_s, "engine_ms": round(engine_ms, 1), **together, **phases, **faults}


def _deploy(
    benchmark: LoadBenchmark, name: str, *, replicas: int, max_batch_size: int = 8, version: float = 600.0
) -> None:
    args = ServeArgs(
        bundle=benchmark.bundle,
        num_replicas=replicas,
        cpus_per_replica=0.5,
        max_queue=benchmark.max_queue,
        max_batch_size=max_batch_size,
        timeout_s=benchmark.request_timeout_s,
        max_duration_s=version,  # a constructor argument: another value is another version, and a rolling update
    )
    serve.run(build(args), name=name, route_prefix="/", logging_config=QUIET)


async def _together(benchmark: LoadBenchmark, url: str, engine: Transcriber) -> dict[str, Any]:
    """Requests of several utterances beside the bare engine with batches of as many, in turn."""
    load = Load(url, _wav(benchmark.audio_s))
    rates, bare = [], []
    try:
        await load.together(3, benchmark.together)  # warm
        for _ in range(TOGETHER_ROUNDS):
            bare.append(1000 * benchmark.together / _engine_ms(engine, benchmark, benchmark.together))
            rates.append(await load.together(benchmark.phase_s / 2, benchmark.together))
    finally:
        await load.close()
    share = statistics.median(rate / engine for rate, engine in zip(rates, bare, strict=True))
    return {
        "utterances_per_request": benchmark.together,
        "utterances_per_s": round(statistics.median(rates), 1),
        "engine_utterances_per_s": round(statistics.median(bare), 1),
        "together_share_of_engine": round(share, 3),
    }


async def _one_replica(benchmark: LoadBenchmark, url: str, name: str, engine_ms: float) -> dict[str, Any]:
    load = Load(url, _wav(benchmark.audio_s))
    try:
        await load.closed(5, 4)  # warm
        capacity = len((await load.closed(benchmark.phase_s, benchmark.concurrency)).latencies_s) / benchmark.phase_s
        half = await load.open(benchmark.half_load_s, capacity / 2)
        calm_bytes = _resident_bytes(name)
        peak = _Peak(name)
        watching = asyncio.create_task(peak.watch())
        over = await load.open(benchmark.overload_s, capacity * benchmark.overload_factor)
        watching.cancel()
        await asyncio.sleep(5)
        after = await load.open(5, capacity / 2)
    finally:
        await load.close()
    half_p50, after_p50 = (statistics.median(one.latencies_s or [float("nan")]) for one in (half, after))
    return {
        "capacity_requests_per_s": round(capacity, 1),
        "half_load": half.figures(benchmark.half_load_s),
        "half_load_p99_over_engine": round(half.figures(1)["p99_ms"] / engine_ms, 2),
        "overload": over.figures(benchmark.overload_s),
        "overload_only_200_and_429": set(over.statuses) <= {"200", "429"},
        "resident_mb": {"calm": calm_bytes >> 20, "overload_peak": peak.num_bytes >> 20},
        "after_5_to_10_s": after.figures(5),
        "after_p50_over_before": round(after_p50 / half_p50, 2),
    }


async def _two_replicas(benchmark: LoadBenchmark, url: str, name: str) -> dict[str, Any]:
    load = Load(url, _wav(benchmark.audio_s))
    killed = [await _with_fault(load, benchmark, lambda: _kill_one(name), retries) for retries in (0, RETRIES)]
    versions = iter((599.0, 598.0))

    async def update() -> None:
        await asyncio.to_thread(_deploy, benchmark, name, replicas=2, version=next(versions))

    updated = await _with_fault(load, benchmark, update, 0)
    await load.close()
    return {
        "concurrency": benchmark.concurrency,
        "replica_killed": killed[0],
        "replica_killed_clients_retry": killed[1],
        "rolling_update": updated,
    }


async def _with_fault(
    load: Load, benchmark: LoadBenchmark, fault: Callable[[], Awaitable[None]], retries: int
) -> dict[str, Any]:
    """Answers of a closed loop in which something happens after two seconds; it lasts at least as long as that."""
    began = time.perf_counter()
    happening = asyncio.create_task(_later(2.0, fault))
    tally = await load.closed(benchmark.phase_s, benchmark.concurrency, retries=retries)
    while not happening.done():
        more = await load.closed(2.0, benchmark.concurrency, retries=retries)
        tally.latencies_s += more.latencies_s
        tally.statuses += more.statuses
    await happening
    return tally.figures(time.perf_counter() - began)


async def _later(seconds: float, fault: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await fault()


async def _kill_one(name: str) -> None:
    replicas = find_replicas(name)
    os.kill(replicas[0], signal.SIGKILL)
    async with asyncio.timeout(300):  # until Serve has replaced it
        while replicas[0] in (now := find_replicas(name)) or len(now) < len(replicas):
            await asyncio.sleep(0.5)


def find_replicas(name: str) -> list[int]:
    """Process ids of the replicas of an application on this machine (Linux)."""
    title = f"ray::ServeReplica:{name}:{DEPLOYMENT}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # it may end meanwhile
            if folder.name.isdecimal() and (folder / "cmdline").read_bytes().startswith(title):
                found.append(int(folder.name))
    return found


def _resident_bytes(name: str) -> int:
    """Memory of the largest replica."""
    sizes = [0]
    for pid in find_replicas(name):
        with suppress(OSError):
            sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return max(sizes)


class _Peak:
    def __init__(self, name: str) -> None:
        self._name, self.num_bytes = name, 0

    async def watch(self) -> None:
        while True:
            self.num_bytes = max(self.num_bytes, await asyncio.to_thread(_resident_bytes, self._name))
            await asyncio.sleep(1)


def _wav(audio_s: float) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).normal(scale=0.1, size=int(audio_s * RATE_HZ))
    soundfile.write(buffer, samples, RATE_HZ, format="WAV")
    return buffer.getvalue()


def _engine_ms(engine: Transcriber, benchmark: LoadBenchmark, utterances: int) -> float:
    """What the transcriber takes for a batch of such utterances, alone in this process."""
    waveform = soundfile.read(io.BytesIO(_wav(benchmark.audio_s)), dtype="float32")[0]
    times = []
    for _ in range(20):
        started = time.perf_counter()
        engine.transcribe([waveform] * utterances)
        times.append(time.perf_counter() - started)
    return statistics.median(times[5:]) * 1000


def _infer_request(files: list[bytes]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a KServe request with files in a binary tensor."""
    raw = b"".join(struct.pack("<I", len(file)) + file for file in files)
    parameters = {"binary_data_size": len(raw)}
    tensor = {"name": "WAV", "shape": [len(files), 1], "datatype": "BYTES", "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + raw, {"inference-header-content-length": str(len(head))}
