import logging
import threading
import time

import pytest
from ray.exceptions import RaySystemError

from jasper_ray.cluster.room_watch import RoomWatch
from jasper_ray.config.schema import ClusterConfig
from jasper_ray.errors import CapacityError

CONFIG = ClusterConfig(num_workers=(2, 4))
MISSING = "the run asks for at least 2 workers"


def test_a_run_that_has_lost_its_room_for_too_long_is_ended_with_what_is_missing() -> None:
    ended = threading.Event()
    with RoomWatch(CONFIG, end_run=ended.set, look=lambda _: MISSING, look_s=0.01, patience_s=0.1) as watch:
        watch.still_room()
        started_s = time.monotonic()
        assert ended.wait(5) and time.monotonic() - started_s >= 0.08
        with pytest.raises(CapacityError, match=r"nodes were lost and none came in 0 s: the run asks for at least 2"):
            watch.still_room()


def test_a_run_that_does_not_hear_is_told_three_times_and_one_that_ends_is_not_told_again() -> None:
    times: list[float] = []
    settings = {"look": lambda _: MISSING, "look_s": 0.01, "patience_s": 0.0, "again_s": 0.05}
    with RoomWatch(CONFIG, end_run=lambda: times.append(time.monotonic()), **settings):
        time.sleep(1)
    assert len(times) == 3
    told = threading.Event()
    with RoomWatch(CONFIG, end_run=told.set, **(settings | {"again_s": 60.0})):
        assert told.wait(5)


def test_nodes_that_come_in_time_begin_the_count_anew(caplog: pytest.LogCaptureFixture) -> None:
    answers = [MISSING, MISSING, None] * 20
    ended = threading.Event()

    def look(_: ClusterConfig) -> str | None:
        return answers.pop(0) if answers else None

    caplog.set_level(logging.WARNING)
    with RoomWatch(CONFIG, end_run=ended.set, look=look, look_s=0.01, patience_s=0.5) as watch:
        while answers:
            time.sleep(0.01)
        watch.still_room()
    assert not ended.is_set() and sum(MISSING in record.message for record in caplog.records) == 20


def test_wait_for_nodes_s_is_the_patience_where_it_is_longer_and_silence_of_the_cluster_ends_nothing() -> None:
    ended = threading.Event()
    slow = CONFIG.model_copy(update={"wait_for_nodes_s": 60.0})
    with RoomWatch(slow, end_run=ended.set, look=lambda _: MISSING, look_s=0.01, patience_s=0.05):
        assert not ended.wait(0.5)

    def silent(_: ClusterConfig) -> str | None:
        raise RaySystemError("no answer")

    with RoomWatch(CONFIG, end_run=ended.set, look=silent, look_s=0.01, patience_s=0.05):
        assert not ended.wait(0.5)
