"""At most K training shards on a node: counted at every download, for workers that read at different speeds."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_shard_feed import NUM_SHARDS, manifest

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.window_feed import WindowFeed
from jasper_ray.storage import object_store
from jasper_ray.storage.node_progress import NodeProgress
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.storage.shard_prefetch import Shard, ShardPrefetcher

EPOCHS = 3


class Disk:
    """What lies on the disk and what is on its way there, noted whenever a download begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloads: list[str] = []
        self.most = 0
        self.slow_down: Callable[[], None] = lambda: None
        self._under_way = 0
        self._lock = threading.Lock()

    def download(self, uri: str, local: Path) -> None:
        with self._lock:
            self.downloads.append(uri)
            self._under_way += 1
            self.most = max(self.most, self._under_way + self.num_shards())
        self.slow_down()
        with self._lock:
            local.write_bytes(b"x" * 1000)
            self._under_way -= 1

    def num_shards(self) -> int:
        return len(list(self.folder.glob("*.shard")))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path / "cache")
    monkeypatch.setattr(object_store, "download_file", disk.download)
    return disk


class Worker:
    """Reads its share of the steps like a loader: up to `ahead` steps before training is at them."""

    def __init__(
        self, disk: Disk, window_shards: int, *, rank: int = 0, size: int = 1, per_microbatch: int = 2
    ) -> None:
        self.data: Manifest = manifest()
        self.rank, self.size = rank, size
        self.plan = RunPlan(
            self.data.durations_s,
            seed=1,
            batching=BatchingConfig(utterances_per_microbatch=per_microbatch, microbatches_per_step=4),
            augment=AugmentConfig(),
            shard_index=self.data.shard_index,
            window_shards=window_shards,
        )
        self.prefetcher = ShardPrefetcher(ShardCache(disk.folder, 10**6), exact=True)
        self.forgotten: list[str] = []
        self.feed = WindowFeed(
            self.data,
            self.plan,
            self.prefetcher,
            window_shards=window_shards,
            end_epoch=EPOCHS,
            forget=self.forgotten.append,
            progress=NodeProgress(disk.folder / "window"),
        )
        self.error: BaseException | None = None

    def read(self, *, start: tuple[int, int] = (0, 0), train: Callable[[int], None] = lambda step: None) -> None:
        steps_done = 0
        for epoch in range(start[0], EPOCHS):
            steps = self.plan.epoch(epoch)
            for step in range(start[1] if epoch == start[0] else 0, steps.num_steps):
                self.feed.reach(epoch, step)
                for _, rows in steps.share(step, rank=self.rank, world_size=self.size):
                    for row in rows:
                        assert self.prefetcher.fetch(self.data.shards[self.data.shard_index[row]]).exists()
                train(steps_done)
                steps_done += 1


@pytest.mark.parametrize("window_shards", [2, 3, 6, 12])
def test_no_more_shards_lie_on_the_disk_than_the_window_holds(disk: Disk, window_shards: int) -> None:
    disk.slow_down = lambda: time.sleep(0.002)
    worker = Worker(disk, window_shards)
    worker.read()
    worker.feed.close()
    assert disk.most <= window_shards
    # Each is fetched once an epoch, but for those that one epoch ends with and the next begins with.
    assert NUM_SHARDS * EPOCHS - window_shards * (EPOCHS - 1) <= len(disk.downloads) <= NUM_SHARDS * EPOCHS
    assert window_shards >= NUM_SHARDS or set(worker.forgotten) == set(disk.downloads)


@pytest.mark.parametrize(("window_shards", "per_microbatch", "seed"), [(2, 1, 0), (2, 4, 1), (4, 1, 2), (6, 2, 3)])
def test_workers_that_read_at_different_speeds_keep_to_one_window_and_none_waits_for_ever(
    disk: Disk, window_shards: int, per_microbatch: int, seed: int
) -> None:
    """Training is in step, as with gradients that are summed; readers run up to three steps ahead of it."""
    size, ahead = 3, 3
    chance = random.Random(seed)
    disk.slow_down = lambda: time.sleep(chance.random() * 0.004)
    workers = [Worker(disk, window_shards, rank=rank, size=size, per_microbatch=per_microbatch) for rank in range(size)]
    in_step = threading.Barrier(size)

    def train(worker: Worker) -> None:
        made, room = threading.Semaphore(0), threading.Semaphore(ahead)
        num_steps = sum(worker.plan.epoch(epoch).num_steps for epoch in range(EPOCHS))

        def loaded(step: int) -> None:
            time.sleep(chance.random() * 0.004)
            made.release()
            assert room.acquire(timeout=30)

        def load() -> None:
            try:
                worker.read(train=loaded)
            except BaseException as error:
                worker.error = error

        reader = threading.Thread(target=load, daemon=True)
        time.sleep(chance.random() * 0.2)  # some begin late
        reader.start()
        try:
            for _ in range(num_steps):
                assert made.acquire(timeout=30), worker.error
                in_step.wait(timeout=30)
                room.release()
            reader.join(30)
        except BaseException as error:
            worker.error = worker.error or error
            in_step.abort()
        worker.feed.close()

    threads = [threading.Thread(target=train, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [worker.error for worker in workers] == [None] * size
    assert disk.most <= window_shards
    assert len(disk.downloads) <= NUM_SHARDS * EPOCHS


def test_a_run_resumed_in_mid_epoch_takes_away_what_lies_there_and_is_not_needed(disk: Disk) -> None:
    left = ShardCache(disk.folder, 10**6)
    for number in range(NUM_SHARDS):
        left.fetch(f"s3://b/{number}.arrow")
    disk.downloads.clear()
    disk.most = 0
    worker = Worker(disk, 4)
    last = worker.plan.epoch(EPOCHS - 1).num_steps
    worker.read(start=(EPOCHS - 1, last // 2))
    worker.feed.close()
    assert disk.most <= 4 and disk.num_shards() <= 4
    assert len(set(disk.downloads)) == len(disk.downloads) <= NUM_SHARDS // 2 + 2


def test_a_worker_that_is_gone_holds_nobody_up(disk: Disk) -> None:
    gone, worker = Worker(disk, 2), Worker(disk, 2)
    gone.feed.reach(0, 0)
    threading.Timer(0.3, gone.feed.close).start()
    worker.read()
    worker.feed.close()
    assert disk.most <= 2


def test_local_shards_are_left_alone(disk: Disk, tmp_path: Path) -> None:
    worker = Worker(disk, 2)
    path = tmp_path / "0.arrow"
    path.write_bytes(b"x")
    prefetcher = ShardPrefetcher(ShardCache(disk.folder, 10**6), exact=True)
    prefetcher.prefetch([Shard(str(path))])
    assert prefetcher.fetch(str(path)) == path
    prefetcher.close()
    worker.feed.close()
    assert path.exists() and not disk.downloads
