from typing import Any

import pytest
import ray

from jasper_ray.cluster import room
from jasper_ray.cluster.room import require_capacity
from jasper_ray.config.schema import ClusterConfig
from jasper_ray.errors import CapacityError

NODE = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}


class Autoscaler:
    """Adds a node for every bundle that is asked for, at the next look, up to its limit."""

    def __init__(self, limit: int) -> None:
        self.asked: list[list[dict[str, float]]] = []
        self._limit = limit

    def request_resources(self, *, bundles: list[dict[str, float]]) -> None:
        self.asked.append(bundles)

    def nodes(self) -> list[dict[str, Any]]:
        return [NODE] * min(self._limit, max((len(bundles) for bundles in self.asked), default=0))


@pytest.fixture
def autoscaler(monkeypatch: pytest.MonkeyPatch) -> Autoscaler:
    scaler = Autoscaler(limit=2)
    monkeypatch.setattr(ray, "nodes", scaler.nodes)
    monkeypatch.setattr(room, "request_resources", scaler.request_resources)
    monkeypatch.setattr(room, "POLL_S", 0.01)
    return scaler


def test_who_waits_for_nodes_asks_the_autoscaler_for_them_and_takes_the_request_back(autoscaler: Autoscaler) -> None:
    require_capacity(ClusterConfig(num_workers=2, use_gpu=True, wait_for_nodes_s=30))
    assert autoscaler.asked == [[{"CPU": 1.0, "GPU": 1.0}] * 2, []]


def test_more_than_an_autoscaler_gives_is_refused_after_the_wait(autoscaler: Autoscaler) -> None:
    with pytest.raises(CapacityError, match=r"asks for 3 workers .* the cluster holds 2"):
        require_capacity(ClusterConfig(num_workers=3, use_gpu=True, wait_for_nodes_s=0.1))
    assert autoscaler.asked[-1] == []


def test_who_does_not_wait_asks_for_nothing(autoscaler: Autoscaler) -> None:
    with pytest.raises(CapacityError, match="the cluster holds 0"):
        require_capacity(ClusterConfig(num_workers=1))
    assert autoscaler.asked == []
