"""The head's power is cut in the middle of a run; with its state in Redis the cluster goes on when it is back."""

import shutil
import time
from collections.abc import Iterator

import pytest
from machines import why_not
from node_cluster import NodesCluster, nodes_cluster
from tones_on_store import CONFIG_FILE, put_tones, tones_overrides

from jasper_ray.training.report import read_log
from jobs.compare import compare

REASON = why_not() or (None if shutil.which("redis-server") else "no redis-server: apt-get install redis-server")
pytestmark = [pytest.mark.nodes, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
DATA = "s3://jasper/data"
EPOCHS, STEPS_PER_EPOCH = 60, 7
RUN = (f"training.epochs={EPOCHS}", "checkpoint.every_steps=10", "data.cache_dir=/tmp/shards", "optimizer.lr=0.0005")
WORKERS = "cluster={num_workers: 2, placement: STRICT_SPREAD, max_failures: 3}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodesCluster]:
    with nodes_cluster(2, redis=True) as made:
        put_tones(tmp_path_factory.mktemp("tones"), DATA, train=80)
        yield made


def test_a_run_on_other_nodes_outlives_the_head_and_the_cluster_takes_jobs_again(cluster: NodesCluster) -> None:
    """The job's driver is on a node that works, as `ray job submit --entrypoint-num-cpus` puts it."""
    first, _ = cluster.nodes
    overrides = tones_overrides(DATA, "s3://jasper/headless", *RUN, WORKERS)
    job = cluster.train(str(CONFIG_FILE), *overrides, machine=first)
    job.wait_for_step(25, timeout_s=300)
    cluster.head.kill()
    cut_s, step_at_cut = time.monotonic(), job.steps()[-1][1]
    time.sleep(10)
    during = job.steps()[-1][1]
    cluster.restart_head()
    print(f"head away for {time.monotonic() - cut_s:.0f} s; step {step_at_cut} at the cut, {during} 10 s later")
    assert job.end(400) == 0, job.tail()
    print(f"{len(job.starts())} starts; ended {time.monotonic() - cut_s:.0f} s after the cut")
    again = cluster.train(str(CONFIG_FILE), *tones_overrides(DATA, "s3://jasper/calm", *RUN, WORKERS), machine=first)
    assert again.end(400) == 0, again.tail()
    steps = [e["global_step"] for e in read_log("s3://jasper/headless") if e["event"] == "progress"]
    assert steps == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    figures = compare("s3://jasper/calm", "s3://jasper/headless")
    print(figures)
    assert figures["same_utterances"] and figures["max_relative_loss_difference"] < 1e-3
