"""What the tests of serving share: a model that echoes, sounds, a server in a thread."""

import io
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import soundfile
import torch
import uvicorn

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.beam import Hypothesis
from jasper_ray.inference.long_audio import Compute, Piece, Source
from jasper_ray.inference.transcriber import Transcript
from serve.recognizer import ModelCard
from serve.scheduler import OverloadedError
from serve.uploads import Limits
from serve.wishes import Wish

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

    def pick(self) -> "Echo":
        return self

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        if len(waveform) == FAILS:
            raise RuntimeError("no")
        if len(waveform) == BUSY and self.num_busy > 0:
            self.num_busy -= 1
            raise OverloadedError("5 requests with 9.0 s of audio wait already", 0.02)
        return echo(waveform)

    async def search(self, waveform: np.ndarray, wish: Wish) -> Transcript:
        """As `transcribe`, and what was wished for."""
        found = [Hypothesis(f"{wish.hotwords} {number}", -float(number), -0.5) for number in range(wish.num_best)]
        return replace(await self.transcribe(waveform), alternatives=tuple(found))

    async def stream(self, source: Source) -> AsyncIterator[Piece]:
        raise NotImplementedError
        yield

    def admit(self, duration_s: float) -> None:
        pass

    async def check(self) -> float:
        return 0.01


def echo(waveform: np.ndarray) -> Transcript:
    duration_s = len(waveform) / 16000
    half = duration_s / 2
    words = (WordSpan(str(len(waveform)), 0.0, half * 0.9, 0.5), WordSpan("samples", half + 1, duration_s + 1, 0.25))
    return Transcript(f"{len(waveform)} samples", duration_s, 0.5, words)


class WholeOnly:
    """What a transcriber without long recordings has of them."""

    sample_rate_hz = 16000

    def stream(self, source: Source, *, compute: Compute | None = None) -> Iterator[Piece]:
        raise NotImplementedError

    def log_probs(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


class EchoTranscriber(WholeOnly):
    """The same as a transcriber."""

    def transcribe(self, waveforms: Sequence[np.ndarray], *, with_log_probs: bool = False) -> list[Transcript]:
        return [echo(waveform) for waveform in waveforms]


TONE_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TONE_S, GAP_S = 0.3, 0.25


class ToneTranscriber(WholeOnly):
    """Hears a word in each tone, by its pitch, wherever it begins; in a tone that is cut off perhaps another one."""

    def transcribe(self, waveforms: Sequence[np.ndarray], *, with_log_probs: bool = False) -> list[Transcript]:
        return [self._one(waveform) for waveform in waveforms]

    def _one(self, waveform: np.ndarray) -> Transcript:
        loud = np.abs(waveform) > 0.05
        loud = np.convolve(loud, np.ones(160), mode="same") > 0
        edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
        words = []
        for start, end in edges.reshape(-1, 2):
            tone = waveform[start + 80 : end - 80]
            crossings = np.count_nonzero(np.diff(np.signbit(tone)))
            pitch = crossings / 2 / TONE_S / 100 - 2
            words.append(WordSpan(TONE_WORDS[int(np.clip(round(pitch), 0, 9))], start / 16000, end / 16000, 0.9))
        text = " ".join(word.word for word in words)
        return Transcript(text, len(waveform) / 16000, 0.9 if words else 0.0, tuple(words))


def tones(words: Sequence[str | float], rate_hz: int = 16000) -> np.ndarray:
    """A tone for each word, silence for each number of seconds; float32."""
    pieces = [np.zeros(round(GAP_S * rate_hz))]
    for word in words:
        if isinstance(word, str):
            times = np.arange(round(TONE_S * rate_hz)) / rate_hz
            pieces += [0.3 * np.sin(2 * np.pi * 100 * (2 + TONE_WORDS.index(word)) * times)]
            pieces += [np.zeros(round(GAP_S * rate_hz))]
        else:
            pieces.append(np.zeros(round(word * rate_hz)))
    samples = np.concatenate(pieces)
    noise = np.random.default_rng(0).normal(scale=1e-4, size=len(samples))
    return (samples + noise).astype(np.float32)


def pcm16(waveform: np.ndarray) -> bytes:
    return np.round(np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes()


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
