"""A model that answers requests: the transcriber behind its scheduler. Knows nothing of Ray or HTTP."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from jasper_ray.errors import JasperRayError
from jasper_ray.inference.transcriber import Transcript
from serve.batches import BatchLimits
from serve.scheduler import Load, QueueLimits, Scheduler

CHECK_S = 0.25
"""Length of the noise that a health check has transcribed."""
HANG_FACTOR = 2.0
"""A step that takes so many times the longest wait of a request hangs."""


@dataclass(frozen=True)
class ModelCard:
    """What clients are told about the model."""

    name: str
    sample_rate_hz: int
    created: int
    """Seconds since 1970."""
    details: dict[str, object]
    """Run, step and word error rate of the bundle."""
    language: str = "english"
    alphabet: str = " abcdefghijklmnopqrstuvwxyz'"
    """Characters by their label ids."""


class Recognizer(Protocol):
    """Whoever turns waveforms into transcripts."""

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """The transcript of `(N,)` float32 at the model's rate.

        Raises:
            OverloadedError: Try again later.
        """
        ...

    def admit(self, duration_s: float) -> None:
        """Refuse at once what `transcribe` would refuse after decoding; called from any thread.

        Raises:
            OverloadedError: Too much waits already.
        """
        ...

    async def check(self) -> float:
        """Run the model on a little noise; the seconds that took."""
        ...


class BatchTranscriber(Protocol):
    """What is needed of `jasper_ray.inference.transcriber.Transcriber`."""

    @property
    def sample_rate_hz(self) -> int:
        """The rate that waveforms must have."""
        ...

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
        """Transcripts of waveforms, in their order."""
        ...


class HangingError(JasperRayError):
    """A step of the model has not ended for too long."""


class LocalRecognizer:
    """A transcriber in this process, in a thread of its own.

    Args:
        transcriber: Called by one thread only.
        batch: How much is computed together.
        queue: How much may wait.
    """

    def __init__(
        self, transcriber: BatchTranscriber, batch: BatchLimits | None = None, queue: QueueLimits | None = None
    ) -> None:
        self._rate_hz = transcriber.sample_rate_hz
        self._queue = queue or QueueLimits()
        self._scheduler: Scheduler[np.ndarray, Transcript] = Scheduler(
            transcriber.transcribe, batch, self._queue, out_of_memory=_out_of_memory
        )

    def reconfigure(self, batch: BatchLimits, queue: QueueLimits) -> None:
        """Other limits from the next step on."""
        self._queue = queue
        self._scheduler.reconfigure(batch, queue)

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """The transcript of `(N,)` float32 at the model's rate."""
        return await self._scheduler.submit(waveform, duration_s=len(waveform) / self._rate_hz)

    def admit(self, duration_s: float) -> None:
        """Refuse at once what `transcribe` would refuse."""
        self._scheduler.refuse_overload(duration_s)

    async def check(self) -> float:
        """Run the model on a little noise, before all that waits; the seconds that took."""
        started = time.perf_counter()
        noise = np.random.default_rng(0).normal(scale=0.01, size=int(CHECK_S * self._rate_hz)).astype(np.float32)
        await self._scheduler.submit(noise, duration_s=CHECK_S, urgent=True)
        return time.perf_counter() - started

    def load(self) -> Load:
        """What goes on."""
        return self._scheduler.load()

    def require_progress(self) -> None:
        """Whether the model still moves, at no cost.

        Raises:
            HangingError: A step has taken longer than any request may wait.
        """
        age_s = self._scheduler.load().step_age_s
        if age_s > HANG_FACTOR * self._queue.timeout_s:
            raise HangingError(
                f"the model has been computing one batch for {age_s:.0f} s, requests wait at most "
                f"{self._queue.timeout_s:g} s: this replica must be replaced"
            )

    def close(self, timeout_s: float = 30.0) -> bool:
        """Answer what waits and end the thread; whether it ended in time."""
        self._scheduler.close()
        return self._scheduler.join(timeout_s)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()  # what the larger step left behind in pieces of the wrong size
        return True
    return isinstance(error, MemoryError)
