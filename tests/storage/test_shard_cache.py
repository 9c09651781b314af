import hashlib
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
from fault_proxy import Faults, fault_proxy

from jasper_ray.errors import StorageError
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


def _fetch(folder: str, uri: str) -> None:
    ShardCache(Path(folder), 10**9).fetch(uri)


def test_a_process_killed_in_a_download_leaves_nothing_that_blocks_the_next(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, uri, content = tmp_path / "cache", f"{s3_bucket}/{tmp_path.name}/large", os.urandom(4_000_000)
    object_store.write_bytes(uri, content)
    server = os.environ["AWS_ENDPOINT_URL"]
    with fault_proxy(int(server.rpartition(":")[2]), Faults(bytes_per_s=400_000)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        process = SPAWN.Process(target=_fetch, args=(str(folder), uri))
        process.start()
        deadline_s = time.monotonic() + 30
        while not (list(folder.glob(".*.partial")) and any("GET" in line for line in proxy.lines)):
            assert time.monotonic() < deadline_s and process.is_alive()
            time.sleep(0.02)
        process.kill()
        process.join()
        assert process.exitcode == -9 and list(folder.glob(".*.partial")) and not cached(folder)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    other = f"{s3_bucket}/{tmp_path.name}/other"
    object_store.write_bytes(other, b"other")
    cache = ShardCache(folder, 10**9)
    assert cache.fetch(other).read_bytes() == b"other"
    assert not list(folder.glob(".*.partial"))  # cleaned up though it was not the shard asked for
    assert cache.fetch(uri).read_bytes() == content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_shard_is_verified_by_its_checksum(shards: list[str], tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10_000)
    assert cache.fetch(shards[1], checksum=sha256(bytes([1]) * 1000)).read_bytes() == bytes([1]) * 1000
    with pytest.raises(StorageError, match=rf"2\.arrow.*{sha256(bytes([2]) * 1000)}.*prepared with {'0' * 64}.*again"):
        cache.fetch(shards[2], checksum="0" * 64)
    assert len(cached(tmp_path / "cache")) == 1  # what is wrong is not kept


def test_a_damaged_download_is_made_once_more(
    shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, downloads = object_store.download_file, []

    def download(uri: str, local: Path) -> None:
        downloads.append(uri)
        original(uri, local)
        if len(downloads) == 1:
            local.write_bytes(b"damaged")

    monkeypatch.setattr(object_store, "download_file", download)
    cache = ShardCache(tmp_path / "cache", 10_000)
    assert cache.fetch(shards[1], checksum=sha256(bytes([1]) * 1000)).read_bytes() == bytes([1]) * 1000
    assert len(downloads) == 2


def test_a_dataset_prepared_anew_at_the_same_place_does_not_get_its_old_shards(
    shards: list[str], tmp_path: Path
) -> None:
    cache = ShardCache(tmp_path / "cache", 10_000)
    cache.fetch(shards[0], checksum=sha256(bytes(1000)))
    object_store.write_bytes(shards[0], b"new")
    assert cache.fetch(shards[0], checksum=sha256(b"new")).read_bytes() == b"new"


def test_held_shards_are_dropped_last_and_the_one_taken_last_first(shards: list[str], tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 2500)
    held = cache.fetch(shards[0], hold=True)
    free = cache.fetch(shards[1])
    os.utime(held, (1, 1))  # the oldest, but held
    newest = cache.fetch(shards[2], hold=True)
    assert cached(tmp_path / "cache") == sorted([held, newest]) and not free.exists()
    again = cache.fetch(shards[1])  # must be had: then the one held last goes
    assert cached(tmp_path / "cache") == sorted([held, again])


def test_a_shard_that_another_process_holds_stays(shards: list[str], tmp_path: Path) -> None:
    ours, theirs = (ShardCache(tmp_path / "cache", 1500) for _ in range(2))  # locks are of files, not of processes
    held = theirs.fetch(shards[0], hold=True)
    ours.fetch(shards[1])
    ours.release(shards[0])
    ours.drop(ours.path(shards[0]))
    assert held.exists()
    theirs.release(shards[0])
    theirs.drop(theirs.path(shards[0]))
    assert not held.exists()


def test_what_was_fetched_is_counted(shards: list[str], tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10_000)
    for uri in (*shards, shards[0]):
        cache.fetch(uri)
    counts = cache.counts
    assert (counts.hits, counts.misses, counts.num_bytes) == (1, 3, 3000) and counts.seconds > 0


def _fetch_all(folder: str, uris: list[str], seed: int) -> None:
    cache = ShardCache(Path(folder), 2500)
    order = random.Random(seed).choices(range(len(uris)), k=40)
    for number in order:
        path = cache.fetch(uris[number], checksum=sha256(bytes([number]) * 1000), hold=True)
        assert path.read_bytes() == bytes([number]) * 1000
        cache.release(uris[number], checksum=sha256(bytes([number]) * 1000))


def test_processes_that_push_out_each_others_shards_always_read_whole_ones(shards: list[str], tmp_path: Path) -> None:
    processes = [SPAWN.Process(target=_fetch_all, args=(str(tmp_path / "cache"), shards, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(cached(tmp_path / "cache")) <= 2
