import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archive_server import ArchiveServer, Plan, serving

from jasper_ray.data.download import RemoteFile, download
from jasper_ray.data.transfer import DownloadOptions
from jasper_ray.errors import StorageError

CONTENT = np.random.default_rng(0).bytes(1_000_003)
CHUNK_BYTES = 150_000
QUICK = DownloadOptions(
    num_connections=3, chunk_bytes=CHUNK_BYTES, timeout_s=10.0, max_attempts=6, backoff_s=0.01, max_backoff_s=0.05
)

IMPATIENT = replace(QUICK, timeout_s=0.4)
"""For servers that hang."""


def fetch(
    folder: Path, *servers: ArchiveServer, content: bytes = CONTENT, options: DownloadOptions = QUICK
) -> tuple[Path, list[tuple[int, int]]]:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    file = RemoteFile("a.bin", len(content), md5, tuple(f"{server.url}a.bin" for server in servers))
    told: list[tuple[int, int]] = []
    path = download(file, folder, progress=lambda name, done, total: told.append((done, total)), options=options)
    return path, told


def test_a_file_comes_in_parallel_ranges_and_only_once(tmp_path: Path) -> None:
    with serving({"a.bin": CONTENT}) as server:
        for _ in range(2):
            path, _ = fetch(tmp_path / "new" / "folder", server)
            assert path.read_bytes() == CONTENT
        assert sorted(server.requests) == sorted(
            f"/a.bin bytes={first}-{min(first + CHUNK_BYTES, len(CONTENT)) - 1}"
            for first in range(0, len(CONTENT), CHUNK_BYTES)
        )
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir() if file.name[0] != "."] == ["a.bin"]


def test_progress_ends_with_all_of_it(tmp_path: Path) -> None:
    with serving({"a.bin": CONTENT}, bytes_per_s=1e6) as server:
        _, told = fetch(tmp_path, server)
    assert told[-1] == (len(CONTENT), len(CONTENT)) and len({done for done, _ in told}) > 2
    assert told == sorted(told)


PLANS: dict[str, Plan] = {
    "cuts": lambda number: "cut" if number % 2 == 0 else "ok",
    "cuts many times": lambda number: "cut" if number < 12 else "ok",
    "is busy": lambda number: "503" if number % 3 else "ok",
    "is busy at first": lambda number: "429" if number < 3 else "ok",
    "lacks it once": lambda number: "404" if number == 0 else "ok",
    "hangs": lambda number: "hang" if number in (0, 4) else "ok",
    "stalls": lambda number: "stall" if number in (1, 5) else "ok",
    "drips": lambda number: "drip" if number in (1, 5) else "ok",
    "has no ranges": lambda number: "whole",
    "has no ranges and cuts": lambda number: "whole cut" if number < 5 else "whole",
    "loses its ranges": lambda number: "ok" if number < 3 else "whole",
}


@pytest.mark.parametrize("name", PLANS, ids=lambda name: name.replace(" ", "-"))
def test_the_file_comes_whole_from_a_server_that(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving({"a.bin": CONTENT}, PLANS[name]) as server:
        path, _ = fetch(tmp_path, server, options=IMPATIENT if name in ("hangs", "stalls", "drips") else QUICK)
        assert path.read_bytes() == CONTENT and "came with MD5" not in caplog.text
        assert len(server.requests) > 1


def test_a_larger_file_comes_whole_through_all_faults_at_once(tmp_path: Path) -> None:
    content = CONTENT * 10
    faults = random.Random(7).choices(["ok", "cut", "503", "stall", "hang"], [80, 10, 6, 2, 2], k=10_000)
    with serving({"a.bin": content}, faults.__getitem__) as server:
        path, _ = fetch(tmp_path, server, content=content, options=replace(IMPATIENT, num_connections=8))
        assert path.read_bytes() == content
        assert {faults[number] for number in range(len(server.requests))} == set(faults)


def test_a_connection_that_is_cut_goes_on_where_it_ended(tmp_path: Path) -> None:
    with serving({"a.bin": CONTENT}, lambda number: "cut" if number < 4 else "ok") as server:
        fetch(tmp_path, server)
        assert server.num_sent == len(CONTENT)


@pytest.mark.parametrize(
    "action", ["503", "404", "hang", "long", "whole", "whole cut"], ids=lambda action: action.replace(" ", "-")
)
def test_the_next_mirror_serves_when_one_is_given_up(tmp_path: Path, action: str) -> None:
    with serving({"a.bin": CONTENT}, lambda _: action) as bad, serving({"a.bin": CONTENT}) as good:
        path, _ = fetch(tmp_path, bad, good, options=IMPATIENT if action == "hang" else QUICK)
        assert path.read_bytes() == CONTENT and bad.requests and good.requests


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("503", r"status 503"),
        ("404", r"status 404"),
        ("hang", r"no answer in time"),
        ("long", r"answers bytes .* of 1000003 with 'bytes .*/1000007'"),
        ("whole cut", r"the connection was cut at byte 500001"),
    ],
)
def test_mirrors_that_all_fail_are_named_with_their_reasons(tmp_path: Path, action: str, reason: str) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(serving({"a.bin": CONTENT}, lambda _: action)) for _ in range(2)]
        urls = [f"{server.url}a.bin: .*{reason}" for server in servers]
        with pytest.raises(StorageError, match=rf"a\.bin\.part cannot be fetched: {'.*; '.join(urls)}"):
            fetch(tmp_path, *servers, options=replace(IMPATIENT, max_attempts=3) if action == "hang" else QUICK)


