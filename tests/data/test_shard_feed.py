from pathlib import Path

import numpy as np
import pytest

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.shard_feed import ShardFeed
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


def run(folder: Path, *, start: tuple[int, int] = (0, 0)) -> int:
    """Read all epochs; most shards on the disk at a time."""
    data = manifest()
    plan = RunPlan(
        data.durations_s,
        seed=1,
        batching=BatchingConfig(utterances_per_microbatch=2, microbatches_per_step=2),
        augment=AugmentConfig(),
    )
    prefetcher = ShardPrefetcher(ShardCache(folder, 10**6))
    feed = ShardFeed(data, plan, prefetcher, end_epoch=EPOCHS)
    most_on_disk = 0
    for epoch in range(start[0], EPOCHS):
        steps = plan.epoch(epoch)
        for step in range(start[1] if epoch == start[0] else 0, steps.num_steps):
            feed.reach(epoch, step)
            for row in steps.step_rows(step):
                assert prefetcher.fetch(data.shards[data.shard_index[row]]).exists()
                most_on_disk = max(most_on_disk, len(list(folder.glob("*.shard"))))
    feed.close()
    figures = feed.figures()
    assert figures["shard_bytes"] == 1000 * figures["shard_downloads"]
    return most_on_disk


def test_each_shard_is_fetched_once(downloads: list[str], tmp_path: Path) -> None:
    assert run(tmp_path) == NUM_SHARDS and sorted(downloads) == sorted(manifest().shards)


def test_a_run_resumed_in_mid_epoch_fetches_only_what_it_still_needs(downloads: list[str], tmp_path: Path) -> None:
    run(tmp_path, start=(EPOCHS - 1, 28))  # of 30 steps
    assert len(set(downloads)) == len(downloads) <= 8
