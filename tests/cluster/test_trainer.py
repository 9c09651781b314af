import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import ray
from processes import command_line, descendants
from tones import prepare_tones, run_workers, tone_config

from jasper_ray.cluster.room import require_capacity, workers_that_fit
from jasper_ray.cluster.trainer import connected_to_ray, run_training, store_variables
from jasper_ray.config.schema import ClusterConfig
from jasper_ray.errors import CapacityError, DataError, LeaseError
from jasper_ray.storage.lease import Lease
from jasper_ray.training.report import read_log

pytestmark = pytest.mark.ray


class Events:
    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, object]]] = []

    def report(self, kind: str, values: Mapping[str, object]) -> None:
        self.events.append((kind, values))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected_to_ray(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tones")
    prepare_tones(root)
    return root


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_is_replaced_and_the_run_ends_as_if_nothing_had_happened(tones: Path, tmp_path: Path) -> None:
    overrides = ["cluster.num_workers=2", "cluster.cpus_per_worker=0.5", "training.epochs=12"]
    whole = tone_config(tones, tmp_path / "whole", *overrides)
    run_workers(whole, 1)  # without Ray, and never interrupted
    config = tone_config(tones, tmp_path / "killed", *overrides)
    killed = threading.Event()

    def kill_one_worker() -> None:
        while not any(e["event"] == "checkpoint" for e in read_log(config.output)):
            time.sleep(0.05)
        workers = [pid for pid in descendants(os.getpid()) if "RayTrainWorker" in command_line(pid)]
        os.kill(workers[0], signal.SIGKILL)
        killed.set()

    thread = threading.Thread(target=kill_one_worker, daemon=True)
    thread.start()
    events = Events()
    figures = run_training(config, events)
    assert killed.is_set() and figures["finished"] and figures["global_step"] == 48
    assert Path(figures["bundle"]).is_dir()
    kinds = [kind for kind, _ in events.events]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("start") == 2 and kinds.count("progress") >= 48
    assert events.events[0][1]["workers"] == 2
    pairs = [
        {e["global_step"]: e["loss"] for e in read_log(run.output) if e["event"] == "progress"}
        for run in (whole, config)
    ]
    # Sums in another order; each step builds on the one before. Measured (2026-11, 2 CPU cores), relative: 6e-8 at
    # step 2, 5e-7 at step 8, 9e-5 at step 24, 1.5e-3 at step 40.
    assert pairs[1] == pytest.approx(pairs[0], rel=5e-3)
    assert {step: pairs[1][step] for step in range(1, 9)} == pytest.approx(
        {step: pairs[0][step] for step in range(1, 9)}, rel=1e-5
    )


@pytest.mark.usefixtures("cluster")
def test_a_run_that_the_cluster_cannot_hold_is_refused_at_once_with_both_numbers() -> None:
    with pytest.raises(CapacityError, match=r"asks for 3 workers of 1 CPU each, the cluster holds 2 of them.*2 CPU"):
        require_capacity(ClusterConfig(num_workers=3))
    with pytest.raises(CapacityError, match=r"1 CPU and 1 GPU each, the cluster holds 0"):
        require_capacity(ClusterConfig(use_gpu=True))


@pytest.mark.usefixtures("cluster")
def test_a_second_run_into_one_output_is_refused(tones: Path, tmp_path: Path) -> None:
    config = tone_config(tones, tmp_path / "run", "cluster.cpus_per_worker=0.5")
    with Lease(config.output), pytest.raises(LeaseError, match=r"is written by another run, process \d+ on"):
        run_training(config, Events())


@pytest.mark.usefixtures("cluster")
def test_a_folder_that_is_no_dataset_is_refused_before_workers_start(tones: Path, tmp_path: Path) -> None:
    started_s = time.monotonic()
    with pytest.raises(DataError, match=r"nowhere"):
        run_training(tone_config(tones, tmp_path, "data.evaluation=[{path: /nowhere}]"), Events())
    assert time.monotonic() - started_s < 5


@pytest.mark.parametrize(
    ("resources", "config", "expected"),
    [
        ({"CPU": 4.0}, ClusterConfig(cpus_per_worker=1.5), 2),
        ({"CPU": 1.0}, ClusterConfig(cpus_per_worker=0.1), 10),
        ({"CPU": 8.0, "GPU": 2.0}, ClusterConfig(use_gpu=True), 2),
        ({}, ClusterConfig(), 0),
    ],
)
def test_workers_that_fit_on_a_node(resources: dict[str, float], config: ClusterConfig, expected: int) -> None:
    assert workers_that_fit(resources, config) == expected


def test_ray_is_shut_down_when_the_block_ends() -> None:
    if not ray.is_initialized():
        with connected_to_ray(num_cpus=1):
            assert ray.is_initialized()
        assert not ray.is_initialized()


def test_workers_learn_of_the_store_what_the_job_was_not_submitted_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://there")
    monkeypatch.setenv("AWS_REGION", "r")
    assert store_variables().items() >= {"AWS_ENDPOINT_URL": "http://there", "AWS_REGION": "r"}.items()
    submitted = {"runtime_env": {"env_vars": {"AWS_REGION": "r"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    assert "AWS_REGION" not in store_variables() and "AWS_REQUEST_CHECKSUM_CALCULATION" in store_variables()


@pytest.mark.usefixtures("cluster")
def test_a_task_of_the_cluster_has_the_checksum_setting_that_ceph_needs() -> None:
    variable = ray.remote(num_cpus=0)(lambda: os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION"))
    assert ray.get(variable.remote()) == "when_required"
