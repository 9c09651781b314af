"""A model that answers requests: the transcriber behind its scheduler. Knows nothing of Ray or HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jasper_ray.errors import JasperRayError
from jasper_ray.inference.long_audio import Compute, Piece, Source
from jasper_ray.inference.searching import TranscriptSearch
from jasper_ray.inference.transcriber import Transcript
from serve.batches import BatchLimits
from serve.errors import ApiError
from serve.scheduler import Load, OverloadedError, QueueLimits, Scheduler
from serve.wishes import Wish

CHECK_S = 0.25
"""Length of the noise that a health check has transcribed."""
HANG_FACTOR = 2.0
"""A step that takes so many times the longest wait of a request hangs."""
FEATURE_FRAMES_PER_S = 100
SEARCH_RETRY_AFTER_S = 1.0
MAX_STREAMS = 4
"""Long recordings that are read at a time; more are refused. Each has a thread that decodes and makes features."""


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
    decoding: str = "greedy"
    """What is done without being asked: greedy or beam."""


class Recognizer(Protocol):
    """Whoever turns waveforms into transcripts."""

    def pick(self) -> "Recognizer":
        """Who answers a request, or a live session: the same one from its beginning to its end."""
        ...

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """The transcript of `(N,)` float32 at the model's rate.

        Raises:
            OverloadedError: Try again later.
        """
        ...

    async def search(self, waveform: np.ndarray, wish: Wish) -> Transcript:
        """The same by beam search.

        Raises:
            ApiError: 400, there is no beam search here.
            OverloadedError: Try again later.
        """
        ...

    def stream(self, source: Source) -> AsyncIterator[Piece]:
        """The transcript of a long recording, piece by piece while it is computed.

        Raises:
            OverloadedError: Try again later.
            AudioError: The recording is damaged.
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

    def transcribe(self, waveforms: Sequence[np.ndarray], *, with_log_probs: bool = False) -> list[Transcript]:
        """Transcripts of waveforms, in their order; with what a search needs, if it is asked for."""
        ...

    def stream(self, source: Source, *, compute: Compute | None = None) -> Iterator[Piece]:
        """The transcript of a long recording; `compute` runs the model."""
        ...

    def log_probs(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the model."""
        ...


@dataclass(frozen=True)
class _Window:
    """A window of a long recording, ready for the model."""

    features: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class _Searched:
    """A waveform whose log-probabilities are wanted too."""

    waveform: np.ndarray


class HangingError(JasperRayError):
    """A step of the model has not ended for too long."""


class LocalRecognizer:
    """A transcriber in this process, in a thread of its own.

    Args:
        transcriber: Called by one thread only.
        batch: How much is computed together.
        queue: How much may wait.
        search: Beam search for requests that ask for it, in processes of its own.
    """

    def __init__(
        self,
        transcriber: BatchTranscriber,
        batch: BatchLimits | None = None,
        queue: QueueLimits | None = None,
        search: TranscriptSearch | None = None,
    ) -> None:
        self._transcriber = transcriber
        self._search = search
        self._rate_hz = transcriber.sample_rate_hz
        self._queue = queue or QueueLimits()
        self._scheduler: Scheduler[Any, Any] = Scheduler(self._work, batch, self._queue, out_of_memory=_out_of_memory)
        self._readers = ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="long-audio")
        self._num_streams = 0

    def reconfigure(self, batch: BatchLimits, queue: QueueLimits) -> None:
        """Other limits from the next step on."""
        self._queue = queue
        self._scheduler.reconfigure(batch, queue)

    def pick(self) -> "LocalRecognizer":
        """Itself."""
        return self

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """The transcript of `(N,)` float32 at the model's rate."""
        transcript: Transcript = await self._scheduler.submit(waveform, duration_s=len(waveform) / self._rate_hz)
        return transcript

    async def search(self, waveform: np.ndarray, wish: Wish) -> Transcript:
        """The transcript by beam search, as a request wishes."""
        if self._search is None:
            message = "this service has no beam search: start it with decoding=FILE, a YAML file with method: beam"
            raise ApiError(400, message, param="decoding")
        greedy = await self._scheduler.submit(_Searched(waveform), duration_s=len(waveform) / self._rate_hz)
        work = partial(self._search.transcripts, [greedy], num_best=wish.num_best, hotwords=wish.hotwords or None)
        try:
            async with asyncio.timeout(self._queue.timeout_s):
                (found,) = await asyncio.to_thread(work)
        except TimeoutError:
            message = f"the search gave no result within {self._queue.timeout_s:g} s"
            raise OverloadedError(message, SEARCH_RETRY_AFTER_S) from None
        return found

    async def stream(self, source: Source) -> AsyncIterator[Piece]:
        """The transcript of a long recording: its windows go through the scheduler, one at a time, among all others."""
        if self._num_streams >= MAX_STREAMS:
            raise OverloadedError(f"{self._num_streams} long recordings are being transcribed already", 5.0)
        loop = asyncio.get_running_loop()

        def compute(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            window = self._compute_window(_Window(features, lengths))
            return asyncio.run_coroutine_threadsafe(window, loop).result()

        pieces = self._transcriber.stream(source, compute=compute)
        self._num_streams += 1
        try:
            while (piece := await loop.run_in_executor(self._readers, next, pieces, None)) is not None:
                yield piece
        finally:
            self._num_streams -= 1

    async def _compute_window(self, window: _Window) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a window; while the service is busy, again and again until the deadline."""
        deadline = time.monotonic() + self._queue.timeout_s
        duration_s = float(window.lengths.sum()) / FEATURE_FRAMES_PER_S
        while True:
            try:
                computed: tuple[Tensor, Tensor] = await self._scheduler.submit(window, duration_s=duration_s)
                return computed
            except OverloadedError as error:
                if time.monotonic() + error.retry_after_s > deadline:
                    raise
                await asyncio.sleep(error.retry_after_s)

    def _work(self, items: list[np.ndarray | _Searched | _Window]) -> list[Any]:
        """One step of the scheduler: waveforms together, windows each on its own."""
        transcripts = iter(self._transcribe([item for item in items if not isinstance(item, _Window)]))
        return [
            self._transcriber.log_probs(item.features, item.lengths) if isinstance(item, _Window) else next(transcripts)
            for item in items
        ]

    def _transcribe(self, items: list[np.ndarray | _Searched]) -> list[Transcript]:
        if not items:
            return []
        waveforms = [item.waveform if isinstance(item, _Searched) else item for item in items]
        if any(isinstance(item, _Searched) for item in items):
            return self._transcriber.transcribe(waveforms, with_log_probs=True)
        return self._transcriber.transcribe(waveforms)

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
        if self._search is not None:
            self._search.close()
        self._readers.shutdown(wait=False, cancel_futures=True)
        return self._scheduler.join(timeout_s)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()  # what the larger step left behind in pieces of the wrong size
        return True
    return isinstance(error, MemoryError)
