import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import REPOSITORY, Machines, why_not
from ssh_machines import Laptop, why_no_ssh
from tones_on_store import CONFIG_FILE, prepare_tones, tones_overrides

REASON = why_not() or why_no_ssh()
pytestmark = [pytest.mark.nodes, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Machines(4) as made:
        yield made


def test_a_cluster_is_launched_over_ssh_takes_jobs_only_with_the_token_and_is_ended(machines: Machines) -> None:
    laptop = Laptop(machines, 3, REPOSITORY / "clusters" / "on-premise.yaml")
    laptop.ray("get-auth-token", "--generate")
    laptop.ray("up", "--yes", "--no-config-cache", str(laptop.file))
    try:
        laptop.tunnel()
        data = machines.folder / "data"  # a folder that all machines share
        prepare_tones(data)
        overrides = ["training.epochs=2", "cluster={num_workers: 2, wait_for_nodes_s: 60, placement: STRICT_SPREAD}"]
        config = str(CONFIG_FILE.relative_to(REPOSITORY))
        command = ["python", "-m", "jobs.train", config, *tones_overrides(str(data), str(data / "run"), *overrides)]
        with pytest.raises(RuntimeError, match=r"[Aa]uthentication|[Uu]nauthenticated|[Tt]oken"):
            stranger = ["job", "list", "--address", "http://127.0.0.1:8265"]
            laptop.ray(*stranger, variables={"RAY_AUTH_MODE": "disabled"}, timeout_s=120)
        output = laptop.submit(*command)
        assert "succeeded" in output
        summary = json.loads(Path(data / "run" / "summary.json").read_text())
        assert summary["finished"] and summary["global_step"] == 8
    finally:
        laptop.ray("down", "--yes", str(laptop.file))
    assert all(not node.pids("raylet") for node in laptop.nodes)
