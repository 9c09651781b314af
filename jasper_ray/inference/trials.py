"""Which of several ways to compute the same takes a GPU least time, found out by trying.

A way is recorded as a CUDA graph and replayed: launched one by one, kernels of a few microseconds take the time of
Python.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

REPLAYS = 3
"""Of which the quickest counts: what else a GPU does makes none quicker."""

log = logging.getLogger(__name__)

Way = TypeVar("Way")


class Trials:
    """Tries ways on the current stream, which must not be the default one."""

    def __init__(self) -> None:
        self._pool: Any = None  # a handle
        self._last: torch.cuda.CUDAGraph | None = None  # keeps the pool's memory for the next one

    def fastest(self, runs: Mapping[Way, Callable[[], object]]) -> Way:
        """The way that took least time; the first one works everywhere, another that does not is left out."""
        first, *_ = runs
        took = {}
        for way, run in runs.items():
            try:
                run()  # kernels are compiled and libraries choose theirs, which a recording forbids
            except Exception as error:  # too little shared memory for a tile, too little memory for spectra
                if way == first:
                    raise
                log.warning("not computed by %s, which does not work here: %s", way, error)
                continue
            took[way] = self._milliseconds(run)
        return min(took, key=lambda way: took[way])

    def _milliseconds(self, run: Callable[[], object]) -> float:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool)
        run()
        graph.capture_end()
        self._last = graph
        graph.replay()
        took = []
        for _ in range(REPLAYS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            took.append(float(start.elapsed_time(end)))
        return min(took)
