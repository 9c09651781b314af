import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from test_source import manifest, source  # noqa: F401  the fixture, and what reads it

from jasper_ray.data.fetch_ahead import NUM_AHEAD, FetchAhead
from jasper_ray.data.manifest import Manifest
from jasper_ray.errors import StorageError
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import SHARD_SUFFIX

SHARDS = [(f"s3://bucket/{number}", str(number)) for number in range(2 * NUM_AHEAD)]


class Recorder:
    """A cache that notes what was asked of it; one shard is not to be had."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def fetch(self, uri: str, *, checksum: str = "") -> Path:
        self.asked.append(uri)
        if checksum == "1":
            raise StorageError("not to be had")
        return Path(checksum)


def eventually(holds: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return holds()


def test_shards_come_in_order_and_no_more_than_are_allowed_ahead() -> None:
    cache = Recorder()
    ahead = FetchAhead(cache, [("/local/shard", ""), *SHARDS])
    try:
        assert eventually(lambda: len(cache.asked) == NUM_AHEAD)
        time.sleep(0.05)
        assert sorted(cache.asked) == sorted(uri for uri, _ in SHARDS[:NUM_AHEAD])
        ahead.reach()
        assert eventually(lambda: len(cache.asked) == NUM_AHEAD + 1)
        assert cache.asked[-1] == SHARDS[NUM_AHEAD][0]
    finally:
        ahead.close()
    assert len(cache.asked) == NUM_AHEAD + 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shards-ahead")]


def test_batches_are_the_microbatches_while_their_shards_are_fetched(
    manifest: Manifest,  # noqa: F811
    tmp_path: Path,
    s3_bucket: str,
) -> None:
    remote = f"{s3_bucket}/{tmp_path.name}"
    object_store.upload_folder(tmp_path / "dataset", remote, last="")
    there = replace(manifest, shards=[uri.replace(str(tmp_path / "dataset"), remote) for uri in manifest.shards])
    shares = [np.array(rows) for rows in ([0, 4], [5, 1], [2, 3])]
    reader = source(there, tmp_path, augment=None)
    batches = reader.batches(shares)
    first = next(batches)
    assert eventually(lambda: len(list((tmp_path / "cache").glob(f"*{SHARD_SUFFIX}"))) == 3)
    for found, rows in zip([first, *batches], shares, strict=True):
        assert found == source(manifest, tmp_path, augment=None).microbatch(rows.tolist(), 0)
