"""What the tests of serving share: a model that echoes, sounds, a server in a thread."""

import io
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile
import uvicorn

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.inference.transcriber import Transcript
from serve.recognizer import ModelCard
from serve.scheduler import OverloadedError
from serve.uploads import Limits

CARD = ModelCard("jasper", 16000, 1_700_000_000, {"run": "r", "step": 7, "wer": 0.1})
LIMITS = Limits(100_000, 2.0)
FAILS = 666
BUSY = 777


class Echo:
    """Says how many samples it was given, a word in each half; two lengths have a meaning."""

    sample_rate_hz = 16000

    def __init__(self) -> None:
        self.num_busy = 10**9
        """So many times it is busy for `BUSY` samples."""

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        if len(waveform) == FAILS:
            raise RuntimeError("no")
        if len(waveform) == BUSY and self.num_busy > 0:
            self.num_busy -= 1
            raise OverloadedError("5 requests with 9.0 s of audio wait already", 0.02)
        return echo(waveform)

    def admit(self, duration_s: float) -> None:
        pass

    async def check(self) -> float:
        return 0.01


def echo(waveform: np.ndarray) -> Transcript:
    duration_s = len(waveform) / 16000
    half = duration_s / 2
    words = (WordSpan(str(len(waveform)), 0.0, half * 0.9, 0.5), WordSpan("samples", half + 1, duration_s + 1, 0.25))
    return Transcript(f"{len(waveform)} samples", duration_s, 0.5, words)


class EchoTranscriber:
    """The same as a transcriber."""

    sample_rate_hz = 16000

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
        return [echo(waveform) for waveform in waveforms]


def sound(seconds: float = 1.0, rate_hz: int = 16000, channels: int = 1, container: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).normal(scale=0.01, size=(round(seconds * rate_hz), channels))
    soundfile.write(buffer, samples, rate_hz, format=container)
    return buffer.getvalue()


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """A real server for an ASGI application; yields host:port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="websockets-sansio"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                thread.join(0.01)
            yield f"127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(10)
