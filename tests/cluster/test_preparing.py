"""Preparation on a Ray cluster of two nodes: whatever dies, the dataset is that of one undisturbed process."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from local_nodes import NODE, local_nodes
from processes import command_line, descendants
from ray.cluster_utils import Cluster

from jasper_ray.cluster.preparing import TASK_NAME, OnTheCluster
from jasper_ray.config.data import CorpusConfig, PreparationConfig
from jasper_ray.data.preparation import PreparationReport, prepare_dataset
from jasper_ray.errors import CapacityError, DataError

pytestmark = pytest.mark.ray

NUM_SHARDS = 8
# Copies of long recordings at other speeds, so that a shard takes about half a second.
CONFIG = PreparationConfig(shard_mb=10.0, speeds=(0.9, 1.1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with local_nodes(1, head_cpus=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of a minute to each shard, and one file that is none."""
    folder = tmp_path_factory.mktemp("corpus")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).normal(scale=0.1, size=60 * 16000), 16000, format="WAV")
    (folder / "long.wav").write_bytes(buffer.getvalue())
    (folder / "bad.wav").write_bytes(b"x" * 1_900_000)
    rows = [{"audio": "long.wav", "text": "ab", "id": f"u{number}"} for number in range(2 * NUM_SHARDS)]
    rows[3]["audio"] = "bad.wav"
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset as this process makes it alone."""
    target = tmp_path_factory.mktemp("undisturbed")
    report = prepare_dataset([CorpusConfig(source=str(corpus))], str(target), alphabet="ab", config=CONFIG)
    assert (report.num_shards, len(report.rejections)) == (NUM_SHARDS, 1)
    return tree(target)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepare(corpus: Path, target: Path) -> PreparationReport:
    return prepare_dataset(
        [CorpusConfig(source=str(corpus))], str(target), alphabet="ab", config=CONFIG, run=OnTheCluster()
    )


def when_shards_are_done(target: Path, count: int, act: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        while len(list((target / "parts").glob("*.json"))) < count:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_worker_that_is_killed_is_replaced(
    cluster: Cluster, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    killed = []

    def kill_one_worker() -> None:
        deadline_s = time.monotonic() + 200
        while not killed and time.monotonic() < deadline_s:
            for pid in descendants(os.getpid()):
                if not killed and f"ray::{TASK_NAME}" in command_line(pid):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = when_shards_are_done(tmp_path, count, kill_one_worker)
    report = prepare(corpus, tmp_path)
    killer.join(timeout=300)
    assert killed and report.num_shards == NUM_SHARDS
    assert tree(tmp_path) == undisturbed


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_driver_that_is_killed_leaves_what_the_next_run_goes_on_from(
    cluster: Cluster, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    options = ["--alphabet", "ab", "--shard-mb", "10", "--speeds", "0.9,1.1"]
    command = [sys.executable, "-m", "jobs.prepare", corpus, tmp_path / "d", *options]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    when_shards_are_done(tmp_path / "d", count, driver.kill).join(timeout=300)
    assert driver.wait(timeout=300) == -signal.SIGKILL, driver.stderr.read() if driver.stderr else ""
    assert not (tmp_path / "d" / "manifest.parquet").exists()
    report = prepare(corpus, tmp_path / "d")
    assert count <= report.num_shards_found < NUM_SHARDS
    assert tree(tmp_path / "d") == undisturbed


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_node_that_is_lost_costs_only_the_shard_it_was_at(
    cluster: Cluster, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    lost = cluster.add_node(**NODE)
    killer = when_shards_are_done(tmp_path, count, lambda: cluster.remove_node(lost, allow_graceful=False))
    report = prepare(corpus, tmp_path)
    killer.join(timeout=300)
    assert report.num_shards == NUM_SHARDS and report.num_shards_found == 0
    assert tree(tmp_path) == undisturbed


def test_a_corpus_that_cannot_be_read_and_a_cluster_without_room_end_with_the_reason(
    cluster: Cluster, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "gone.wav").write_bytes(b"")
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"audio": "gone.wav", "text": "a", "id": "x"}) + "\n")

    def without_the_file(tasks):  # type: ignore[no-untyped-def]
        listed = list(tasks)
        (tmp_path / "gone.wav").unlink()
        return OnTheCluster()(iter(listed))

    with pytest.raises(DataError, match=r"gone\.wav cannot be read: No such file"):
        prepare_dataset([CorpusConfig(source=str(tmp_path))], str(tmp_path / "d"), alphabet="ab", run=without_the_file)
    with pytest.raises(CapacityError, match="a shard asks for 64 CPUs, the cluster's nodes have 1, 1"):
        prepare_dataset([CorpusConfig(source=str(corpus))], str(tmp_path / "d"), alphabet="ab", run=OnTheCluster(64))