def test_nobody_at_the_address_is_an_error_that_names_it(tmp_path: Path) -> None:
    with serving({}) as server:
        pass
    with pytest.raises(StorageError, match=r"a\.bin: no answer: .*refused"):
        fetch(tmp_path, server)


def test_wrong_bytes_are_fetched_once_more_from_the_next_mirror(tmp_path: Path) -> None:
    with serving({"a.bin": CONTENT}, lambda _: "wrong") as bad, serving({"a.bin": CONTENT}) as good:
        path, _ = fetch(tmp_path, bad, good)
        assert path.read_bytes() == CONTENT and len(bad.requests) == len(good.requests) == 7


def test_wrong_bytes_twice_are_an_error_with_both_sums_and_nothing_stays(tmp_path: Path) -> None:
    with (
        serving({"a.bin": CONTENT}, lambda _: "wrong") as server,
        pytest.raises(StorageError, match=r"a\.bin came with MD5 [0-9a-f]{32}, published is [0-9a-f]{32}: 2 downloads"),
    ):
        fetch(tmp_path, server)
    assert [file.name for file in tmp_path.iterdir()] == [".a.bin.lock"]


def test_a_damaged_file_of_that_name_is_fetched_anew(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1] + b"?")
    with serving({"a.bin": CONTENT}) as server:
        assert fetch(tmp_path, server)[0].read_bytes() == CONTENT


def test_what_has_come_before_an_error_is_not_fetched_again(tmp_path: Path) -> None:
    with serving({"a.bin": CONTENT}, lambda number: "ok" if number < 4 else "503") as server:
        with pytest.raises(StorageError, match="What has come so far is kept"):
            fetch(tmp_path, server)
        server.plan = lambda _: "ok"
        fetch(tmp_path, server)
        assert server.num_sent == len(CONTENT)


CHILD = """
import sys
from pathlib import Path
from jasper_ray.data.download import RemoteFile, download
from jasper_ray.data.transfer import DownloadOptions
url, folder, size = sys.argv[1:]
file = RemoteFile("a.bin", int(size), "", (url,))
download(file, Path(folder), progress=lambda *_: None, options=DownloadOptions(chunk_bytes=150_000, num_connections=3))
"""


def test_a_killed_process_is_gone_on_from(tmp_path: Path) -> None:
    with serving({"a.bin": CONTENT}, bytes_per_s=1.5e5) as server:
        child = subprocess.Popen([sys.executable, "-c", CHILD, f"{server.url}a.bin", tmp_path, str(len(CONTENT))])
        deadline_s = time.monotonic() + 30
        while server.num_sent < len(CONTENT) * 0.6 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        child.kill()
        child.wait()
        server.bytes_per_s, sent = 1e12, server.num_sent
        assert 0 < sent < len(CONTENT)
        path, told = fetch(tmp_path, server)
        assert path.read_bytes() == CONTENT
        # Half a second of what was on the way is lost at most.
        assert told[0][0] > sent / 2
        assert server.num_sent - sent < len(CONTENT) * 0.8


def test_downloads_of_the_same_file_at_the_same_time_fetch_it_once(tmp_path: Path) -> None:
    with serving({"a.bin": CONTENT}, bytes_per_s=2e6) as server:
        threads = [threading.Thread(target=fetch, args=(tmp_path, server)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.num_sent == len(CONTENT)


def test_too_small_a_disk_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with serving({"a.bin": CONTENT}) as server:
        with pytest.raises(StorageError, match=r"a\.bin needs 0\.00 GB more, .*Make room, or .*--download-dir"):
            fetch(tmp_path, server)
        assert server.requests == []


def test_a_disk_that_gets_full_is_an_error_and_what_has_come_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, room = os.pwrite, [600_000]

    def bounded(descriptor: int, content: bytes, position: int) -> int:
        if room[0] < len(content):
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(content)
        return pwrite(descriptor, content, position)

    monkeypatch.setattr(os, "pwrite", bounded)
    with serving({"a.bin": CONTENT}) as server:
        with pytest.raises(StorageError, match=rf"{tmp_path}: the disk is full .*--download-dir"):
            fetch(tmp_path, server)
        room[0] = 10**9
        path, told = fetch(tmp_path, server)
        assert path.read_bytes() == CONTENT and told[0][0] > 300_000
