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
    """Notes which trials have ended, and on which nodes workers have been."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.nodes: set[str] = set()

    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        if kind == "end" and changed.has_ended:
            self.ended.append(changed.number)
        self.nodes |= set(nodes_with_workers())


def nodes_with_workers() -> list[str]:
    groups = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    return [node for group in groups for node in group["bundles_to_node_id"].values()]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that holds no worker and three nodes of one CPU."""
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000})
    for _ in range(3):
        cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_trials_spread_over_nodes_and_a_lost_node_loses_no_finished_trial(
    nodes: Cluster, tones: Path, tmp_path: Path
) -> None:
    overrides = ["training.epochs=40", "training.evaluate_every_epochs=5", "training.log_utterances=false"]
    config = tone_config(tones, tmp_path, *overrides)
    rates = {"optimizer.lr": {"choice": RATES}}
    sweep = SweepConfig.model_validate(
        {"name": "s", "space": rates, "search": "grid", "scheduler": "none", "max_retries": 4}
    )
    records, audience = Records(sweep_folder(config, sweep)), Audience()
    before: dict[int, TrialRecord] = {}

    def lose_a_node() -> None:
        while not audience.ended or len(set(nodes_with_workers())) < 2:
            time.sleep(0.1)
        before.update({number: records.by_number[number] for number in audience.ended})
        busy = nodes_with_workers()
        nodes.remove_node(next(node for node in nodes.worker_nodes if node.node_id in busy), allow_graceful=False)

    thread = threading.Thread(target=lose_a_node, daemon=True)
    thread.start()
    run_sweep(config, sweep, Space(sweep.space, config, source="s.yaml"), records, audience)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert len(audience.nodes) == 3
    assert sum(node["Alive"] for node in ray.nodes()) == 3  # the head and two
    assert before and all(records.by_number[number] == record for number, record in before.items())
    assert [record.status for record in records] == ["finished"] * len(RATES)
    assert all(record.evaluations[-1].epoch == 40 for record in records)
    attempts = [len(record.attempts) for record in records]
    assert sum(attempts) > len(RATES), attempts  # somebody was taken up again
