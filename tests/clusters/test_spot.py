"""Which machines Ray's autoscaler would start for a run on the cloud's files: its own scheduler says."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

REPOSITORY = Path(__file__).parent.parent.parent
DETECTED = {"g5.12xlarge": {"CPU": 48, "GPU": 4}}
"""What `ray up` asks AWS for."""


def node_types(config: dict[str, Any]) -> dict[str, NodeTypeConfig]:
    return {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=kind["min_workers"],
            max_worker_nodes=kind["max_workers"],
            priority=kind.get("priority", 0),
            resources=kind["resources"] or DETECTED[kind["node_config"]["InstanceType"]],
        )
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"]
    }


def launched(name: str, gpus: int, failed: str | None) -> dict[str, int]:
    """How many machines of which type are started for tasks of one GPU; of one type the last start failed just now."""
    config = prepare_config(yaml.safe_load((REPOSITORY / name).read_text()))
    availability = {failed: 0.0} if failed else {}
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=node_types(config),
        max_num_nodes=config["max_workers"],
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make({"GPU": 1, "CPU": 8}) for _ in range(gpus)]
        ),
        cloud_resource_availabilities=availability,
        recoverable_resource_availabilities=availability,
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


@pytest.mark.parametrize(("name", "gpus_per_node"), [("cluster.yaml", 4), ("clusters/gcp.yaml", 2)])
def test_work_for_gpus_starts_spot_machines(name: str, gpus_per_node: int) -> None:
    assert launched(name, gpus=8, failed=None) == {"gpu_spot": 8 // gpus_per_node}


@pytest.mark.parametrize(("name", "gpus_per_node"), [("cluster.yaml", 4), ("clusters/gcp.yaml", 2)])
def test_machines_at_full_price_take_over_when_there_are_no_spot_machines(name: str, gpus_per_node: int) -> None:
    assert launched(name, gpus=8, failed="gpu_spot") == {"gpu": 8 // gpus_per_node}


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/gcp.yaml"])
def test_nothing_is_started_without_work(name: str) -> None:
    assert launched(name, gpus=0, failed=None) == {}
