import multiprocessing
import os
from pathlib import Path

import pytest

from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import ShardCache


@pytest.fixture
def shards(s3_bucket: str, tmp_path: Path) -> list[str]:
    uris = [f"{s3_bucket}/{tmp_path.name}/{number}.arrow" for number in range(3)]
    for number, uri in enumerate(uris):
        object_store.write_bytes(uri, bytes([number]) * 1000)
    return uris


def cached(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.shard"))


def test_a_local_shard_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "0.arrow"
    path.write_bytes(b"x")
    cache = tmp_path / "cache"
    assert ShardCache(cache, 10).fetch(str(path)) == path
    assert not cache.exists()


def test_a_remote_shard_is_fetched_once(shards: list[str], tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10_000)
    path = cache.fetch(shards[1])
    assert path.read_bytes() == bytes([1]) * 1000
    object_store.delete_file(shards[1])
    assert cache.fetch(shards[1]) == path  # the store is not asked again


def test_the_shard_unused_for_longest_goes_first(shards: list[str], tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 2500)
    paths = [cache.fetch(uri) for uri in shards[:2]]
    os.utime(paths[0], (1, 1))
    os.utime(paths[1], (2, 2))
    cache.fetch(shards[0])  # used again: now the other one is older
    newest = cache.fetch(shards[2])
    assert cached(tmp_path / "cache") == sorted([paths[0], newest])


def test_a_shard_larger_than_the_limit_is_kept_while_it_is_needed(shards: list[str], tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10)
    assert cache.fetch(shards[0]).exists()


def test_what_a_killed_process_left_behind_does_not_block(shards: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    name = ShardCache(tmp_path / "other", 10_000).fetch(shards[0]).name
    folder.mkdir()
    (folder / f".{name}.abc.partial").write_bytes(b"half")
    (folder / name).with_suffix(".lock").write_bytes(b"")
    path = ShardCache(folder, 10_000).fetch(shards[0])
    assert path.read_bytes() == bytes([0]) * 1000
    assert not list(folder.glob("*.partial")) and not list(folder.glob(".*.partial"))


def _fetch(folder: str, uri: str) -> None:
    assert len(ShardCache(Path(folder), 10_000).fetch(uri).read_bytes()) == 1000


def test_two_processes_may_want_the_same_shard_at_once(shards: list[str], tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fetch, args=(str(tmp_path / "cache"), shards[2])) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(cached(tmp_path / "cache")) == 1
