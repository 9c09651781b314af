import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster
from tones import tone_config

from tuning.records import Records, TrialRecord
from tuning.runner import run_sweep, sweep_folder
from tuning.settings import SweepConfig
from tuning.spaces import Space

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Audience:
    """Notes which trials have ended, and on which nodes trials have been."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.nodes: set[str] = set()

    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        if kind == "end" and changed.has_ended:
            self.ended.append(changed.number)
        if kind == "evaluation":
            self.nodes |= set(nodes_that_train())


def nodes_that_train() -> list[str]:
    """Nodes with a process that trains, that of the youngest one last."""
    running = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
    names = ("ImplicitFunc", "RayTrainWorker")
    trainers = [actor for actor in running if actor["ActorClassName"].rpartition(".")[2] in names]
    workers = {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
    ordered = sorted(trainers, key=lambda actor: actor["StartTime"])
    return [actor["Address"]["NodeID"] for actor in ordered if actor["Address"]["NodeID"] in workers]


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


@pytest.mark.parametrize(("workers", "rates"), [(1, [0.03, 0.02, 0.01, 0.005]), (2, [0.03, 0.02])])
def test_trials_spread_over_nodes_and_a_lost_node_loses_no_finished_trial(
    nodes: Cluster, tones: Path, tmp_path: Path, workers: int, rates: list[float]
) -> None:
    overrides = ["training.epochs=30", "training.evaluate_every_epochs=5", f"cluster.num_workers={workers}"]
    config = tone_config(tones, tmp_path, *overrides)
    space = {"optimizer.lr": {"choice": rates}}
    sweep = SweepConfig.model_validate(
        {"name": "s", "space": space, "search": "grid", "scheduler": "none", "max_retries": 4}
    )
    records, audience = Records(sweep_folder(config, sweep)), Audience()
    before: dict[int, TrialRecord] = {}
    last = len(rates) - 1  # given when another one has ended

    def lose_a_node() -> None:
        while last not in records.by_number or not records.by_number[last].evaluations:
            time.sleep(0.05)
        before.update({number: records.by_number[number] for number in list(audience.ended)})
        its = nodes_that_train()[-1]
        nodes.remove_node(next(node for node in nodes.worker_nodes if node.node_id == its), allow_graceful=False)

    thread = threading.Thread(target=lose_a_node, daemon=True)
    thread.start()
    run_sweep(config, sweep, Space(sweep.space, config, source="s.yaml"), records, audience)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert len(audience.nodes) == 3 if workers == 1 else len(audience.nodes) >= 2
    assert sum(node["Alive"] for node in ray.nodes()) == 3  # the head and two
    assert before and all(records.by_number[number] == record for number, record in before.items())
    assert [record.status for record in records] == ["finished"] * len(rates)
    assert all(record.evaluations[-1].epoch == 30 for record in records)
    attempts = [len(record.attempts) for record in records]
    assert attempts[last] >= 2, attempts  # taken up again
