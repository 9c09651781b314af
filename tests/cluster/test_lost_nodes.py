import time

import pytest
import ray
from local_nodes import NODE, local_nodes
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

from jasper_ray.cluster.lost_nodes import ForgetLostNodes, look_at_nodes_anew


@pytest.mark.ray
def test_the_coordinator_of_elastic_runs_forgets_a_dead_node_when_a_worker_fails() -> None:
    with local_nodes(1, head_cpus=1) as cluster:
        lost = cluster.add_node(**NODE)
        coordinator = get_or_create_autoscaling_coordinator()
        ask = {"resources": [{"CPU": 1}] * 3, "expire_after_s": 300}
        ray.get(coordinator.request_resources.remote("run", **ask))
        look_at_nodes_anew()
        reserved = coordinator.get_reserved_resources.remote
        assert len(ray.get(reserved("run"))) == 3
        cluster.remove_node(lost, allow_graceful=False)
        deadline_s = time.monotonic() + 60
        while sum(node["Alive"] for node in ray.nodes()) == 3 and time.monotonic() < deadline_s:
            time.sleep(0.1)
        ForgetLostNodes().after_exception(None, {})
        assert len(ray.get(reserved("run"))) == 2


def test_a_coordinator_that_does_not_answer_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    def silent() -> None:
        raise TimeoutError("nothing in 5 s")

    ForgetLostNodes(silent).after_exception(None, {})
    assert "nothing in 5 s" in caplog.text
