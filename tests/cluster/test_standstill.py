import sys
import threading
import time
from collections.abc import Callable

import torch

from jasper_ray.cluster import events
from jasper_ray.cluster.events import EventBoard
from jasper_ray.cluster.standstill import Beat, Sight, describe, held_up_by, sight
from jasper_ray.storage.retries import retried
from jasper_ray.training.writer import BackgroundWriter


def beat(place: str = "load in data/torch_loader.py, line 7", *, waits: bool, stuck_s: float, batches: int = 9) -> Beat:
    return Beat("node-1 (10.0.0.1)", batches, place, waits, stuck_s)


def seen(work: Callable[[], object], release: Callable[[], object]) -> Sight:
    """Where a thread stands that does this."""
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    assert thread.ident is not None
    found = sight(sys._current_frames()[thread.ident])
    release()
    thread.join()
    return found


def test_the_worker_that_stands_elsewhere_is_named_with_its_place_and_not_those_that_wait_for_it() -> None:
    beats = {0: beat(waits=True, stuck_s=40), 1: beat(waits=False, stuck_s=41), 2: beat(waits=True, stuck_s=39)}
    assert held_up_by(beats, after_s=30) == [1]
    assert describe(beats, [1]) == (
        "workers 0, 2 wait in a collective operation for worker 1 on node-1 (10.0.0.1), for 41 s in load in "
        "data/torch_loader.py, line 7"
    )


def test_a_worker_that_is_batches_behind_is_named_even_if_it_waits_as_well() -> None:
    beats = {0: beat(waits=True, stuck_s=40, batches=9), 1: beat(waits=True, stuck_s=40, batches=5)}
    assert held_up_by(beats, after_s=30) == [1]
    uneven = {0: beat(waits=True, stuck_s=40, batches=9), 1: beat(waits=True, stuck_s=40, batches=8)}
    assert held_up_by(uneven, after_s=30) == []


def test_nobody_is_named_before_the_time_or_where_nobody_waits_or_all_do() -> None:
    early = {0: beat(waits=True, stuck_s=20), 1: beat(waits=False, stuck_s=20)}
    begun = {0: beat(waits=True, stuck_s=40), 1: beat(waits=False, stuck_s=5)}
    busy = {0: beat(waits=False, stuck_s=400), 1: beat(waits=False, stuck_s=400)}
    network = {0: beat(waits=True, stuck_s=400), 1: beat(waits=True, stuck_s=400)}
    assert [held_up_by(beats, after_s=30) for beats in (early, begun, busy, network, {})] == [[], [], [], [], []]


def test_a_thread_is_seen_in_the_innermost_of_our_functions() -> None:
    go_on, writer = threading.Event(), BackgroundWriter()
    writer.submit(go_on.wait, lambda: None)
    found = seen(writer.wait, go_on.set)
    writer.close()
    assert found.function == "wait in training/writer.py" and found.line > 1 and not found.waits
    go_on = threading.Event()
    found = seen(lambda: retried("s3://b/x", "store", go_on.wait), go_on.set)
    assert found.function == "retried in storage/retries.py" and not found.waits
    go_on = threading.Event()
    assert seen(go_on.wait, go_on.set) == Sight("code that is not ours", 0, waits=False)


def test_a_thread_in_a_backward_pass_that_we_began_waits_for_the_others() -> None:
    go_on = threading.Event()
    weight = torch.ones(1, requires_grad=True)
    weight.register_hook(lambda _: go_on.wait() and None)
    assert seen(lambda: retried("", "", lambda: weight.sum().backward()), go_on.set).waits


def test_the_board_warns_once_then_tells_the_worker_to_end_and_forgets_with_a_new_group(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(events, "JUDGED_EVERY_S", -1.0)
    board = EventBoard(ended_s=100)
    board.push("progress", {"global_step": 8})
    for stuck_s in (10.0, 40.0, 50.0, 101.0, 102.0):
        assert not board.beat("a", 0, beat(waits=True, stuck_s=stuck_s))
        assert board.beat("a", 1, beat(waits=False, stuck_s=stuck_s)) == (stuck_s > 100)
    kinds = [(kind, values["global_step"], str(values.get("message"))[:5]) for kind, values in board.drain()]
    assert kinds == [("progress", 8, "None"), ("warning", 8, "worke"), ("warning", 8, "ended")]
    assert not board.beat("b", 1, beat(waits=False, stuck_s=200.0))
    assert not board.beat("b", 0, beat(waits=False, stuck_s=200.0)) and board.drain() == []


def test_a_worker_that_is_done_is_not_waited_for(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(events, "JUDGED_EVERY_S", -1.0)
    board = EventBoard(ended_s=100)
    board.beat("a", 1, beat(waits=False, stuck_s=200.0))
    board.leave("a", 1)
    assert not board.beat("a", 0, beat(waits=True, stuck_s=200.0)) and board.drain() == []
