"""Evaluation and transcription on a Ray cluster of two nodes: whatever dies, the figures are those of one process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from local_nodes import NODE, local_nodes
from processes import command_line, descendants
from random_bundle import save_random_bundle
from ray.cluster_utils import Cluster
from tones import prepare_tones

from jasper_ray.cluster.handing_out import HandingOut
from jasper_ray.errors import CapacityError

pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).parents[2]
NUM_UTTERANCES = 100


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with local_nodes(1, head_cpus=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, its files, a bundle, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("pieces")
    prepare_tones(folder, train=1, evaluation=NUM_UTTERANCES)
    save_random_bundle(folder / "bundle")
    files = [folder / "evaluation-corpus" / f"{number}.wav" for number in range(NUM_UTTERANCES)]
    (folder / "files.txt").write_text("\n".join(map(str, files)))
    figures(start(*evaluation(folder, folder), "--on", "here"))
    figures(start(*transcription(folder, folder), "--on", "here"))
    return folder


def evaluation(world: Path, output: Path) -> list[object]:
    what = [world / "bundle", world / "evaluation", "--threads", 1, "--piece-seconds", 0.1]
    return ["jobs.evaluate", *what, "--work", output / "work", "--predictions", output / "predictions.jsonl"]


def transcription(world: Path, output: Path) -> list[object]:
    return ["jobs.transcribe", world / "bundle", "--list", world / "files.txt", "--output", output / "files.jsonl"]


def start(*arguments: object, address: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = {**os.environ, "RAY_ADDRESS": address}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def figures(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def when_pieces_are_done(work: Path, count: int, act: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        while len(list(work.glob("piece-*.json"))) < count:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill_a_worker() -> None:
    for pid in descendants(os.getpid()):
        if "ray::evaluate-piece" in command_line(pid):
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError("no worker to kill")


def test_a_worker_and_a_node_that_die_cost_nothing_but_time(cluster: Cluster, world: Path, tmp_path: Path) -> None:
    lost = cluster.add_node(**NODE)
    killers = [
        when_pieces_are_done(tmp_path / "work", 5, kill_a_worker),
        when_pieces_are_done(tmp_path / "work", 20, lambda: cluster.remove_node(lost, allow_graceful=False)),
    ]
    found = figures(start(*evaluation(world, tmp_path), address=cluster.address))
    for killer in killers:
        killer.join(timeout=240)
    assert found["num_utterances"] == NUM_UTTERANCES
    assert (tmp_path / "predictions.jsonl").read_text() == (world / "predictions.jsonl").read_text()


def test_a_driver_that_dies_leaves_what_the_same_command_goes_on_from(
    cluster: Cluster, world: Path, tmp_path: Path
) -> None:
    driver = start(*evaluation(world, tmp_path), address=cluster.address)
    when_pieces_are_done(tmp_path / "work", 10, driver.kill).join(timeout=240)
    driver.communicate(timeout=240)
    assert driver.returncode == -signal.SIGKILL and not (tmp_path / "predictions.jsonl").exists()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("piece-*.json")}
    assert 10 <= len(finished) < NUM_UTTERANCES
    figures(start(*evaluation(world, tmp_path), address=cluster.address))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert (tmp_path / "predictions.jsonl").read_text() == (world / "predictions.jsonl").read_text()


def test_files_are_transcribed_on_all_nodes_in_their_order(cluster: Cluster, world: Path, tmp_path: Path) -> None:
    found = figures(start(*transcription(world, tmp_path), address=cluster.address))
    assert found["files"] == NUM_UTTERANCES
    assert (tmp_path / "files.jsonl").read_text() == (world / "files.jsonl").read_text()


def test_a_piece_that_no_node_can_hold_is_refused_with_what_the_nodes_have(cluster: Cluster) -> None:
    work = HandingOut(abs, name="x", what="a piece", num_cpus=1, num_gpus=1)
    with pytest.raises(CapacityError, match="a piece asks for 1 CPUs and 1 GPUs, the cluster's nodes have 1 and 0, 1"):
        list(work([1]))


def test_a_node_that_an_autoscaler_adds_is_waited_for(cluster: Cluster) -> None:
    work = HandingOut(abs, name="x", what="a piece", num_cpus=1, num_gpus=1, wait_for_nodes_s=60)
    with ThreadPoolExecutor(1) as pool:
        results = pool.submit(lambda: list(work([-3])))
        time.sleep(2)
        assert not results.done()
        cluster.add_node(num_gpus=1, **NODE)
        assert results.result(timeout=60) == [3]
