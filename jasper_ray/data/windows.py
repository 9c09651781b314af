"""A shuffle window over shards, for corpora larger than the disks: at most K shards are in use at a time.

The shards of an epoch are shuffled and cut into blocks of K // 2. Utterances are shuffled and batched inside their
block, blocks follow each other, and a step takes micro-batches of at most two neighbouring blocks. So while steps of
one block run, the next block can be fetched, and the one before is not needed again in this epoch: a node that keeps K
shards fetches each of them once.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jasper_ray.audio.augment import uniform
from jasper_ray.data.epoch_plan import EpochPlan, rank_microbatches

SHARD_ORDER_STREAM = 103


def shards_needed(
    plan: EpochPlan, shard_index: np.ndarray, *, rank: int = 0, world_size: int = 1, start_step: int = 0
) -> Iterator[list[int]]:
    """Per step from `start_step`, the shards that it reads, each once, in the order first needed.

    Args:
        plan: The epoch.
        shard_index: `(num_utterances,)` position in `Manifest.shards` of every manifest row.
        rank: Whose share of the steps; 0 of 1 is all of them.
        world_size: Number of workers.
        start_step: First step of interest.

    Returns:
        Positions in `Manifest.shards`.
    """
    for _, share in rank_microbatches(plan, rank=rank, world_size=world_size, start_step=start_step):
        shards = (shard_index[rows].tolist() for _, rows in share)
        yield list(dict.fromkeys(shard for of_microbatch in shards for shard in of_microbatch))


def shard_spans(plan: EpochPlan, shard_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last step that reads each shard, `(num_shards,)` int64 each; shards that none reads have -1.

    A shard is in use from its first to its last step; after that it may leave the disk.
    """
    num_shards = int(shard_index.max()) + 1
    steps = np.repeat(np.arange(plan.num_steps), np.diff(plan.bounds[:: plan.microbatches_per_step]))
    shards = shard_index[plan.rows]
    first, last = np.full(num_shards, plan.num_steps), np.full(num_shards, -1)
    np.minimum.at(first, shards, steps)
    np.maximum.at(last, shards, steps)
    return np.where(last < 0, -1, first), last


@dataclass(frozen=True)
class EpochShards:
    """When an epoch needs which shard."""

    first: np.ndarray
    last: np.ndarray
    """As of `shard_spans`."""
    order: np.ndarray
    """Shards in the order first needed; those that none reads come first."""

    @property
    def last_first(self) -> int:
        """The step that reads the last new shard."""
        return int(self.first.max(initial=0))

    def from_step(self, step: int) -> list[int]:
        """Shards that are read in this step or later, in the order first needed."""
        needed: list[int] = self.order[self.last[self.order] >= step].tolist()
        return needed


def epoch_shards(plan: EpochPlan, shard_index: np.ndarray) -> EpochShards:
    """When an epoch needs which shard."""
    first, last = shard_spans(plan, shard_index)
    return EpochShards(first, last, np.argsort(first, kind="stable"))


def most_shards_in_use(plan: EpochPlan, shard_index: np.ndarray) -> int:
    """The largest number of shards in use at any step: those a disk must hold so that none is fetched twice."""
    first, last = shard_spans(plan, shard_index)
    read = last >= 0
    changes = np.zeros(plan.num_steps + 1, np.int64)
    np.add.at(changes, first[read], 1)
    np.subtract.at(changes, last[read] + 1, 1)
    return int(np.cumsum(changes).max())


def shard_blocks(
    order: np.ndarray, shard_index: np.ndarray, *, window_shards: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Shuffled manifest rows, sorted into blocks of `window_shards // 2` shards; within a block they keep their order.

    Args:
        order: All manifest rows, shuffled.
        shard_index: Shard of every manifest row.
        window_shards: Shards that may be in use at a time, at least 2.
        seed: The run's seed; shards are shuffled with (seed, epoch).
        epoch: Epoch, from 0.
    """
    shards, ranks = np.unique(shard_index, return_inverse=True)
    places = np.empty(len(shards), np.int64)
    shuffled = np.argsort(uniform(seed, SHARD_ORDER_STREAM, epoch, shards.astype(np.int64)), kind="stable")
    places[shuffled] = np.arange(len(shards))
    block = (places // (window_shards // 2))[ranks[order]]
    by_block = order[np.argsort(block, kind="stable")]
    ends = np.cumsum(np.bincount(block))
    return np.split(by_block, ends[:-1])


def layout_fingerprint(manifest_fingerprint: str, shard_index: np.ndarray) -> str:
    """What the order of a windowed run depends on: the utterances and how they lie in shards."""
    digest = hashlib.sha256(manifest_fingerprint.encode())
    digest.update(np.ascontiguousarray(shard_index, dtype="<i8").tobytes())
    return digest.hexdigest()
