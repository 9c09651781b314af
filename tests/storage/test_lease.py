import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from jasper_ray.errors import LeaseError
from jasper_ray.storage import object_store
from jasper_ray.storage.lease import LEASE_FILE, Lease


def lease(folder: object, **changes: float) -> Lease:
    return Lease(str(folder), **{"renewed_s": 0.05, "expires_s": 0.5, **changes})


def write_foreign(folder: Path, **changes: object) -> None:
    found = {"owner": "other", "host": "there", "pid": 7, "boot": "another machine", "count": 1, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LEASE_FILE).write_text(json.dumps(found))


def test_a_second_run_is_refused_as_long_as_the_first_one_lives_and_told_where_that_is(tmp_path: Path) -> None:
    with lease(tmp_path) as first:
        with pytest.raises(LeaseError, match=r"is written by another run, process \d+ on .*choose another output"):
            lease(tmp_path).__enter__()
        first.still_ours()
    with lease(tmp_path):
        pass
    assert not (tmp_path / LEASE_FILE).exists()


def test_the_lease_of_a_run_that_has_gone_is_taken_over_when_it_has_not_changed_for_its_time(tmp_path: Path) -> None:
    write_foreign(tmp_path)
    started_s = time.monotonic()
    with lease(tmp_path) as ours:
        assert time.monotonic() - started_s >= 0.5
        ours.still_ours()


def test_a_run_whose_process_is_gone_from_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    script = f"from jasper_ray.storage.lease import Lease; import os; Lease({str(tmp_path)!r}).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert (tmp_path / LEASE_FILE).exists()
    started_s = time.monotonic()
    with lease(tmp_path, expires_s=60):
        assert time.monotonic() - started_s < 30


def test_a_run_learns_that_another_one_has_taken_its_lease_and_leaves_it_alone(tmp_path: Path) -> None:
    with lease(tmp_path) as ours:
        write_foreign(tmp_path)
        deadline_s = time.monotonic() + 20
        with pytest.raises(LeaseError, match="process 7 on there"):
            while time.monotonic() < deadline_s:
                ours.still_ours()
                time.sleep(0.02)
    assert json.loads((tmp_path / LEASE_FILE).read_text())["owner"] == "other"


def begin_at_once(folder: str, count: int) -> list[Lease]:
    """Those that got it."""
    barrier, won = threading.Barrier(count), []

    def begin() -> None:
        one = Lease(folder, renewed_s=0.5, expires_s=20)
        barrier.wait()
        with suppress(LeaseError):
            one.__enter__()
            won.append(one)

    threads = [threading.Thread(target=begin) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def is_ours(one: Lease) -> bool:
    try:
        one.still_ours()
    except LeaseError:
        return False
    return True


def test_of_several_that_begin_at_once_at_most_one_keeps_it(s3_bucket: str) -> None:
    """On a store whose If-None-Match lets several win; one that has lost may have to see that with a renewal."""
    for attempt in range(2):
        folder = f"{s3_bucket}/lease-{attempt}"
        won = begin_at_once(folder, 5)
        deadline_s = time.monotonic() + 30
        while sum(map(is_ours, won)) > 1 and time.monotonic() < deadline_s:
            time.sleep(0.1)
        keeping = [one for one in won if is_ours(one)]
        assert len(keeping) <= 1
        for one in won:
            one.__exit__(None, None, None)
        assert not keeping or not object_store.exists(f"{folder}/{LEASE_FILE}")
