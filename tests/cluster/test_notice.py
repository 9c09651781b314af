"""A node that is taken away after a notice, as spot machines are: the run saves before it goes."""

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import ray
from local_nodes import local_nodes
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2
from ray.util import placement_group_table
from tones import prepare_tones, tone_config

from jasper_ray.cluster.trainer import NOTICES_VARIABLE, run_training
from jasper_ray.training.report import read_log

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NOTICE_S = 20.0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that holds no worker, and three nodes of which two are needed."""
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    monkeypatch.setenv(NOTICES_VARIABLE, "1")  # a local cluster of an earlier test has switched it off
    with local_nodes(3, head_cpus=0) as cluster:
        yield cluster


class Events:
    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, object]]] = []

    def report(self, kind: str, values: Mapping[str, object]) -> None:
        self.events.append((kind, values))

    def of(self, kind: str) -> list[Mapping[str, object]]:
        return [values for name, values in self.events if name == kind]


def test_a_run_saves_when_a_node_is_about_to_be_taken_away_and_goes_on_without_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    prepare_tones(tmp_path, train=40, evaluation=4)
    config = tone_config(
        tmp_path,
        tmp_path / "run",
        "cluster={num_workers: 2, cpus_per_worker: 1, placement: STRICT_SPREAD}",
        "training={epochs: 3000, stop_after_steps: 2000, evaluate_every_epochs: 3000}",
        "checkpoint.every_epochs=3000",
    )

    def take_a_node_away() -> None:
        while not any(e["event"] == "progress" and e["global_step"] >= 20 for e in read_log(config.output)):
            time.sleep(0.1)
        busy = nodes_with_workers()
        lost = next(node for node in cluster.list_all_nodes() if node.node_id in busy)
        deadline_ms = int((time.time() + NOTICE_S) * 1000)
        client = ray._private.worker.global_worker.gcs_client
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why_not = client.drain_node(lost.node_id, reason, "taken away", deadline_ms)
        assert accepted, why_not
        time.sleep(NOTICE_S)
        cluster.remove_node(lost, allow_graceful=False)

    thief = threading.Thread(target=take_a_node_away, daemon=True)
    thief.start()
    heard = Events()
    figures = run_training(config, heard)
    thief.join(timeout=60)
    assert figures["global_step"] == 2000
    first, second = heard.of("start")
    (warning, *_) = heard.of("warning")
    assert "will be taken away in" in str(warning["message"])
    # No other checkpoint than those of the notice was due before the last step.
    saved = [int(str(values["global_step"])) for values in heard.of("checkpoint")]
    assert first["global_step"] == 0 and second["global_step"] in saved
    assert int(str(second["global_step"])) >= int(str(warning["global_step"])) >= 20


def nodes_with_workers() -> set[str]:
    groups = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    return {node for group in groups for node in group["bundles_to_node_id"].values()}
