"""Recordings that are transcribed while they are read."""

import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile
import torch
from subjects import listening

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.inference.long_audio import encoded_source
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import BundleConfig, build_model, save_bundle
from serve.http_app import build_api
from serve.recognizer import LocalRecognizer, ModelCard
from serve.uploads import Limits

CARD = ModelCard("jasper", 16000, 0, {}, alphabet=" abcdefg")
LIMITS = Limits(2**26, 1000.0, 100.0)
CONFIG = BundleConfig(
    features=FeatureConfig(num_mels=16),
    text=TextConfig(alphabet=" abcdefg"),
    model=ModelConfig(
        preset=None, blocks=(BlockConfig(filters=24, kernel=11, stride=2), BlockConfig(filters=24, kernel=9))
    ),
    training={},
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(1)
    model = build_model(CONFIG.model, CONFIG.features, CONFIG.text)
    save_bundle(folder, config=CONFIG, weights=model.state_dict(), plain_weights=None)
    return str(folder)


def recording(seconds: float, rate_hz: int = 16000) -> bytes:
    """Noise that changes all the time, as FLAC."""
    rng = np.random.default_rng(0)
    pieces = [rng.normal(scale=rng.uniform(0.001, 0.1), size=rate_hz // 2) for _ in range(round(seconds * 2))]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate(pieces), rate_hz, format="FLAC")
    return buffer.getvalue()


def expected(bundle: str, content: bytes) -> str:
    """Window by window, without a service."""
    return " ".join(Transcriber.from_bundle(bundle).transcribe_long(encoded_source(content, 16000)).text.split())


def test_a_long_recording_is_transcribed_in_every_format(bundle: str) -> None:
    content = recording(200)
    text = expected(bundle, content)
    with listening(build_api(LocalRecognizer(Transcriber.from_bundle(bundle)), CARD, LIMITS)) as address:
        client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="x", max_retries=0)
        audio = ("a.flac", content)
        assert client.audio.transcriptions.create(file=audio, model="jasper").text == text
        verbose = client.audio.transcriptions.create(
            file=audio, model="jasper", response_format="verbose_json", timestamp_granularities=["word"]
        )
        assert verbose.duration == pytest.approx(200) and verbose.words is not None
        assert " ".join(word.word for word in verbose.words) == text


def test_deltas_come_while_the_rest_is_computed(bundle: str) -> None:
    windows = threading.Semaphore(1)

    class Gated(Transcriber):
        def log_probs(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            assert windows.acquire(timeout=20), "the client waits for a delta that does not come"
            return super().log_probs(features, lengths)

    content, deltas = recording(200), []
    with listening(build_api(LocalRecognizer(Gated.from_bundle(bundle)), CARD, LIMITS)) as address:
        client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="x", max_retries=0)
        for event in client.audio.transcriptions.create(file=("a.flac", content), model="jasper", stream=True):
            if event.type == "transcript.text.delta":
                deltas.append(event.delta)
                windows.release()  # the next window is computed once this delta was here
    assert event.type == "transcript.text.done"
    assert "".join(deltas) == event.text == expected(bundle, content) and len(deltas) >= 6


def test_short_requests_are_answered_between_the_windows_of_a_long_one(bundle: str) -> None:
    with listening(build_api(LocalRecognizer(Transcriber.from_bundle(bundle)), CARD, LIMITS)) as address:
        fields = {"model": "jasper", "stream": "true"}
        url = f"http://{address}/v1/audio/transcriptions"
        files = {"file": ("a.flac", recording(600))}
        with httpx.Client(timeout=60) as client, client.stream("POST", url, files=files, data=fields) as long:
            lines = long.iter_lines()
            next(lines)
            short = client.post(url, files={"file": ("b.flac", recording(1))}, data={"model": "jasper"})
            assert short.status_code == 200
            assert "data: [DONE]" in list(lines)


def test_limits_of_long_recordings(bundle: str) -> None:
    with listening(build_api(LocalRecognizer(Transcriber.from_bundle(bundle)), CARD, LIMITS)) as address:
        files = {"file": ("a.flac", recording(130))}
        headers = {"Inference-Header-Content-Length": "0"}
        kserve = httpx.post(f"http://{address}/v2/models/jasper/infer", content=files["file"][1], headers=headers)
        assert kserve.status_code == 400 and "the limit is 100 s" in kserve.json()["error"]
        url, data = f"http://{address}/v1/audio/transcriptions", {"model": "jasper"}
        too_long = httpx.post(url, files={"file": ("a.flac", recording(1001))}, data=data, timeout=60)
        assert too_long.status_code == 400 and "the limit is 1000 s" in too_long.json()["error"]["message"]
        damaged = {"file": ("a.flac", files["file"][1][:-200_000])}
        assert httpx.post(url, files=damaged, data=data, timeout=60).status_code == 400
        events = httpx.post(url, files=damaged, data={**data, "stream": "true"}, timeout=60).text
        assert '"error"' in events and "[DONE]" not in events


@contextmanager
def server_process(bundle: str) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address and process id."""
    script = Path(__file__).with_name("bundle_server.py")
    command = [sys.executable, script, bundle]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=script.parents[2],
                              env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"})  # fmt: skip
    try:
        assert server.stdout is not None
        yield f"127.0.0.1:{server.stdout.readline().strip()}", server.pid
    finally:
        server.kill()
        server.wait()


def peak_mb(bundle: str, content: bytes) -> tuple[float, str, int, float]:
    """Most memory of a server that transcribes a recording; the text, how many deltas came, seconds."""
    with server_process(bundle) as (address, pid):
        fields, files = {"model": "jasper", "stream": "true"}, {"file": ("a.flac", content)}
        started = time.monotonic()
        reply = httpx.post(f"http://{address}/v1/audio/transcriptions", files=files, data=fields, timeout=900)
        seconds = time.monotonic() - started
        status = Path(f"/proc/{pid}/status").read_text()
        events = [json.loads(line[6:]) for line in reply.text.split("\n\n") if line.startswith("data: {")]
        (peak,) = re.findall(r"VmHWM:\s+(\d+)", status)
        return int(peak) / 1024, events[-1]["text"], len(events) - 1, seconds


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_hour_takes_hardly_more_memory_than_a_minute(bundle: str) -> None:
    hour = recording(3600)
    minute_mb, *_ = peak_mb(bundle, recording(60))
    hour_mb, text, num_deltas, seconds = peak_mb(bundle, hour)
    print(f"a minute: {minute_mb:.0f} MB; an hour: {hour_mb:.0f} MB, {num_deltas} deltas, {seconds:.1f} s")
    assert hour_mb <= 1.5 * minute_mb
    assert text == expected(bundle, hour) and num_deltas >= 100
