import pytest

from jobs import serve


def test_a_free_port_is_none_that_ray_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class FirstOnly:
        def __contains__(self, port: int) -> bool:
            asked.append(port)
            return len(asked) == 1

    monkeypatch.setattr(serve, "RAYS_PORTS", FirstOnly())
    assert serve.free_port("127.0.0.1", 0) == asked[1] != asked[0]
