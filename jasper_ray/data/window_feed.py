"""Keeps at most K training shards on a node, whatever its number of workers and however far apart they read.

The order in which an epoch needs its shards is known. From the place of the slowest worker of the node on, the first K
different shards of that order are the window: these may lie on the disk and no others. The window only moves forward,
a worker lets go of a shard before it says that it is past it, and it takes away what is behind the window before it
fetches what has come into it. So no more than K are there at any time, and the slowest worker never waits.
"""

import threading
from collections.abc import Callable

from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.shard_feed import download_figures, remote_shards
from jasper_ray.data.windows import EpochShards, epoch_shards
from jasper_ray.storage.node_progress import NodeProgress, Place
from jasper_ray.storage.shard_prefetch import ShardPrefetcher

LOOK_EVERY_S = 0.05
"""At how far the others are."""


class WindowFeed:
    """Tells a prefetcher what the window holds. Does nothing for shards on a local path.

    Args:
        manifest: The utterances that are trained on.
        plan: Their order, made with the same window.
        prefetcher: Fetches what is named and nothing else (`exact`).
        window_shards: K.
        end_epoch: Where training ends.
        forget: Called with the URI of a shard before its file leaves the disk.
        progress: Of the workers on this node.
    """

    def __init__(
        self,
        manifest: Manifest,
        plan: RunPlan,
        prefetcher: ShardPrefetcher,
        *,
        window_shards: int,
        end_epoch: int,
        forget: Callable[[str], None],
        progress: NodeProgress,
    ) -> None:
        self._shard_index = manifest.shard_index
        self._shards = remote_shards(manifest)
        self._plan = plan
        self._prefetcher = prefetcher
        self._window_shards = window_shards
        self._end_epoch = end_epoch
        self._forget = forget
        self._progress = progress
        self._numbers = {prefetcher.cache.path(s.uri, s.checksum).name: n for n, s in enumerate(self._shards)}
        self._followed: tuple[Place, list[tuple[int, int]]] | None = None
        """Place and window of the last move."""
        self._start: Place | None = None
        self._place: Place = (0, 0)
        self._spans: dict[int, EpochShards] = {}
        self._mine: set[int] = set()
        """Named to the prefetcher and not let go of."""
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._looker = threading.Thread(target=self._look, name="shards-window", daemon=True)

    def reach(self, epoch: int, step: int) -> None:
        """The reader is about to read this step; steps must come in order."""
        if not self._shards:
            return
        with self._lock:
            self._place = (epoch, step)
            for shard in self._mine.difference(self._needed(self._window())):
                self._forget(self._shards[shard].uri)
                self._prefetcher.let_go(self._shards[shard])
                self._mine.discard(shard)
            self._progress.publish(self._place)  # only now: from here on others may take it away
            self._follow()
            if self._start is None:
                self._start = self._place
                self._looker.start()

    def close(self) -> None:
        """Stop fetching; may be called twice."""
        self._is_closed.set()
        if self._looker.is_alive():
            self._looker.join()
        self._prefetcher.close()
        self._progress.close()

    def figures(self) -> dict[str, int]:
        """What was fetched so far, for progress events."""
        return download_figures(self._prefetcher.counts)

    def _look(self) -> None:
        while not self._is_closed.wait(LOOK_EVERY_S):
            with self._lock:
                self._follow()

    def _follow(self) -> None:
        """Move the window on to where the slowest worker is."""
        window = self._window()
        if (self._place, window) == self._followed:
            return
        self._followed = self._place, window
        inside = {shard for _, shard in window}
        for path in self._prefetcher.cache.files():
            if self._numbers.get(path.name, -1) not in inside | {-1}:
                self._prefetcher.cache.drop(path)
        needed = self._needed(window)
        self._mine.update(needed)
        self._prefetcher.prefetch([self._shards[shard] for shard in needed])

    def _window(self) -> list[tuple[int, int]]:
        """(epoch, shard) from the slowest worker's place on, as far as there are no more than K different shards."""
        slowest = self._progress.slowest() or self._start or self._place  # all begin at the same place
        window: list[tuple[int, int]] = []
        shards: set[int] = set()
        for epoch in range(slowest[0], min(slowest[0] + 2, self._end_epoch)):
            for shard in self._spans_of(epoch).from_step(slowest[1] if epoch == slowest[0] else 0):
                if shard not in shards and len(shards) == self._window_shards:
                    return window
                shards.add(shard)
                window.append((epoch, shard))
        return window

    def _needed(self, window: list[tuple[int, int]]) -> list[int]:
        """Shards of the window that this worker is not past, in the order first needed."""
        ahead = (shard for epoch, shard in window if (epoch, self._spans_of(epoch).last[shard]) >= self._place)
        return list(dict.fromkeys(ahead))

    def _spans_of(self, epoch: int) -> EpochShards:
        if epoch not in self._spans:
            self._spans = {known: spans for known, spans in self._spans.items() if known >= epoch - 1}
            self._spans[epoch] = epoch_shards(self._plan.epoch(epoch), self._shard_index)
        return self._spans[epoch]
