"""A folded model on a GPU as CUDA graphs: one launch instead of some 150, for batches of fixed shapes.

A graph is recorded for each bucket of rows and frames; a batch goes into the smallest that holds it, what it does not
fill is padding. What a batch needs is copied from pinned memory while the host goes on. All graphs share their memory,
so batches run one after the other, on the stream of whoever asks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from jasper_ray.inference.direct import DirectRunner
from jasper_ray.inference.folded import FoldedJasper

ROWS = (1, 2, 4, 8, 16, 32)
FRAMES = (200, 400, 704, 1200, 1680, 2400)
"""2, 4, 7, 12, 16.8 and 24 s."""
RUNS_BEFORE_CAPTURE = 3


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    features: Tensor
    lengths: Tensor
    log_probs: Tensor
    staged_features: Tensor
    """Pinned memory of the host."""
    staged_lengths: Tensor
    copied: torch.cuda.Event
    """The staged tensors have been read and may be filled again."""


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
    """

    def __init__(self, folded: FoldedJasper, *, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._runner = DirectRunner(folded, device=device, dtype=dtype)
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
            with _convolutions(benchmark=False):
                return self._masked(features.to(self._device), lengths.to(self._device))
        one = self._graph(bucket, num_mels)
        one.copied.synchronize()
        one.staged_lengths.zero_()
        one.staged_lengths[:num_rows] = lengths
        one.lengths.copy_(one.staged_lengths, non_blocking=True)
        if features.device.type == "cpu":
            one.staged_features[:num_rows, :, :num_frames] = features
            features = one.staged_features[:num_rows, :, :num_frames]
        one.features[:num_rows, :, :num_frames].copy_(features, non_blocking=True)
        one.copied.record()
        one.graph.replay()
        return one.log_probs[:num_rows].clone()  # the next graph writes into the same memory

    def _graph(self, bucket: tuple[int, int], num_mels: int) -> _Graph:
        if bucket not in self._graphs:
            with torch.cuda.device(self._device), _convolutions(benchmark=True):
                self._graphs[bucket] = self._recorded(*bucket, num_mels)
        return self._graphs[bucket]

    def _recorded(self, num_rows: int, num_frames: int, num_mels: int) -> _Graph:
        shape = (num_rows, num_mels, num_frames)
        features = torch.zeros(shape, device=self._device)
        lengths = torch.full((num_rows,), num_frames, device=self._device)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # memory, libraries and the choice of kernels: not to be recorded
            for _ in range(RUNS_BEFORE_CAPTURE):
                self._masked(features, lengths)
        torch.cuda.current_stream().wait_stream(side)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            log_probs = self._masked(features, lengths)
        staged_lengths = torch.zeros(num_rows, dtype=torch.int64, pin_memory=True)
        staged = torch.zeros(shape, pin_memory=True), staged_lengths
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        return _Graph(graph, features, lengths, log_probs, *staged, copied)

    def _masked(self, features: Tensor, lengths: Tensor) -> Tensor:
        frames = torch.arange(features.shape[2], device=features.device)
        is_padding = (frames >= lengths[:, None])[:, None]
        return self._runner.log_probs(features.masked_fill(is_padding, 0), is_padding.logical_not())


@contextmanager
def _convolutions(*, benchmark: bool) -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, deterministic=False, allow_tf32=False):
        yield
