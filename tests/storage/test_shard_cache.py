import multiprocessing
import os
import time
from pathlib import Path

import pytest

from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import ShardCache

SPAWN = multiprocessing.get_context("spawn")


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


def _fetch_and_note(folder: str, uri: str, notes: str) -> None:
    """Fetch in a process of its own, slowly, and write a file for every download."""

    def download(uri: str, local: Path) -> None:
        (Path(notes) / f"{os.getpid()}").write_text(uri)
        time.sleep(0.5)
        original(uri, local)

    original, object_store.download_file = object_store.download_file, download
    assert len(ShardCache(Path(folder), 10_000).fetch(uri).read_bytes()) == 1000


def test_two_processes_that_want_the_same_shard_at_once_download_it_once(shards: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    arguments = (str(tmp_path / "cache"), shards[2], str(tmp_path / "notes"))
    processes = [SPAWN.Process(target=_fetch_and_note, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(cached(tmp_path / "cache")) == 1
    assert len(list((tmp_path / "notes").iterdir())) == 1


def _hang_in_a_download(folder: str, uri: str) -> None:
    def download(uri: str, local: Path) -> None:
        (local.parent / f".{local.name}.abc.partial").write_bytes(b"half")
        time.sleep(600)

    object_store.download_file = download
    ShardCache(Path(folder), 10_000).fetch(uri)


def test_a_process_killed_in_a_download_does_not_block_the_next(shards: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    process = SPAWN.Process(target=_hang_in_a_download, args=(str(folder), shards[0]))
    process.start()
    deadline_s = time.monotonic() + 30
    while not list(folder.glob(".*.partial")):
        assert time.monotonic() < deadline_s and process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    assert ShardCache(folder, 10_000).fetch(shards[0]).read_bytes() == bytes([0]) * 1000
    assert not list(folder.glob(".*.partial"))
