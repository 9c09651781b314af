"""A thread beside each worker's training: says where it stands, and ends a worker that holds up all others."""

import faulthandler
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError

from jasper_ray.cluster.standstill import Beat, sight
from jasper_ray.data.batch import Batch, BatchLoader
from jasper_ray.data.packing import RowShape
from jasper_ray.data.source import EncodedUtterance

logger = logging.getLogger(__name__)

BEAT_S = 1.0
ANSWER_S = 5.0
HUNG_STATUS = 75
"""Exit status of a worker that held up the others."""


class Heart:
    """Beats as long as the block lasts, for the thread that made it.

    Args:
        board: An `EventBoard`.
        group: Of the workers that were started together.
        rank: Of this worker.
    """

    def __init__(self, board: Any, *, group: str, rank: int) -> None:
        self._board, self._group, self._rank = board, group, rank
        self._node = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
        self._watched = threading.get_ident()
        self.batches = 0
        """Taken so far."""
        self._last: tuple[int, str] = (-1, "")
        self._since_s = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def __enter__(self) -> "Heart":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(ANSWER_S)
        self._board.leave.remote(self._group, self._rank)

    def counted(self, loader: BatchLoader) -> BatchLoader:
        """The same loader; each batch that is taken from it is a sign of life."""
        return _CountedLoader(loader, self)

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_S):
            beat = self._beat()
            try:
                is_to_end = ray.get(self._board.beat.remote(self._group, self._rank, beat), timeout=ANSWER_S)
            except RayError as error:  # the driver is gone or out of reach: Ray ends this worker, or it goes on
                logger.warning("no answer from the driver: %s", str(error).splitlines()[0])
                continue
            if is_to_end:
                logger.error("worker %d holds up the others at %s: ended", self._rank, beat.place)
                faulthandler.dump_traceback(2, all_threads=True)
                os._exit(HUNG_STATUS)

    def _beat(self) -> Beat:
        seen = sight(sys._current_frames().get(self._watched))
        if (self.batches, seen.function) != self._last:
            self._last, self._since_s = (self.batches, seen.function), time.monotonic()
        place = f"{seen.function}, line {seen.line}"
        return Beat(self._node, self.batches, place, seen.waits, time.monotonic() - self._since_s)


class _CountedLoader:
    def __init__(self, loader: BatchLoader, heart: Heart) -> None:
        self._loader, self._heart = loader, heart

    def load(self, microbatches: Iterable[list[EncodedUtterance]], rows: RowShape | None = None) -> Iterator[Batch]:
        for batch in self._loader.load(microbatches, rows):
            self._heart.batches += 1
            yield batch

    def close(self) -> None:
        self._loader.close()
