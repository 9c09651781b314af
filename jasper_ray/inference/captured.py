"""A folded model on a GPU as CUDA graphs: one launch instead of some 120, for batches of fixed shapes.

A graph is recorded for each bucket of rows and frames; a batch goes into the smallest that holds it, what it does not
fill is padding. What a batch needs is copied from pinned memory while the host goes on, in one piece. All graphs share
their memory, so batches run one after the other, on the stream of whoever asks.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from jasper_ray.inference.direct import DirectRunner
from jasper_ray.inference.folded import FoldedJasper
from jasper_ray.inference.fused import FusedRunner
from jasper_ray.model.triton_trial import triton_runs

ROWS = (1, 2, 4, 8, 16, 32)
FRAMES = (200, 400, 704, 1200, 1680, 2400)
"""2, 4, 7, 12, 16.8 and 24 s."""
RUNS_BEFORE_CAPTURE = 3
LENGTHS_BYTES = 8 * ROWS[-1]


class BatchMemory:
    """A bucket's lengths and behind them its features, without a gap: one copy takes along as many rows as there are.

    Args:
        shape: `(B, F, T)` of the bucket.
        device: Where it lies.
        is_pinned: Whether a GPU may read it while the host goes on.
    """

    def __init__(self, shape: tuple[int, int, int], *, device: torch.device, is_pinned: bool = False) -> None:
        num_bytes = LENGTHS_BYTES + 4 * math.prod(shape)
        self._bytes = torch.zeros(num_bytes, dtype=torch.uint8, device=device, pin_memory=is_pinned)
        self.lengths = self._bytes[: 8 * shape[0]].view(torch.int64)
        """`(B,)`."""
        self.features = self._bytes[LENGTHS_BYTES:].view(torch.float32).view(shape)
        """`(B, F, T)`."""

    def fill_lengths(self, lengths: Tensor) -> None:
        """Lengths of the first rows; the others have none."""
        self.lengths.zero_()
        self.lengths[: len(lengths)] = lengths

    def copy_from(self, other: "BatchMemory", *, num_rows: int) -> None:
        """All lengths and the features of the first rows, while the host goes on."""
        end = LENGTHS_BYTES + num_rows * self.features[0].nbytes
        self._bytes[:end].copy_(other._bytes[:end], non_blocking=True)


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    given: BatchMemory
    log_probs: Tensor
    staged: BatchMemory
    """Of the host."""
    copied: torch.cuda.Event
    """What is staged has been read and may be filled again."""


def bucket_of(num_rows: int, num_frames: int) -> tuple[int, int] | None:
    """The smallest bucket that holds a batch; none if it is too large for all."""
    rows = next((rows for rows in ROWS if rows >= num_rows), None)
    frames = next((frames for frames in FRAMES if frames >= num_frames), None)
    return None if rows is None or frames is None else (rows, frames)


class CapturedRunner:
    """Features to log-probabilities on a GPU.

    Args:
        folded: The model.
        device: A CUDA device.
        dtype: Its arithmetic; log-softmax is float32, and float32 is not rounded to TF32.
        tries: Whether convolutions are computed in whichever way is quickest for a bucket, instead of by cuDNN.
    """

    def __init__(self, folded: FoldedJasper, *, device: torch.device, dtype: torch.dtype, tries: bool) -> None:
        self._device, self._tries = device, tries
        self._runner: FusedRunner | DirectRunner
        if folded.bounds is not None and triton_runs(device):
            self._runner = FusedRunner(folded, device=device, dtype=dtype)
        else:
            self._runner = DirectRunner(folded, device=device, dtype=dtype)
        # One for all buckets: cuBLAS takes some 32 MiB for each stream that it has ever worked on.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._pool: Any = None  # a handle

    def capture_all(self, num_mels: int) -> None:
        """Record every bucket, the largest first: the others then need no more memory."""
        for bucket in sorted(product(ROWS, FRAMES), key=lambda bucket: -bucket[0] * bucket[1]):
            self._graph(bucket, num_mels)

    def log_probs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """`(B, F, T)` features anywhere and their `(B,)` lengths on the host to `(B, T', V)` float32.

        What fits in no bucket is computed without a graph.
        """
        num_rows, num_mels, num_frames = features.shape
        bucket = bucket_of(num_rows, num_frames)
        if bucket is None:
            with _products(benchmark=False):
                return self._computed(features.to(self._device).contiguous(), lengths.to(self._device))
        one = self._graph(bucket, num_mels)
        one.copied.synchronize()
        one.staged.fill_lengths(lengths)
        is_on_host = features.device.type == "cpu"
        target = one.staged if is_on_host else one.given
        target.features[:num_rows, :, :num_frames].copy_(features, non_blocking=True)
        one.given.copy_from(one.staged, num_rows=num_rows if is_on_host else 0)
        one.copied.record()
        one.graph.replay()
        return one.log_probs[:num_rows].clone()  # the next graph writes into the same memory

    def _graph(self, bucket: tuple[int, int], num_mels: int) -> _Graph:
        if bucket not in self._graphs:
            with torch.cuda.device(self._device), _products(benchmark=True):
                self._graphs[bucket] = self._recorded(*bucket, num_mels)
        return self._graphs[bucket]

    def _recorded(self, num_rows: int, num_frames: int, num_mels: int) -> _Graph:
        shape = (num_rows, num_mels, num_frames)
        given = BatchMemory(shape, device=self._device)
        given.lengths.fill_(num_frames)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # memory, libraries and the choice of kernels: not to be recorded
            if self._tries and isinstance(self._runner, FusedRunner):
                self._runner.choose_ways(num_rows, num_frames)
            for _ in range(RUNS_BEFORE_CAPTURE):
                self._computed(given.features, given.lengths)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            log_probs = self._computed(given.features, given.lengths)
        staged = BatchMemory(shape, device=torch.device("cpu"), is_pinned=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        return _Graph(graph, given, log_probs, staged, copied)

    def _computed(self, features: Tensor, lengths: Tensor) -> Tensor:
        if isinstance(self._runner, FusedRunner):
            return self._runner.log_probs(features, lengths)
        frames = torch.arange(features.shape[2], device=features.device)
        is_padding = (frames >= lengths[:, None])[:, None]
        return self._runner.log_probs(features.masked_fill(is_padding, 0), is_padding.logical_not())


@contextmanager
def _products(*, benchmark: bool) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, deterministic=False, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before
