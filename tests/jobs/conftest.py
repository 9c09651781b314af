"""A local Ray cluster that takes jobs, and one training submitted to it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobSubmissionClient
from submission import Submit, Submitted
from tones import prepare_tones

from jobs.serve import free_port

REPOSITORY = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")


@pytest.fixture(scope="package")
def dashboard() -> Iterator[str]:
    """A local cluster that takes jobs; its `python` is the one that runs these tests."""
    port = free_port("127.0.0.1", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        ray.init(
            address="local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=True, dashboard_port=port
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            ray.shutdown()


@pytest.fixture(scope="package")
def jobs(dashboard: str) -> JobSubmissionClient:
    """What the cluster knows of its jobs."""
    return JobSubmissionClient(dashboard)


@pytest.fixture(scope="package")
def submit(dashboard: str) -> Submit:
    """`submit(name, *arguments of jobs.train)`: the documented command, waiting for the job's end."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", "submit", "--address", dashboard, "--submission-id", name, "--working-dir", ".", "--"]
        deadline_s = time.monotonic() + 60
        while True:
            result = subprocess.run(
                [*command, "python", "-m", "jobs.train", *arguments],
                cwd=REPOSITORY,
                env={**os.environ, "RAY_ADDRESS": ""},
                capture_output=True,
                text=True,
                timeout=240,
            )
            # The dashboard answers before the agent that takes jobs is up.
            if "No available agent" not in result.stderr or time.monotonic() > deadline_s:
                return result
            time.sleep(1)

    return run


@pytest.fixture(scope="package")
def submitted(submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """The job `good`: a small training by two workers."""
    folder = tmp_path_factory.mktemp("submitted")
    prepare_tones(folder, train=24, evaluation=8)
    result = submit(
        "good",
        "tests/training/tones.yaml",
        f"data.train=[{{path: {folder}/train}}]",
        f"data.evaluation=[{{path: {folder}/evaluation}}]",
        f"output={folder}/run",
        "cluster={num_workers: 2, cpus_per_worker: 0.5}",
        "training.epochs=3",
    )
    return Submitted(result, folder)
