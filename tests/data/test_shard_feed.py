from pathlib import Path

import numpy as np
import pytest

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.shard_feed import ShardFeed
from jasper_ray.data.windows import most_shards_in_use
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.storage.shard_prefetch import ShardPrefetcher

NUM_SHARDS, PER_SHARD, EPOCHS = 12, 10, 3


def manifest() -> Manifest:
    count = NUM_SHARDS * PER_SHARD
    return Manifest(
        ids=[str(number) for number in range(count)],
        texts=["a"] * count,
        speakers=["s"] * count,
        durations_s=np.ones(count),
        num_samples=np.full(count, 16000),
        sample_rates_hz=np.full(count, 16000),
        shards=[f"s3://b/{number}.arrow" for number in range(NUM_SHARDS)],
        shard_index=np.repeat(np.arange(NUM_SHARDS), PER_SHARD),
        rows=np.tile(np.arange(PER_SHARD), NUM_SHARDS),
    )


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    uris: list[str] = []

    def download(uri: str, local: Path) -> None:
        uris.append(uri)
        local.write_bytes(b"x" * 1000)

    monkeypatch.setattr(object_store, "download_file", download)
    return uris


def run(folder: Path, window_shards: int | None, *, start: tuple[int, int] = (0, 0)) -> tuple[int, int, list[str]]:
    """Read all epochs; most shards on the disk at a time, most that the plan has in use, and what was let go of."""
    data, forgotten = manifest(), list[str]()
    plan = RunPlan(
        data.durations_s,
        seed=1,
        batching=BatchingConfig(utterances_per_microbatch=2, microbatches_per_step=2),
        augment=AugmentConfig(),
        shard_index=data.shard_index,
        window_shards=window_shards,
    )
    prefetcher = ShardPrefetcher(ShardCache(folder, 10**6), max_held=window_shards)
    feed = ShardFeed(data, plan, prefetcher, end_epoch=EPOCHS, forget=forgotten.append)
    most_on_disk, most_in_use = 0, 0
    for epoch in range(start[0], EPOCHS):
        steps = plan.epoch(epoch)
        most_in_use = max(most_in_use, most_shards_in_use(steps, data.shard_index))
        for step in range(start[1] if epoch == start[0] else 0, steps.num_steps):
            feed.reach(epoch, step)
            for row in steps.step_rows(step):
                assert prefetcher.fetch(data.shards[data.shard_index[row]]).exists()
                most_on_disk = max(most_on_disk, len(list(folder.glob("*.shard"))))
    feed.close()
    figures = feed.figures()
    assert figures["shard_bytes"] == 1000 * figures["shard_downloads"]
    return most_on_disk, most_in_use, forgotten


@pytest.mark.parametrize("window_shards", [2, 4, 6])
def test_a_window_of_shards_is_all_that_lies_on_the_disk(
    downloads: list[str], tmp_path: Path, window_shards: int
) -> None:
    most_on_disk, most_in_use, forgotten = run(tmp_path, window_shards)
    # One more for a moment: a reader that comes before the threads fetches for itself rather than wait for ever.
    assert most_in_use <= window_shards and most_on_disk <= window_shards + 1
    # Each is fetched once an epoch, but for those that one epoch ends with and the next begins with.
    assert NUM_SHARDS * EPOCHS - window_shards * (EPOCHS - 1) <= len(downloads) <= NUM_SHARDS * EPOCHS
    assert set(forgotten) == set(downloads)


def test_without_a_window_each_shard_is_fetched_once(downloads: list[str], tmp_path: Path) -> None:
    most_on_disk, _, forgotten = run(tmp_path, None)
    assert most_on_disk == NUM_SHARDS and sorted(downloads) == sorted(manifest().shards) and not forgotten


def test_a_run_resumed_in_mid_epoch_fetches_only_what_it_still_needs(downloads: list[str], tmp_path: Path) -> None:
    run(tmp_path, 4, start=(EPOCHS - 1, 15))  # of 30 steps
    assert len(set(downloads)) == len(downloads) <= NUM_SHARDS // 2 + 2
