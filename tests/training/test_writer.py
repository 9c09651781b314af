import threading

import pytest
import torch

from jasper_ray.training.snapshot import host_copy
from jasper_ray.training.writer import BackgroundWriter


def test_the_caller_goes_on_while_something_is_written_and_hears_of_its_end_later() -> None:
    writer, let_go, heard = BackgroundWriter(), threading.Event(), list[str]()
    writer.submit(lambda: assert_set(let_go), lambda: heard.append("one"))
    writer.poll()
    assert heard == []
    let_go.set()
    writer.wait()
    assert heard == ["one"]
    writer.wait()
    writer.close()
    assert heard == ["one"]


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)


def test_only_one_thing_is_written_at_a_time_in_the_order_it_came() -> None:
    writer, order, running = BackgroundWriter(), list[int](), list[int]()

    def write(number: int) -> None:
        running.append(number)
        assert len(running) == 1
        order.append(number)
        running.remove(number)

    for number in range(5):
        writer.submit(lambda number=number: write(number), lambda: None)
    writer.wait()
    assert order == [0, 1, 2, 3, 4]
    writer.close()


@pytest.mark.parametrize("by_the_next", [False, True])
def test_an_error_of_the_writing_comes_back_once_and_nothing_is_called_done(by_the_next: bool) -> None:
    def fail() -> None:
        raise OSError("no space")

    writer, heard = BackgroundWriter(), list[str]()
    writer.submit(fail, lambda: heard.append("done"))
    with pytest.raises(OSError, match="no space"):
        if by_the_next:
            writer.submit(lambda: None, lambda: None)
        writer.wait()
    writer.wait()
    writer.close()
    assert heard == []


def test_a_copy_shares_nothing_with_its_original() -> None:
    original = {"a": torch.ones(2), "b": [{"c": torch.zeros(1)}, 3, "x"], "d": (torch.ones(1), None)}
    copied = host_copy(original)
    original["a"].fill_(7)
    original["b"][0]["c"].fill_(7)
    assert copied["a"].tolist() == [1, 1] and copied["b"][0]["c"].tolist() == [0]
    assert copied["b"][1:] == [3, "x"] and copied["d"][1] is None and isinstance(copied["d"], tuple)
