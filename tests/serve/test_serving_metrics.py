import asyncio
from collections.abc import Mapping, Sequence

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from figures import Figures

from jasper_ray.inference.transcriber import Transcript
from serve.metrics import CountRequests, LoadMetrics, api_of
from serve.recognizer import LocalRecognizer


class Model:
    sample_rate_hz = 1000

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
        if any(len(waveform) == 13 for waveform in waveforms):
            raise RuntimeError("unlucky")
        return [Transcript("a", 1.0, 0.5) for _ in waveforms]


def counted(sink: Figures) -> FastAPI:
    api = FastAPI()

    @api.get("/v1/audio/transcriptions")
    async def fine() -> Mapping[str, str]:
        return {"text": "a"}

    @api.get("/v2/models/m/infer")
    async def busy() -> JSONResponse:
        return JSONResponse({}, 429)

    api.add_middleware(CountRequests, sink=sink, model="m")
    return api


def test_answers_are_counted_by_api_and_status() -> None:
    sink = Figures()

    async def ask() -> None:
        transport = httpx.ASGITransport(counted(sink))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for path in ("/v1/audio/transcriptions", "/v1/audio/transcriptions", "/v2/models/m/infer", "/nowhere"):
                await client.get(path)

    asyncio.run(ask())
    assert sink.of("jasper_serve_requests_total", model="m", api="openai", status="200") == 2
    assert sink.of("jasper_serve_requests_total", model="m", api="kserve", status="429") == 1
    assert sink.of("jasper_serve_requests_total", model="m", api="page", status="404") == 1
    assert sink.of("jasper_serve_request_seconds", model="m", api="openai") is not None


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/audio/transcriptions", "openai"),
        ("/v1/realtime", "realtime"),
        ("/v2", "kserve"),
        ("/v1x", "page"),
        ("/", "page"),
    ],
)
def test_an_api_is_known_by_its_path(path: str, api: str) -> None:
    assert api_of(path) == api


def test_a_schedulers_work_is_counted_in_our_names_and_in_tritons() -> None:
    sink = Figures()
    recognizer = LocalRecognizer(Model())
    metrics = LoadMetrics(sink, recognizer, model="m")

    async def ask() -> None:
        for length in (500, 250, 13):
            await asyncio.gather(recognizer.transcribe(np.zeros(length, np.float32)), return_exceptions=True)

    asyncio.run(ask())
    metrics.look()
    metrics.look()  # counts nothing twice
    recognizer.close()
    assert sink.of("jasper_serve_utterances_total", model="m") == 3
    assert sink.of("jasper_serve_failed_total", model="m") == 1
    assert sink.of("jasper_serve_audio_seconds_total", model="m") == pytest.approx(0.763)
    assert sink.of("jasper_serve_healthy", model="m") == 1
    assert (sink.of("jasper_serve_model_seconds_total", model="m") or 0) > 0
    assert sink.of("nv_inference_request_success", model="m", version="1") == 2
    assert sink.of("nv_inference_request_failure", model="m", version="1") == 1
    assert sink.of("nv_inference_exec_count", model="m", version="1") == 3
