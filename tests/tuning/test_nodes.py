import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
from tones import tone_config

from tuning.records import Records, TrialRecord
from tuning.runner import run_sweep, sweep_folder
from tuning.settings import SweepConfig
from tuning.spaces import Space

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RATES = [0.03, 0.02, 0.01, 0.005, 0.001]


class Audience:
    """Notes when trials ended, and on which nodes workers have been."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.nodes: set[str] = set()

    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        if kind == "end" and changed.has_ended:
            self.ended.append(changed.number)
        for group in placement_group_table().values():
            if group["state"] == "CREATED":
                self.nodes |= set(group["bundles_to_node_id"].values())


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that holds no worker and three nodes of one CPU."""
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
    for _ in range(3):
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_trials_spread_over_nodes_and_a_lost_node_loses_no_finished_trial(
    nodes: Cluster, tones: Path, tmp_path: Path
) -> None:
    config = tone_config(
        tones, tmp_path, "training.epochs=30", "training.evaluate_every_epochs=5", "training.log_utterances=false"
    )
    rates = {"optimizer.lr": {"choice": RATES}}
    sweep = SweepConfig.model_validate(
        {"name": "s", "space": rates, "search": "grid", "scheduler": "none", "max_retries": 4}
    )
    records, audience = Records(sweep_folder(config, sweep)), Audience()
    before: dict[int, TrialRecord] = {}

    def lose_a_node() -> None:
        while not audience.ended:
            time.sleep(0.1)
        before.update({number: records.by_number[number] for number in audience.ended})
        nodes.remove_node(sorted(nodes.worker_nodes, key=lambda node: node.node_id)[0], allow_graceful=False)

    thread = threading.Thread(target=lose_a_node, daemon=True)
    thread.start()
    run_sweep(config, sweep, Space(sweep.space, config, source="s.yaml"), records, audience)
    thread.join()
    assert len(audience.nodes) == 3
    assert sum(node["Alive"] for node in ray.nodes()) == 3  # the head and two
    assert before and all(records.by_number[number] == record for number, record in before.items())
    assert [record.status for record in records] == ["finished"] * len(RATES)
    assert all(record.evaluations[-1].epoch == 30 for record in records)
    attempts = [len(record.attempts) for record in records]
    assert sum(attempts) > len(RATES), attempts  # somebody was taken up again
