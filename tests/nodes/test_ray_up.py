import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import REPOSITORY, Machines, why_not
from ssh_machines import Laptop, why_no_ssh
from tones import CONFIG_FILE, prepare_tones
from tones_on_store import tones_overrides

REASON = why_not() or why_no_ssh()
pytestmark = [pytest.mark.nodes, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
WORKERS = "cluster={num_workers: 2, wait_for_nodes_s: 120, placement: STRICT_SPREAD}"
WORKERS_END_S = 120
"""Raylets give up when their head has been gone for a minute."""


@pytest.fixture
def laptop() -> Iterator[Laptop]:
    with Machines(4) as machines:
        yield Laptop(machines, 3, REPOSITORY / "clusters" / "on-premise.yaml")


def test_a_cluster_is_launched_over_ssh_takes_jobs_only_with_the_token_and_is_ended(laptop: Laptop) -> None:
    laptop.ray("get-auth-token", "--generate")
    laptop.ray("up", "--yes", "--no-config-cache", str(laptop.file))
    try:
        assert "Autoscaler status" in laptop.ray("exec", str(laptop.file), "ray status")
        laptop.tunnel()
        with pytest.raises(RuntimeError, match=r"[Aa]uthentication"):
            stranger = ("job", "list", "--address", "http://127.0.0.1:8265")
            laptop.ray(*stranger, variables={"RAY_AUTH_MODE": "disabled"}, timeout_s=120)
        assert train(laptop) == 12
    finally:
        laptop.ray("down", "--yes", str(laptop.file))
    head, *workers = laptop.nodes
    assert not head.pids("raylet") and not head.pids("gcs_server")
    deadline_s = time.monotonic() + WORKERS_END_S
    while any(node.pids("raylet") for node in workers):
        assert time.monotonic() < deadline_s, "workers outlive their head"
        time.sleep(1)


def train(laptop: Laptop) -> int:
    """Submit a training with a worker on each of the two nodes that work; the steps that it made."""
    data = laptop.shared / "data"
    prepare_tones(data)
    overrides = tones_overrides(str(data), str(data / "run"), "training.epochs=3", WORKERS)
    output = laptop.submit("python", "-m", "jobs.train", str(CONFIG_FILE.relative_to(REPOSITORY)), *overrides)
    assert "succeeded" in output
    summary = json.loads(Path(data / "run" / "summary.json").read_text())
    assert summary["finished"]
    return int(summary["global_step"])
