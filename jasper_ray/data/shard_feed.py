"""Keeps the node's shards a few steps ahead of training and lets go of those that are done with."""

from collections.abc import Callable

import numpy as np

from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.windows import shard_spans
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_prefetch import Shard, ShardPrefetcher


class ShardFeed:
    """Tells a prefetcher what the plan needs next. Does nothing for shards on a local path.

    Args:
        manifest: The utterances that are trained on.
        plan: Their order.
        prefetcher: Fetches shards; where it may hold only so many, those that are used up leave the disk.
        end_epoch: Where training ends.
        forget: Called with the URI of a shard before its file leaves the disk.
    """

    def __init__(
        self,
        manifest: Manifest,
        plan: RunPlan,
        prefetcher: ShardPrefetcher,
        *,
        end_epoch: int,
        forget: Callable[[str], None],
    ) -> None:
        self._shard_index = manifest.shard_index
        self._shards = [Shard(uri, manifest.checksum(shard)) for shard, uri in enumerate(manifest.shards)]
        self._is_remote = not all(object_store.is_local(shard.uri) for shard in self._shards)
        self._plan = plan
        self._prefetcher = prefetcher
        self._end_epoch = end_epoch
        self._forget = forget
        self._epoch = -1
        self._last = np.zeros(0, np.int64)
        self._in_use: list[int] = []
        """Shards of this epoch that are not used up, the first to be so last."""
        self._last_first = 0
        """Step that reads the last new shard of the epoch."""
        self._coming: list[int] = []
        """What the next epoch begins with, once it is its turn to be fetched."""

    def reach(self, epoch: int, step: int) -> None:
        """The reader is about to read this step; steps must come in order."""
        if not self._is_remote:
            return
        if epoch != self._epoch:
            self._begin(epoch, step)
        if step >= self._last_first and not self._coming and epoch + 1 < self._end_epoch:
            self._coming = self._first_block(self._order(epoch + 1))
            self._prefetch(self._coming)
        while self._in_use and self._last[self._in_use[-1]] < step:
            self._release(self._in_use.pop())

    def close(self) -> None:
        """Stop fetching."""
        self._prefetcher.close()

    def figures(self) -> dict[str, int]:
        """What was fetched so far, for progress events."""
        counts = self._prefetcher.counts
        return {
            "shard_hits": counts.hits,
            "shard_downloads": counts.misses,
            "shard_bytes": counts.num_bytes,
            "shard_download_ms": round(1000 * counts.seconds),
        }

    def _begin(self, epoch: int, step: int) -> None:
        self._prefetch([])  # until what is to come is known again: its order must be kept
        for shard in self._in_use:  # used up with the last epoch
            self._release(shard)
        first, self._last = shard_spans(self._plan.epoch(epoch), self._shard_index)
        self._epoch, self._coming = epoch, []
        self._last_first = int(first.max(initial=0))
        self._in_use = sorted(np.flatnonzero(self._last >= step).tolist(), key=lambda shard: -self._last[shard])
        self._prefetch(self._order(epoch, step))

    def _order(self, epoch: int, step: int = 0) -> list[int]:
        """Shards that an epoch needs from a step on, in the order first needed."""
        first, last = shard_spans(self._plan.epoch(epoch), self._shard_index)
        order: list[int] = np.argsort(first, kind="stable").tolist()
        return [shard for shard in order if last[shard] >= step]

    def _first_block(self, order: list[int]) -> list[int]:
        """As much as fits beside what is in use: a window of the plan is two blocks."""
        window = self._prefetcher.max_held
        return order if window is None else order[: window // 2]

    def _prefetch(self, order: list[int]) -> None:
        self._prefetcher.prefetch([self._shards[shard] for shard in order])

    def _release(self, shard: int) -> None:
        """Not if the next epoch begins with it."""
        if self._prefetcher.max_held is None:
            self._prefetcher.release(self._shards[shard], drop=False)
        elif shard not in self._coming:
            self._forget(self._shards[shard].uri)
            self._prefetcher.release(self._shards[shard], drop=True)
