import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jasper_ray.errors import StorageError
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.storage.shard_prefetch import Shard, ShardPrefetcher

SHARDS = [Shard(f"s3://b/{number}.arrow") for number in range(8)]


class Store:
    """Downloads that are noted, may be held up, and may fail."""

    def __init__(self) -> None:
        self.downloads: list[str] = []
        self.under_way = 0
        self.most_under_way = 0
        self.open = threading.Event()
        self.open.set()
        self.failing: set[str] = set()
        self._lock = threading.Lock()

    def download(self, uri: str, local: Path) -> None:
        with self._lock:
            self.downloads.append(uri)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        assert self.open.wait(10)
        with self._lock:
            self.under_way -= 1
        if uri in self.failing:
            raise StorageError(f"{uri}: failed")
        local.write_bytes(uri.encode().ljust(1000))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(object_store, "download_file", store.download)
    return store


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., ShardPrefetcher]]:
    made: list[ShardPrefetcher] = []

    def prefetcher(max_bytes: int = 10**6, **options: int) -> ShardPrefetcher:
        made.append(ShardPrefetcher(ShardCache(tmp_path / "cache", max_bytes), **options))
        return made[-1]

    yield prefetcher
    for one in made:
        one.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shards-")]


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def drop(tmp_path: Path, shard: Shard) -> None:
    """As another process would: only if nobody holds it."""
    other = ShardCache(tmp_path / "cache", 10**6)
    other.drop(other.path(shard.uri))


def on_disk(tmp_path: Path) -> int:
    return len(list((tmp_path / "cache").glob("*.shard")))


def test_shards_are_fetched_in_order_by_few_threads_before_they_are_asked_for(
    store: Store, make: Callable[..., ShardPrefetcher], tmp_path: Path
) -> None:
    store.open.clear()
    prefetcher = make(num_threads=2)
    prefetcher.prefetch(SHARDS)
    until(lambda: store.under_way == 2)
    assert sorted(store.downloads) == [SHARDS[0].uri, SHARDS[1].uri]
    store.open.set()
    until(lambda: on_disk(tmp_path) == 8 and store.under_way == 0)
    assert store.most_under_way == 2
    for shard in SHARDS:
        assert prefetcher.fetch(shard.uri).read_bytes().strip() == shard.uri.encode()
    assert len(store.downloads) == 8 and prefetcher.counts.hits == 8


def test_a_shard_under_way_is_waited_for_and_not_fetched_twice(
    store: Store, make: Callable[..., ShardPrefetcher]
) -> None:
    store.open.clear()
    prefetcher = make()
    prefetcher.prefetch(SHARDS[:1])
    until(lambda: store.under_way == 1)
    threading.Timer(0.1, store.open.set).start()
    assert prefetcher.fetch(SHARDS[0].uri).exists()
    assert store.downloads == [SHARDS[0].uri]


def test_an_exact_one_fetches_what_is_named_and_lets_who_asks_for_more_wait(
    store: Store, make: Callable[..., ShardPrefetcher], tmp_path: Path
) -> None:
    prefetcher = make(exact=True)
    prefetcher.prefetch(SHARDS[:3])
    until(lambda: on_disk(tmp_path) == 3)
    got: list[Path] = []
    reader = threading.Thread(target=lambda: got.append(prefetcher.fetch(SHARDS[3].uri)))
    reader.start()
    time.sleep(0.1)
    assert not got and on_disk(tmp_path) == 3
    prefetcher.let_go(SHARDS[0])
    prefetcher.prefetch(SHARDS[1:4])
    reader.join(10)
    assert got and len(store.downloads) == 4


def test_who_waits_for_a_shard_when_it_is_closed_gets_an_error(make: Callable[..., ShardPrefetcher]) -> None:
    prefetcher = make(exact=True)
    threading.Timer(0.1, prefetcher.close).start()
    with pytest.raises(StorageError, match=r"0\.arrow: not fetched, because reading has ended"):
        prefetcher.fetch(SHARDS[0].uri)


def test_what_was_fetched_ahead_is_not_pushed_out_by_what_comes_later(
    store: Store, make: Callable[..., ShardPrefetcher], tmp_path: Path
) -> None:
    prefetcher = make(max_bytes=3500, num_threads=1)
    prefetcher.prefetch(SHARDS)
    until(lambda: on_disk(tmp_path) == 3)
    for shard in SHARDS:
        prefetcher.fetch(shard.uri)
        prefetcher.release(shard)
    # Each once; a reader that comes before the thread fetches for itself, so their order may differ.
    assert sorted(store.downloads) == [shard.uri for shard in SHARDS]
    assert on_disk(tmp_path) == 3


def test_an_error_comes_where_the_shard_is_asked_for(store: Store, make: Callable[..., ShardPrefetcher]) -> None:
    store.failing = {SHARDS[1].uri}
    prefetcher = make()
    prefetcher.prefetch(SHARDS[:3])
    assert prefetcher.fetch(SHARDS[0].uri) and prefetcher.fetch(SHARDS[2].uri)
    with pytest.raises(StorageError, match=r"1\.arrow: failed"):
        prefetcher.fetch(SHARDS[1].uri)
    store.failing = set()
    assert prefetcher.fetch(SHARDS[1].uri).exists()  # asked for again, tried again


def test_a_shard_that_nobody_foresaw_is_fetched_at_once_even_when_there_is_no_room(
    store: Store, make: Callable[..., ShardPrefetcher], tmp_path: Path
) -> None:
    prefetcher = make(max_bytes=2500, num_threads=1)
    prefetcher.prefetch(SHARDS[:4])
    until(lambda: on_disk(tmp_path) == 2)
    assert prefetcher.fetch(SHARDS[7].uri).exists()


def test_a_shard_let_go_of_while_it_is_fetched_is_not_fetched_any_more_then(
    store: Store, make: Callable[..., ShardPrefetcher], tmp_path: Path
) -> None:
    store.open.clear()
    prefetcher = make(exact=True)
    prefetcher.prefetch(SHARDS[:1])
    until(lambda: store.under_way == 1)
    threading.Timer(0.1, store.open.set).start()
    prefetcher.let_go(SHARDS[0])
    assert store.downloads == [SHARDS[0].uri] and store.under_way == 0
    drop(tmp_path, SHARDS[0])
    assert on_disk(tmp_path) == 0


def test_a_shard_released_while_it_is_fetched_is_not_held(
    store: Store, make: Callable[..., ShardPrefetcher], tmp_path: Path
) -> None:
    store.open.clear()
    prefetcher = make()
    prefetcher.prefetch(SHARDS[:1])
    until(lambda: store.under_way == 1)
    prefetcher.release(SHARDS[0])
    store.open.set()
    until(lambda: store.under_way == 0 and on_disk(tmp_path) == 1)
    time.sleep(0.05)
    drop(tmp_path, SHARDS[0])
    assert on_disk(tmp_path) == 0


def test_local_shards_are_left_alone(make: Callable[..., ShardPrefetcher], tmp_path: Path) -> None:
    path = tmp_path / "0.arrow"
    path.write_bytes(b"x")
    prefetcher = make()
    prefetcher.prefetch([Shard(str(path))])
    assert prefetcher.fetch(str(path)) == path
    prefetcher.let_go(Shard(str(path)))
    assert path.exists() and not (tmp_path / "cache").exists()
