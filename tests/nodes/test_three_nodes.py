import time
from collections.abc import Iterator

import pytest
from machines import why_not
from node_cluster import NodesCluster, nodes_cluster
from tones_on_store import CONFIG_FILE, put_tones, tones_overrides

from jasper_ray.training.report import read_log
from jobs.compare import compare

pytestmark = [pytest.mark.nodes, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
DATA = "s3://jasper/data"
RUN = ("training.epochs=3", "checkpoint.every_steps=4", "data.cache_dir=/tmp/shards", "optimizer.lr=0.002")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodesCluster]:
    with nodes_cluster(3) as made:
        put_tones(tmp_path_factory.mktemp("tones"), DATA, train=80)
        yield made


def train(cluster: NodesCluster, output: str, workers: str) -> list[int]:
    """Train to the end; the workers' numbers of each node while it ran."""
    job = cluster.train(str(CONFIG_FILE), *tones_overrides(DATA, output, *RUN, f"cluster={workers}"))
    job.wait_for_step(1, timeout_s=300)
    counts = [len(cluster.workers(node)) for node in cluster.nodes]
    assert job.end(300) == 0, job.tail()
    return counts


def test_three_nodes_with_a_worker_each_train_as_one_node_does_from_an_s3_server(cluster: NodesCluster) -> None:
    assert sorted(train(cluster, "s3://jasper/one", "{num_workers: 1}")) == [0, 0, 1]
    assert train(cluster, "s3://jasper/three", "{num_workers: 3, placement: STRICT_SPREAD}") == [1, 1, 1]
    figures = compare("s3://jasper/one", "s3://jasper/three")
    print(figures)
    assert figures["steps_compared"] == 21 and figures["steps_with_utterance_lists"] == 21
    assert figures["same_utterances"] and figures["max_relative_loss_difference"] < 1e-3
    assert figures["max_relative_evaluation_loss_difference"] < 1e-3
    assert [e["workers"] for e in read_log("s3://jasper/three") if e["event"] == "start"] == [3]


def test_the_worker_that_the_others_wait_for_is_named_and_ended(cluster: NodesCluster) -> None:
    """The one that writes checkpoints no longer reaches the store: it waits for that, and the others for it."""
    overrides = ["training.epochs=20", "cluster={num_workers: 3, collective_timeout_s: 30}"]
    job = cluster.train(str(CONFIG_FILE), *tones_overrides(DATA, "s3://jasper/held-up", *RUN[1:], *overrides))
    job.wait_for_step(10, timeout_s=300)
    writer = cluster.node_of(job.starts()[-1].host)
    with writer.not_reaching(cluster.store.machine.address):
        warned = job.wait_for_line("wait in a collective operation for worker 0", timeout_s=60)
        ended = job.wait_for_line("ended, to start again from the last checkpoint", timeout_s=60)
    print(warned.line, ended.line, sep="\n")
    assert "workers 1, 2 wait in a collective operation for worker 0 on " + writer.name in warned.line
    assert "in wait in training/writer.py, line" in warned.line and ended.time_s > warned.time_s
    job.wait_for_step(1, timeout_s=200, after_s=ended.time_s)
    assert job.end(300) == 0 and [start.num_workers for start in job.starts()] == [3, 3]


def test_a_second_run_into_the_same_output_is_refused_and_a_lost_range_of_nodes_is_named(cluster: NodesCluster) -> None:
    overrides = ["training.epochs=200", "cluster={num_workers: 3}"]
    first = cluster.train(str(CONFIG_FILE), *tones_overrides(DATA, "s3://jasper/long", *RUN[1:], *overrides))
    first.wait_for_step(5, timeout_s=300)
    second = cluster.train(str(CONFIG_FILE), *tones_overrides(DATA, "s3://jasper/long", *RUN[1:], *overrides))
    assert second.end(200) == 1 and "is written by another run" in second.tail(5)
    cluster.nodes[2].kill()
    assert first.end(200) == 1
    assert "asks for 3 workers of 1 CPU each, the cluster holds 2" in first.tail(5)


def test_an_elastic_run_below_its_fewest_workers_ends_within_a_minute_and_says_what_is_missing(
    cluster: NodesCluster,
) -> None:
    cluster.join_again(cluster.nodes[2])
    overrides = ["training.epochs=400", "cluster={num_workers: [3, 4], max_failures: 20}"]
    job = cluster.train(str(CONFIG_FILE), *tones_overrides(DATA, "s3://jasper/elastic", *RUN[1:], *overrides))
    job.wait_for_step(5, timeout_s=300)
    cluster.nodes[2].kill()
    lost_s = time.monotonic()
    assert job.end(200) == 1
    print(f"ended {time.monotonic() - lost_s:.0f} s after the node was lost")
    assert time.monotonic() - lost_s < 12 + 60
    assert "nodes were lost and none came in 30 s: the run asks for at least 3 workers of 1 CPU each" in job.tail(5)
    assert "the cluster holds 2" in job.tail(5)
