"""cluster.yaml as far as moto's EC2 lets it: no machine answers SSH, everything before that is Ray's own code."""

import importlib.util
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto_aws import machines, moto_server
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider

REPOSITORY = Path(__file__).parent.parent.parent

if importlib.util.find_spec("moto") is None:
    pytest.skip("moto is not installed: pip install 'moto[server,ec2]'", allow_module_level=True)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """AWS by moto with our roles in it; gives `~`."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0" * 64)
    stub = home / "bin" / "ssh"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\nexit 255\n")  # nobody is there: at once, not after minutes
    stub.chmod(0o755)
    with moto_server(home) as environment, pytest.MonkeyPatch.context() as patch:
        environment["PATH"] = f"{stub.parent}:{environment['PATH']}"
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(REPOSITORY)
        command = ["python", "clusters/aws_roles.py", "speech", "--region", "us-west-2"]
        for _ in range(2):  # a second run renews
            subprocess.run(command, check=True, capture_output=True)
        yield home


def policy(role: str) -> list[dict[str, Any]]:
    document = boto3.client("iam").get_role_policy(RoleName=role, PolicyName=role)["PolicyDocument"]
    statements = json.loads(document)["Statement"] if isinstance(document, str) else document["Statement"]
    return list(statements)


def test_workers_may_use_one_bucket_and_start_no_machines(aws: Path) -> None:
    statements = policy("jasper-ray-worker")
    actions = [
        action for s in statements for action in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    ]
    assert not [action for action in actions if action.startswith(("ec2:", "iam:")) or action.endswith("*")]
    assert {s["Resource"] for s in statements if "s3:" in str(s["Action"])} == {
        "arn:aws:s3:::speech",
        "arn:aws:s3:::speech/*",
    }


def test_the_head_may_give_its_workers_their_role_and_no_other(aws: Path) -> None:
    (passing,) = [s for s in policy("jasper-ray-head") if s["Action"] == "iam:PassRole"]
    assert passing["Resource"].endswith(":role/jasper-ray-worker")


@pytest.mark.slow
def test_ray_up_makes_the_head_with_its_role_disk_and_group_and_ray_down_ends_it(aws: Path) -> None:
    with (aws / "up.log").open("w") as log:
        up = subprocess.Popen(["ray", "up", "-y", "--no-config-cache", "cluster.yaml"], stdout=log, stderr=log)
        try:
            deadline_s = time.monotonic() + 300
            while "SSH still not available" not in (aws / "up.log").read_text():
                assert up.poll() is None and time.monotonic() < deadline_s, (aws / "up.log").read_text()
                time.sleep(1)
        finally:
            up.kill()
            up.wait()
    (head,) = machines()
    assert head["InstanceType"] == "m6i.xlarge"
    assert head["IamInstanceProfile"]["Arn"].endswith("/jasper-ray-head")
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    _check_group(head)
    workers = _start_workers(2)
    assert {worker["InstanceType"] for worker in workers} == {"g5.12xlarge"}
    assert {worker["InstanceLifecycle"] for worker in workers} == {"spot"}
    assert all(worker["IamInstanceProfile"]["Arn"].endswith("/jasper-ray-worker") for worker in workers)
    volumes = boto3.client("ec2").describe_volumes()["Volumes"]
    assert sorted(volume["Size"] for volume in volumes) == [150, 300, 300]
    assert all(volume["Encrypted"] for volume in volumes)
    subprocess.run(["ray", "down", "-y", "cluster.yaml"], check=True, capture_output=True, timeout=300)
    assert machines() == []


def _check_group(machine: dict[str, Any]) -> None:
    """Nothing but SSH comes in from outside of the cluster."""
    (group,) = machine["SecurityGroups"]
    rules = boto3.client("ec2").describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"][0]
    outside = [rule for rule in rules["IpPermissions"] if rule.get("IpRanges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in outside] == [(22, 22)]
    inside = [rule for rule in rules["IpPermissions"] if rule.get("UserIdGroupPairs")]
    assert [pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]


def _start_workers(number: int) -> list[dict[str, Any]]:
    """As the autoscaler on the head does it."""
    config = _bootstrap_config(yaml.safe_load(Path("cluster.yaml").read_text()), no_config_cache=True)
    assert config["available_node_types"]["gpu_spot"]["resources"]["GPU"] == 4
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    tags = {"ray-node-type": "worker", "ray-user-node-type": "gpu_spot", "ray-node-name": "ray-jasper-worker"}
    for _ in range(number):  # Ray asks for 1 to `count` machines, and moto starts the fewest
        provider.create_node(config["available_node_types"]["gpu_spot"]["node_config"], tags, 1)
    return [machine for machine in machines() if machine["InstanceType"] != "m6i.xlarge"]
