"""Keeps the node's shards a few steps ahead of training and lets go of those that are done with."""

from typing import Protocol

from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.windows import EpochShards, epoch_shards
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import CacheCounts
from jasper_ray.storage.shard_prefetch import Shard, ShardPrefetcher


class Feed(Protocol):
    """Sees to it that shards are there when they are read."""

    def reach(self, epoch: int, step: int) -> None:
        """The reader is about to read this step; steps must come in order."""

    def close(self) -> None:
        """Stop fetching."""

    def figures(self) -> dict[str, int]:
        """What was fetched so far, for progress events."""


class ShardFeed:
    """Tells a prefetcher what the plan needs next. Does nothing for shards on a local path.

    Args:
        manifest: The utterances that are trained on.
        plan: Their order.
        prefetcher: Fetches shards.
        end_epoch: Where training ends.
    """

    def __init__(self, manifest: Manifest, plan: RunPlan, prefetcher: ShardPrefetcher, *, end_epoch: int) -> None:
        self._shard_index = manifest.shard_index
        self._shards = remote_shards(manifest)
        self._plan = plan
        self._prefetcher = prefetcher
        self._end_epoch = end_epoch
        self._epoch = -1
        self._spans: EpochShards | None = None
        self._in_use: list[int] = []
        """Shards of this epoch that are not used up, the first to be so last."""
        self._looks_further = False
        """Whether the next epoch's shards are being fetched."""

    def reach(self, epoch: int, step: int) -> None:
        """The reader is about to read this step; steps must come in order."""
        if not self._shards:
            return
        if epoch != self._epoch or self._spans is None:
            self._spans = self._begin(epoch, step)
        if step >= self._spans.last_first and not self._looks_further and epoch + 1 < self._end_epoch:
            self._looks_further = True
            self._prefetch(epoch_shards(self._plan.epoch(epoch + 1), self._shard_index).from_step(0))
        while self._in_use and self._spans.last[self._in_use[-1]] < step:
            self._release(self._in_use.pop())

    def close(self) -> None:
        """Stop fetching."""
        self._prefetcher.close()

    def figures(self) -> dict[str, int]:
        """What was fetched so far, for progress events."""
        return download_figures(self._prefetcher.counts)

    def _begin(self, epoch: int, step: int) -> EpochShards:
        self._prefetch([])  # until what is to come is known again: its order must be kept
        for shard in self._in_use:  # used up with the last epoch
            self._release(shard)
        spans = epoch_shards(self._plan.epoch(epoch), self._shard_index)
        needed = spans.from_step(step)
        self._epoch, self._looks_further = epoch, False
        self._in_use = sorted(needed, key=lambda shard: -spans.last[shard])
        self._prefetch(needed)
        return spans

    def _prefetch(self, order: list[int]) -> None:
        self._prefetcher.prefetch([self._shards[shard] for shard in order])

    def _release(self, shard: int) -> None:
        self._prefetcher.release(self._shards[shard])


def remote_shards(manifest: Manifest) -> list[Shard]:
    """The shards of a manifest by their position, with their checksums; none if all lie on a local path."""
    if all(object_store.is_local(uri) for uri in manifest.shards):
        return []
    return [Shard(uri, manifest.checksum(shard)) for shard, uri in enumerate(manifest.shards)]


def download_figures(counts: CacheCounts) -> dict[str, int]:
    """For progress events."""
    return {
        "shard_hits": counts.hits,
        "shard_downloads": counts.misses,
        "shard_bytes": counts.num_bytes,
        "shard_download_ms": round(1000 * counts.seconds),
    }
